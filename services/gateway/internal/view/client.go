// Package view computes what the gateway shows: states, windows, reasons and
// remedies, from documents and now. It knows no NATS and no HTTP.
package view

import (
	"fmt"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Cluster is all that is known about one cluster.
type Cluster struct {
	Declared fleet.Cluster
	Settings fleet.Settings
	Records  *fleet.Credentials // nil, if none
	Agent    *fleet.Agent       // nil, if none
	Now      time.Time
}

// Clients returns the clients of the cluster in the order of their rotation.
func (c Cluster) Clients() []api.ClientView {
	views := []api.ClientView{}
	for _, key := range c.Declared.ClientKeys() {
		views = append(views, c.Client(key))
	}
	return views
}

// Client returns one client of the cluster.
func (c Cluster) Client(key fleet.ClientKey) api.ClientView {
	record := c.Records.Record(key)
	v := api.ClientView{Cluster: c.Declared.Name, Kind: key.Kind, Instance: key.Instance, State: fleet.StateOf(record, c.Now)}
	if g := record.Newest(); g != nil {
		v.Generation, v.Step = g.Number, g.Step
		v.RenewAt, v.Certificate, v.Token = &g.RenewAt, &g.Certificate, &g.Token
	}
	v.Reason, v.Remedy = c.explain(key, record, v.State)
	return v
}

// Lockout returns how a client stands that is locked out, false if it is not.
func (c Cluster) Lockout(key fleet.ClientKey) (fleet.Lockout, bool) {
	return fleet.LockoutOf(c.Records.Record(key), key, c.Agent, fleet.PolicyOf(c.Settings, &c.Declared), c.Now)
}

// explain says in words why a client is not healthy or what it waits for, and
// what an operator can do.
func (c Cluster) explain(key fleet.ClientKey, r *fleet.Record, state fleet.State) (reason, remedy string) {
	name, g := c.Declared.Name, r.InUse()
	rotate := fmt.Sprintf("rotor rotate %s --client %s", name, key)
	if state == fleet.StateRevoked {
		return fmt.Sprintf("revoked since %s: %s", moment(r.Revoked.At), r.Revoked.Reason), fmt.Sprintf("rotor reinstate %s/%s", name, key)
	}
	wait, mend := c.waits(key, r)
	switch state {
	case fleet.StatePending:
		return wait, mend
	case fleet.StateDegraded:
		reason = fmt.Sprintf("the token has expired %s: the client dies at its next restart", moment(g.Token.ExpiresAt))
	case fleet.StateRecoverable:
		reason = fmt.Sprintf("the certificate has expired %s", moment(g.Certificate.NotAfter))
	case fleet.StateLockedOut:
		return c.lockedOut(key, wait)
	case fleet.StateDue:
		reason = fmt.Sprintf("its renewal moment has passed %s", moment(g.RenewAt))
	default:
		return wait, mend
	}
	if wait != "" {
		return reason + "; " + wait, mend
	}
	if held := c.held(); state == fleet.StateDue && held != "" {
		return reason + "; " + held, rotate + ", if it shall not wait"
	}
	return reason, rotate
}

// lockedOut says why a client is locked out and how it comes back. The command
// is named in every case: also where its agent brings it back by itself, as that
// agent may never return.
func (c Cluster) lockedOut(key fleet.ClientKey, wait string) (reason, remedy string) {
	lockout, _ := c.Lockout(key)
	command, newest := fleet.RecoverCommand(c.Declared.Name, key), c.Records.Record(key).Newest()
	reason = fmt.Sprintf("certificate and token have expired, the last one %s", moment(lockout.Since))
	switch {
	case lockout.Bar != "":
		return reason + "; " + lockout.Bar, command
	case newest.ByProgram() && newest.Reason == fleet.ReasonRecovery && c.Now.Before(lockout.Until): // it has redeemed a token
		_, remedy = c.waitsForProgram(key, newest)
		return reason + "; " + wait, remedy
	case newest.ByProgram():
		return reason + "; only its program holds its keys", command + " --token"
	}
	if wait != "" {
		reason += "; " + wait
	}
	return reason, fmt.Sprintf("comes back by itself when its agent does; else %s, with --token if its agent is lost", command)
}

// waits says what keeps the next generation of a client from being used.
func (c Cluster) waits(key fleet.ClientKey, r *fleet.Record) (reason, remedy string) {
	name, newest := c.Declared.Name, r.Newest()
	if newest.ByProgram() {
		return c.waitsForProgram(key, newest)
	}
	if c.Agent == nil || c.Agent.ID == "" {
		return "no agent has enrolled for " + name,
			"rotor join " + name + ", and start the agent that it names; or set delivery in the fleet file"
	}
	if f, ok := c.Agent.Failures[key]; ok {
		return fmt.Sprintf("its agent could not bring generation %d to %q since %s: %s", f.Generation, f.Step, moment(f.Since), f.Error),
			"mend the cause where the agent runs; it tries again by itself"
	}
	alive := fmt.Sprintf("check that the agent of %s runs and reaches the gateway", name)
	if newest != nil && newest.Revoked == nil && newest.Step.Before(fleet.StepProven) {
		return fmt.Sprintf("generation %d is %s and not proven yet; agent last seen %s", newest.Number, newest.Step, moment(c.Agent.LastSeen)), alive
	}
	if request := c.Agent.Requests[key]; request.Generation != r.Next(request) {
		return fmt.Sprintf("its request for generation %d is not on file; agent last seen %s", r.Number()+1, moment(c.Agent.LastSeen)), alive
	}
	if newest == nil || newest.Revoked != nil {
		return "its request is on file and waits for the scheduler and the issuer", "check that scheduler and issuer run"
	}
	return "", ""
}

// waitsForProgram says the same of a client whose program signs in by itself.
func (c Cluster) waitsForProgram(key fleet.ClientKey, newest *fleet.Generation) (reason, remedy string) {
	switch {
	case newest.Revoked != nil:
		return fmt.Sprintf("what its program holds was revoked %s, and stays so", moment(newest.Revoked.At)),
			fleet.RecoverCommand(c.Declared.Name, key) + " --token"
	case newest.Step.Before(fleet.StepProven):
		return fmt.Sprintf("generation %d was given to its program %s, and is not proven yet", newest.Number, moment(newest.At)),
			"let the program prove it: a call of /v1/agent/prove with the new certificate and token"
	case c.Now.Before(newest.RenewAt):
		return "", ""
	default:
		return "its program, which renews it by signing in, has not done so",
			fmt.Sprintf("check the program; if its key is lost, %s --token", fleet.RecoverCommand(c.Declared.Name, key))
	}
}

// held says which rule of the operator holds a renewal back, if one does.
func (c Cluster) held() string {
	policy := fleet.PolicyOf(c.Settings, &c.Declared)
	switch policy.Mode {
	case fleet.ModeManual:
		return "the mode is manual: only an operator renews"
	case fleet.ModeOnUpgrade:
		return "the mode is on-upgrade: it waits for the next upgrade"
	}
	if open, next := fleet.MayRenew(c.Declared.Maintenance, c.Now); !open {
		if next.IsZero() {
			return "no maintenance window opens any more"
		}
		return "the next maintenance window opens " + moment(next)
	}
	return ""
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04 UTC")
}
