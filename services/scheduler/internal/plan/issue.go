package plan

import (
	"fmt"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// want is the wish to make the next generation of a client.
type want struct {
	reason   fleet.Reason
	rotation string
	since    time.Time // of a renewal
}

// want says whether a client needs its next generation now. The order of the
// cases is the order of urgency.
func (e *evaluation) want(key fleet.ClientKey, record *fleet.Record) (want, bool) {
	newest, wanted := record.Newest(), e.Wanted[key]
	rotation := ""
	if wanted.Generation > record.Number() {
		rotation = wanted.Rotation
	}
	if newest.ByProgram() && !e.lost(key, record) {
		return e.handover(key, record)
	}
	switch {
	case newest == nil, newest.Revoked != nil, e.replaced(newest), e.lost(key, record):
		return want{reason: fleet.ReasonEnrolment, rotation: rotation}, true
	case e.untrusted(newest):
		return want{reason: fleet.ReasonAuthority, rotation: rotation}, true
	case InFlight(newest, e.Now):
		e.wake(newest.Expiry()) // what nobody picked up in all its life is no use any more
		return want{}, false
	case Outdated(e.Cluster, e.policy, newest, e.Now):
		id := event.UpgradeRotationID(e.Cluster.Name, e.Cluster.Release, e.Cluster.UpgradedAt)
		return want{reason: fleet.ReasonUpgrade, rotation: id}, true
	case rotation != "" && wanted.Reason == fleet.ReasonAuthority:
		return want{reason: fleet.ReasonAuthority, rotation: rotation}, true
	case rotation != "":
		return want{reason: fleet.ReasonRotation, rotation: rotation}, true
	default:
		return e.renewal(key, newest)
	}
}

// untrusted reports whether the newest certificate is worth nothing: its CA is not
// trusted any more, or is compromised and was replaced. So a cluster that was not
// waited for while its CA went recovers by itself, whatever its mode and its
// maintenance windows. What has ended is a matter of the policy of recovery.
func (e *evaluation) untrusted(newest *fleet.Generation) bool {
	if len(e.Trusted) == 0 || newest.Certificate.Issuer == "" || e.Now.After(newest.Certificate.NotAfter) {
		return false
	}
	_, trusted := e.Trusted[newest.Certificate.Issuer]
	return !trusted
}

// InFlight reports whether a generation is still on its way to its proof. The
// next one has to wait for it, unless it expired or was revoked on the way.
func InFlight(g *fleet.Generation, now time.Time) bool {
	return g != nil && g.Revoked == nil && g.Step.Before(fleet.StepProven) && now.Before(g.Expiry())
}

// replaced reports whether the agent that can open the newest token is gone.
func (e *evaluation) replaced(newest *fleet.Generation) bool {
	return e.enrolled() && newest.Agent != e.Agent.ID
}

func (e *evaluation) enrolled() bool { return e.Agent != nil && e.Agent.ID != "" }

// handover says whether a client whose program signs in by itself goes to the
// agent, which only an operator can want. Nothing else is issued for it here:
// its program would find its token superseded. What there is to tell of it is
// told as of any client, so that the program can act.
func (e *evaluation) handover(key fleet.ClientKey, record *fleet.Record) (want, bool) {
	w := e.Wanted[key]
	switch {
	case w.Generation <= record.Number():
		return want{}, false
	case w.Handover:
		return want{reason: fleet.ReasonRotation, rotation: w.Rotation}, true
	default:
		e.block(key, record.Number()+1, "waits for its program: "+fleet.RecoverCommand(e.Cluster.Name, key)+" --token makes a token for it")
		return want{}, false
	}
}

// lost reports whether the agent asks to replace a generation whose key is gone.
// Of a client whose program signs in by itself no key of the agent can be lost,
// unless the record was restored and is behind what the agent holds.
func (e *evaluation) lost(key fleet.ClientKey, record *fleet.Record) bool {
	if e.Agent == nil {
		return false
	}
	request := e.Agent.Requests[key]
	ahead := request.Generation > record.Number()+1
	return request.Lost && request.Generation == record.Next(request) && (ahead || !record.Newest().ByProgram())
}

// admitted reports whether what a client wants may be issued. A client that is
// locked out has nothing left to prove itself with: where its policy says so, an
// operator has to let it back. All else goes on in every policy, as a client
// that is degraded or recoverable still has the other half.
func (e *evaluation) admitted(key fleet.ClientKey, record *fleet.Record, w *want) bool {
	lockout, out := fleet.LockoutOf(record, key, e.Agent, e.policy, e.Now)
	if !out {
		return true
	}
	if lockout.Bar != "" {
		e.block(key, record.Number()+1, lockout.Why(e.Cluster.Name, key))
		return false
	}
	if !lockout.Until.IsZero() {
		e.wake(lockout.Until.Add(time.Nanosecond))
	}
	if !e.replaced(record.Newest()) {
		w.reason = fleet.ReasonRecovery
	}
	return true
}

// renewal decides by time. All comparisons are with moments and none with
// shares: a rounded share could say no at the very moment that was waited for.
func (e *evaluation) renewal(key fleet.ClientKey, newest *fleet.Generation) (want, bool) {
	emergency := want{reason: fleet.ReasonEmergency}
	automatic := e.policy.Mode == fleet.ModeAutomatic
	due := e.passed(newest.RenewAt)
	urgent := e.passed(newest.Moment(e.policy.Emergency))
	switch {
	case e.passed(newest.Moment(e.policy.LastResort)): // any mode: a client must not lock itself out
		return emergency, true
	case !automatic:
		return want{}, false
	case urgent:
		return emergency, true
	case !due:
		return want{}, false
	}
	open, opens := fleet.MayRenew(e.Cluster.Maintenance, e.Now)
	if !open {
		e.wake(opens)
		why := "no maintenance window opens"
		if !opens.IsZero() {
			why = "the maintenance window is closed until " + opens.UTC().Format(time.RFC3339)
		}
		e.block(key, newest.Number+1, why)
		return want{}, false
	}
	return want{reason: fleet.ReasonRenewal, since: newest.RenewAt}, true
}

func (e *evaluation) block(key fleet.ClientKey, generation int, why string) {
	e.out.Blocked = append(e.out.Blocked, Block{Client: key, Generation: generation, Why: why})
}

// issue asks for the next generation, if its certificate request is on file.
func (e *evaluation) issue(key fleet.ClientKey, record *fleet.Record, w want) {
	if !e.enrolled() {
		e.block(key, record.Number()+1, "no agent is enrolled for the cluster")
		return
	}
	request, ok := e.Agent.Requests[key]
	number := record.Next(request)
	if !ok || request.Generation != number {
		e.block(key, number, fmt.Sprintf("the agent has no certificate request for generation %d on file", number))
		return
	}
	if e.Asked[key] == number {
		return
	}
	at := e.Now.UTC().Truncate(time.Second)
	from, life := at, lifeFrom(e.policy, at)
	if w.reason == fleet.ReasonUpgrade {
		at, from, life = e.upgradeLife(key, record.Newest(), number)
	}
	e.command(w, at, event.IssueClient{
		Client: key, Generation: number, Life: life,
		RenewAt: fleet.DrawRenewal(e.Cluster.Name, key, number, e.policy, from, earlier(life.Certificate, life.Token)),
	})
}

// command adds a client to the command of the same reason and rotation.
func (e *evaluation) command(w want, at time.Time, client event.IssueClient) {
	for i := range e.out.Issue {
		is := &e.out.Issue[i]
		if is.Command.Reason == w.reason && is.Command.Rotation == w.rotation {
			is.Command.Clients = append(is.Command.Clients, client)
			is.Since = earlier(is.Since, w.since)
			return
		}
	}
	e.out.Issue = append(e.out.Issue, Issue{
		Command: event.IssueCommand{Reason: w.reason, Rotation: w.rotation, At: at, Clients: []event.IssueClient{client}},
		Since:   w.since,
	})
}

// nameCommands gives the commands their ids: of what is asked for, and when.
func (e *evaluation) nameCommands() {
	for i := range e.out.Issue {
		c := e.out.Issue[i].Command
		key := []string{c.At.Format(time.RFC3339), string(c.Reason), c.Rotation}
		for _, client := range c.Clients {
			key = append(key, fmt.Sprintf("%s#%d", client.Client, client.Generation))
		}
		e.out.Issue[i].Meta = event.Meta{Source: source, Cluster: e.Cluster.Name, Key: key, Time: c.At}
	}
}

// upgradeLife returns the life of a generation that follows from an upgrade:
// counted from the completion of the upgrade, whenever it is processed, and
// never shorter than what the client has. An upgrade so long ago that the new
// generation would be due at once counts from now.
func (e *evaluation) upgradeLife(key fleet.ClientKey, newest *fleet.Generation, number int) (at, from time.Time, life fleet.Life) {
	completed := wholeSecond(e.Cluster.UpgradedAt)
	at = later(e.Now.UTC().Truncate(time.Second), completed)
	from, life = completed, lifeFrom(e.policy, completed)
	renewAt := fleet.DrawRenewal(e.Cluster.Name, key, number, e.policy, from, earlier(life.Certificate, life.Token))
	if !renewAt.After(e.Now) {
		from, life = at, lifeFrom(e.policy, at)
	}
	life.Certificate = later(life.Certificate, newest.Certificate.NotAfter)
	life.Token = later(life.Token, newest.Token.ExpiresAt)
	return at, from, life
}

// Outdated reports whether an upgrade demands a new generation: g is older than
// the upgrade, and one of its credentials ends before the upgrade lets it end.
func Outdated(c *fleet.Cluster, p fleet.Policy, g *fleet.Generation, now time.Time) bool {
	completed := wholeSecond(c.UpgradedAt)
	if !upgradeHolds(c, p, now) || !g.At.Before(completed) {
		return false
	}
	life := lifeFrom(p, completed)
	return g.Certificate.NotAfter.Before(life.Certificate) || g.Token.ExpiresAt.Before(life.Token)
}

// upgradeHolds reports whether the cluster was upgraded, as far as two clocks
// may differ.
func upgradeHolds(c *fleet.Cluster, p fleet.Policy, now time.Time) bool {
	return !c.UpgradedAt.IsZero() && !c.UpgradedAt.After(now.Add(p.ClockSkew.Std()))
}

// wholeSecond cuts a moment to the seconds that certificates and tokens know:
// compared with a fraction, a new credential would always seem too short.
func wholeSecond(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

func lifeFrom(p fleet.Policy, from time.Time) fleet.Life {
	return fleet.Life{Certificate: from.Add(p.CertificateLife.Std()), Token: from.Add(p.TokenLife.Std())}
}

// earlier returns the earlier moment; the zero time stands for none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
