package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// rolloutFollower watches a rotation of the authority from afar. The rotation
// does not depend on it: a server that restarts meanwhile is waited for.
type rolloutFollower struct {
	client *api.Client
	kind   fleet.RolloutKind
	id     string
	back   bool      // it is to be taken back
	taint  string    // id of a CA that is compromised: whatever rotation takes that up is followed
	log    io.Writer // progress
	live   bool      // rewrite a line of progress below the phases

	seen     *fleet.Rollout // as it was last read
	steps    int            // phases that were shown
	progress string         // what is shown below them
	told     time.Time      // when that changed, on the time of the machine
	lost     bool           // the server does not answer
}

// hanging is how long nothing passes before a log is told for whom is waited.
const hanging = 10 * time.Second

// awaitRollout follows a rotation to its end and says how it has ended.
func (a *app) awaitRollout(c *cobra.Command, client *api.Client, f *rolloutFollower) error {
	f.client, f.log, f.live = client, c.ErrOrStderr(), a.Live
	if f.kind == fleet.RolloutToken && !f.back {
		_, _ = fmt.Fprintln(f.log, "this takes 10 minutes: verifiers may keep a copy of the key set for 5, and have to know the new key before it signs")
	}
	r, err := f.follow(c.Context())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.OutOrStdout(), printable(endingOf(r)))
	return err
}

// follow reads the rotation until it has ended in one way or another; the error
// is that of the exit code.
func (f *rolloutFollower) follow(ctx context.Context) (*fleet.Rollout, error) {
	defer f.endLine()
	f.told = clock.Wall()
	for wait := 50 * time.Millisecond; ; wait = min(wait*2, time.Second) {
		status, err := f.client.Authority(ctx)
		switch {
		case err == nil:
			before := f.steps
			if done, err := f.look(&status); done || err != nil {
				return f.seen, err
			}
			if f.steps != before {
				wait = 50 * time.Millisecond
			}
			f.lost = false
		case ctx.Err() != nil:
		case !passing(err):
			return nil, err
		case !f.lost:
			f.lost = true
			f.line("the server does not answer, trying again")
		}
		if clock.Sleep(ctx, wait) != nil {
			return nil, &ExitError{
				Code: exitFailure, Err: errors.New("interrupted"), Hint: "the rotation goes on; follow it with: rotor authority status",
			}
		}
	}
}

// look takes a rotation in as it stands.
func (f *rolloutFollower) look(s *api.AuthorityStatus) (done bool, err error) {
	r := s.CA
	if f.kind == fleet.RolloutToken {
		r = s.Token
	}
	if f.taint != "" && f.seen == nil && r != nil && r.Tainted(f.taint) {
		f.id, f.back = r.ID, r.Phase == fleet.RolloutRollback || r.Phase == fleet.RolloutRolledBack
	}
	if r == nil || r.ID != f.id || f.taint != "" && !r.Tainted(f.taint) {
		return false, f.other(r)
	}
	f.seen = r
	f.show(r, s.Now)
	switch {
	case r.Phase == fleet.RolloutRolledBack && f.back, r.Phase == fleet.RolloutCompleted && !f.back:
		return true, nil
	case r.Phase == fleet.RolloutRolledBack:
		return true, &ExitError{Code: exitFailure, Err: fmt.Errorf("the rotation of the %s was taken back", r.Kind.Name()), Hint: "rotor audit export says by whom"}
	case r.Phase == fleet.RolloutCompleted:
		return true, &ExitError{Code: exitFailure, Err: fmt.Errorf("the rotation of the %s was completed, not taken back", r.Kind.Name()), Hint: "the old one was not trusted any more; rotate again with: rotor authority rotate"}
	case r.Halted != "" && (!f.back || r.Phase == fleet.RolloutRollback):
		return true, &ExitError{
			Code: exitFailure, Err: fmt.Errorf("the rotation of the %s has halted in phase %s: %s", r.Kind.Name(), r.Phase, r.Halted),
			Hint: "mend the cause and go on with rotor authority resume; or leave a cluster out with rotor authority exclude" + backHint(f.back || r.Reason == fleet.RolloutTainted),
		}
	}
	return r.AwaitsRetirement() && !f.back, nil
}

func backHint(back bool) string {
	if back {
		return ""
	}
	return "; or take it back with rotor authority rollback"
}

// other says what it means that the last rotation is another one: that ours has
// not begun yet, has ended, or never will.
func (f *rolloutFollower) other(r *fleet.Rollout) error {
	switch {
	case f.seen != nil && r != nil && r.Replaces == f.id:
		return &ExitError{Code: exitFailure, Err: fmt.Errorf("rotation %s was taken over by %s, as the CA to which it led is compromised", f.id, r.ID), Hint: "see rotor authority status"}
	case f.seen != nil && r != nil:
		return &ExitError{Code: exitFailure, Err: fmt.Errorf("rotation %s has ended, and another has begun, %s", f.id, r.ID), Hint: "see rotor authority status"}
	case r != nil && !r.Phase.Done() && f.taint == "":
		return &ExitError{Code: exitFailure, Err: fmt.Errorf("another rotation of the %s has begun before this one, %s", f.kind.Name(), r.ID), Hint: "see rotor authority status"}
	case f.progress == "":
		f.line("asked for; the scheduler has not taken it up yet")
		f.progress = "asked for"
	}
	return nil
}

// show writes a line for each phase that has begun since it was last called, and
// for whom is waited.
func (f *rolloutFollower) show(r *fleet.Rollout, now time.Time) {
	for ; f.steps < len(r.Steps); f.steps++ {
		step := r.Steps[f.steps]
		f.line(fmt.Sprintf("%s  %-10s  %s", step.At.UTC().Format(time.TimeOnly), step.Phase, phaseText(r, step.Phase)))
		f.told = clock.Wall()
	}
	text := progressText(r, now)
	if text == f.progress || text == "" {
		return
	}
	if f.live {
		f.progress = text
		if runes := []rune(text); len(runes) > liveWidth {
			text = string(runes[:liveWidth-1]) + "…"
		}
		_, _ = fmt.Fprintf(f.log, "\r\x1b[K%s", text)
		return
	}
	if r.MissingCount > 0 && clock.Wall().Sub(f.told) >= hanging {
		f.line("          " + text)
		f.progress, f.told = text, clock.Wall()
	}
}

// liveWidth is how long a line may be that is rewritten: one that a terminal has
// broken cannot be.
const liveWidth = 100

func (f *rolloutFollower) line(text string) {
	f.endLine()
	_, _ = fmt.Fprintln(f.log, printable(text))
}

// endLine removes the line of progress, so that what follows begins on its own.
func (f *rolloutFollower) endLine() {
	if f.live && f.progress != "" {
		_, _ = fmt.Fprint(f.log, "\r\x1b[K")
		f.progress = ""
	}
}

// progressText says how far the gate of a phase has opened.
func progressText(r *fleet.Rollout, now time.Time) string {
	var parts []string
	if r.Total > 0 {
		parts = append(parts, fmt.Sprintf("%s: %d of %s", r.Phase, r.Ready, plural(r.Total, "cluster")))
	}
	if !r.OpensAt.IsZero() && r.OpensAt.After(now) {
		parts = append(parts, fmt.Sprintf("%s: opens %s, at %s", r.Phase, fromNow(r.OpensAt, now), r.OpensAt.UTC().Format(time.TimeOnly)))
	}
	const most = 3
	var who []string
	for i, l := range r.Missing {
		if i == most {
			break
		}
		who = append(who, fmt.Sprintf("%s (%s)", lagging(l), l.Why))
	}
	if more := r.MissingCount - len(who); more > 0 && len(who) > 0 {
		who = append(who, fmt.Sprintf("%d more", more))
	}
	if len(who) > 0 {
		parts = append(parts, "waiting for "+strings.Join(who, ", "))
	}
	text := printable(strings.Join(parts, ", "))
	if !utf8.ValidString(text) {
		return strings.ToValidUTF8(text, "?")
	}
	return text
}

func lagging(l fleet.Laggard) string {
	if l.Client == nil {
		return l.Cluster
	}
	return l.Cluster + "/" + l.Client.String()
}

// phaseText says what a phase works on.
func phaseText(r *fleet.Rollout, phase fleet.RolloutPhase) string {
	if r.Kind == fleet.RolloutToken {
		return map[fleet.RolloutPhase]string{
			fleet.RolloutPrepare:    "the issuer makes the next token key",
			fleet.RolloutTrusted:    "it is in the key set; every verifier has time to fetch it",
			fleet.RolloutActivate:   "it begins to sign",
			fleet.RolloutCompleted:  "it signs; the old one stays in the key set until its last token has ended",
			fleet.RolloutRollback:   "the old token key signs",
			fleet.RolloutRolledBack: "the new token key is taken back",
		}[phase]
	}
	if phase == fleet.RolloutRetire && r.Reason == fleet.RolloutTainted {
		return "the compromised CA goes out of the trust bundle when an operator says so"
	}
	return map[fleet.RolloutPhase]string{
		fleet.RolloutPrepare:    "the issuer makes the next CA",
		fleet.RolloutTrusted:    "each agent proves that it trusts the next CA",
		fleet.RolloutActivate:   "the next CA begins to sign",
		fleet.RolloutReissued:   "each client gets a certificate of the new CA and proves it",
		fleet.RolloutRetire:     "the old CA goes out of the trust bundle",
		fleet.RolloutCompleted:  "the old CA is trusted no more",
		fleet.RolloutRollback:   "the old CA signs; each client that has a certificate of the new one gets another",
		fleet.RolloutRolledBack: "the new CA is trusted no more",
	}[phase]
}

// endingOf says how a rotation has ended.
func endingOf(r *fleet.Rollout) string {
	took := span(r.Since().Sub(r.CreatedAt))
	switch {
	case r.AwaitsRetirement():
		return fmt.Sprintf("every client was replaced %s after the taint; the compromised CA %s is still trusted: rotor authority retire",
			replacedIn(r), taintedText(r))
	case r.Phase == fleet.RolloutRolledBack:
		return fmt.Sprintf("taken back in %s: the %s is %s as before", took, r.Kind.Name(), short(r.From))
	default:
		return fmt.Sprintf("completed in %s: the %s is %s now, in place of %s", took, r.Kind.Name(), short(r.To), short(r.From))
	}
}
