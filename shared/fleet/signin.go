package fleet

import (
	"fmt"
	"time"
)

// ByProgram reports whether the generation belongs to the program of its client,
// which signs in by itself. Nobody else renews it: neither the scheduler nor an
// agent may touch such a client, or two would replace each other's keys for
// ever. An operator hands it to the agent by a rotation with force.
func (g *Generation) ByProgram() bool { return g != nil && g.Agent == "" }

// LeftToProgram says why a rotation does not touch such a client.
func LeftToProgram(g *Generation) string {
	return fmt.Sprintf("its program renews it by signing in, from %s on; to hand it to the agent, name it with --client and use --force", g.RenewAt.UTC().Format(time.RFC3339))
}

// NobodyToTakeOver says why a client cannot be handed to an agent.
const NobodyToTakeOver = "there is no agent that could take it over from its program: join one"

// Handover reports whether a rotation takes the clients that it names from their
// programs and gives them to the agent.
func (r *Rotation) Handover() bool {
	return r.Reason == ReasonRotation && r.Force && len(r.Clients) > 0
}

// Claim is what a program has shown, and the key that it wants a generation for.
type Claim struct {
	Shown    int    // generation whose token was shown; 0 with a recovery token
	Recovery int    // generation that a recovery token is for; 0 with a token
	Key      string // JWK thumbprint of the key that asks (RFC 7638)
	Agent    string // id of the agent that is enrolled for the cluster, empty if there is none
}

// Claim returns the generation that a claim leads to. The same claim leads to
// the same generation until that is proven, so that a program whose reply was
// lost may repeat it; repeat says that the generation is on record. An error is
// of kind ErrDenied if what was shown counts no more, ErrConflict if another key
// or the agent was there before, ErrInvalid if the key was used before.
func (r *Record) Claim(c Claim, now time.Time) (number int, repeat bool, err error) {
	if r != nil && r.Revoked != nil {
		return 0, false, fmt.Errorf("%w: revoked since %s (%s): only an explicit reinstatement brings it back",
			ErrDenied, r.Revoked.At.UTC().Format(time.RFC3339), r.Revoked.Reason)
	}
	if c.Shown == 0 {
		number, repeat, err = r.redeem(c)
	} else {
		number, repeat, err = r.follow(c, now)
	}
	if err == nil && !repeat && r.holds(c.Key) {
		return 0, false, fmt.Errorf("%w: the key belongs to a generation before: make a new one", ErrInvalid)
	}
	return number, repeat, err
}

func (r *Record) holds(key string) bool {
	if r == nil {
		return false
	}
	for i := range r.Generations {
		if r.Generations[i].Key == key {
			return true
		}
	}
	return false
}

// redeem is the claim with a recovery token: it needs no generation before, and
// leads to the one that it was made for, or to none.
func (r *Record) redeem(c Claim) (number int, repeat bool, err error) {
	g := r.Find(c.Recovery)
	switch {
	case g == nil && r.Number()+1 == c.Recovery:
		return c.Recovery, false, nil
	case g == nil || g.Key != c.Key:
		return 0, false, fmt.Errorf("%w: the recovery token is for generation %d, and generation %d was made since: ask an operator for a new token",
			ErrConflict, c.Recovery, r.Number())
	case g.Revoked != nil || !r.Usable(g.Number) || g.Step == StepSuperseded:
		return 0, false, fmt.Errorf("%w: generation %d, which the recovery token gave, was replaced since", ErrDenied, g.Number)
	default:
		return g.Number, true, nil
	}
}

// follow is the claim with the token of a generation.
func (r *Record) follow(c Claim, now time.Time) (number int, repeat bool, err error) {
	shown, newest := r.Find(c.Shown), r.Newest()
	switch {
	case shown == nil:
		return 0, false, fmt.Errorf("%w: generation %d is not on record", ErrDenied, c.Shown)
	case shown.Revoked != nil:
		return 0, false, fmt.Errorf("%w: generation %d was revoked %s (%s), and stays so: ask an operator for a recovery token",
			ErrDenied, shown.Number, shown.Revoked.At.UTC().Format(time.RFC3339), shown.Revoked.Reason)
	case !r.Usable(shown.Number):
		return 0, false, fmt.Errorf("%w: generation %d counts no more: the client was recovered since, with generation %d", ErrDenied, shown.Number, newest.Number)
	case shown.Step == StepSuperseded:
		return 0, false, fmt.Errorf("%w: generation %d was replaced: the newest is %d", ErrDenied, shown.Number, newest.Number)
	case newest.Number > shown.Number && newest.Key == c.Key && newest.ByProgram():
		return newest.Number, true, nil
	}
	// With an expired certificate, its agent was not there in time: then the
	// program helps itself, and the agent leaves the client alone.
	alone := c.Agent == "" || now.After(shown.Certificate.NotAfter)
	switch {
	case !newest.ByProgram() && !alone:
		return 0, false, fmt.Errorf("%w: its agent renews it: generation %d is %s; a program signs in where there is no agent, or when the certificate has expired",
			ErrConflict, newest.Number, newest.Step)
	case newest.Number > shown.Number && newest.ByProgram() && now.Before(newest.Expiry()):
		return 0, false, fmt.Errorf("%w: generation %d was made for another key %s: use that key; if it is lost, an operator has to give out a recovery token",
			ErrConflict, newest.Number, newest.At.UTC().Format(time.RFC3339))
	}
	return r.Number() + 1, false, nil
}
