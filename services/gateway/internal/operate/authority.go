package operate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/rotor-fleet/rotor/services/gateway/internal/ledger"
	"github.com/rotor-fleet/rotor/services/gateway/internal/view"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// Authority returns the authority as it stands.
func (o *Operator) Authority(ctx context.Context) api.AuthorityStatus {
	o.State.Authority.Fresh(ctx)
	o.State.Rotations.Fresh(ctx)
	o.State.Declared.Fresh(ctx)
	v := view.Authority{
		Settings: o.State.FleetSettings(), CA: o.LastRollout(fleet.RolloutCA), Token: o.LastRollout(fleet.RolloutToken),
		Now: o.Clock.Now(), Rate: o.Clock.Rate(),
	}
	v.Document, _ = o.State.TheAuthority()
	for _, e := range o.State.Declared.All() {
		if e.Key != fleet.SettingsKey {
			v.Clusters = append(v.Clusters, e.Value.Cluster)
		}
	}
	return v.Status()
}

// LastRollout returns the last rotation of one half of the authority as the
// mirror has it, nil if there was none.
func (o *Operator) LastRollout(kind fleet.RolloutKind) *fleet.Rollout {
	e, ok := o.State.Rotations.Get(kind.Key())
	if !ok {
		return nil
	}
	r := &fleet.Rollout{}
	if json.Unmarshal(e.Value, r) != nil || r.ID == "" {
		return nil
	}
	return r
}

// Rollouts returns the last rotation of each half of the authority.
func (o *Operator) Rollouts(ctx context.Context) []fleet.Rollout {
	o.State.Rotations.Fresh(ctx)
	all := []fleet.Rollout{}
	for _, kind := range []fleet.RolloutKind{fleet.RolloutCA, fleet.RolloutToken} {
		if r := o.LastRollout(kind); r != nil {
			all = append(all, *r)
		}
	}
	return all
}

// rollout reads the last rotation of one half of the authority, as it is now, or
// nil if there was none.
func (o *Operator) rollout(ctx context.Context, kind fleet.RolloutKind) (*fleet.Rollout, error) {
	e, err := o.State.Rotations.Bucket.Get(ctx, kind.Key())
	if errors.Is(err, fleet.ErrNotFound) {
		return nil, nil //nolint:nilnil // there was none
	}
	if err != nil {
		return nil, err
	}
	r := &fleet.Rollout{}
	if err := json.Unmarshal(e.Value, r); err != nil {
		return nil, fmt.Errorf("rotation of the authority, %s: %w", kind, err)
	}
	return r, nil
}

// BeginRollout asks the scheduler for a rotation of the authority and waits a
// moment for it. With a key, a repeat returns the rotation that the first has
// made.
func (o *Operator) BeginRollout(ctx context.Context, request api.RolloutRequest, key string) (fleet.Rollout, error) {
	c, err := command(request)
	if err != nil {
		return fleet.Rollout{}, err
	}
	c.Rollout, c.By, c.At = uuid.NewString(), ledger.Admin, o.Clock.Now()
	if key != "" {
		c.Rollout = event.ID("rollout", string(c.Kind), key)
	}
	have, err := o.rollout(ctx, c.Kind)
	if err != nil {
		return fleet.Rollout{}, err
	}
	if have != nil && have.ID == c.Rollout {
		return *have, sameRollout(have, &c)
	}
	if c.Reason == fleet.RolloutTainted {
		ca, err := o.mayTaint(ctx, have, &c)
		if err != nil {
			return fleet.Rollout{}, err
		}
		if underEmergency(have, ca) {
			return *have, nil
		}
	}
	if err := o.mayBegin(ctx, have, &c); err != nil {
		return fleet.Rollout{}, err
	}
	if err := ledger.Record(ctx, o.Ledger, o.entryOf(&c)); err != nil {
		return fleet.Rollout{}, err
	}
	m := event.Meta{Source: "gateway", Cluster: event.FleetWide, Key: []string{c.Rollout, string(c.Action)}, Time: c.At}
	if err := bus.Publish(ctx, o.Bus, event.Advance, m, c); err != nil {
		return fleet.Rollout{}, err
	}
	if r := o.shown(ctx, c.Kind, func(r *fleet.Rollout) bool {
		return r.ID == c.Rollout || c.CA != "" && !r.Phase.Done() && r.Tainted(c.CA)
	}); r != nil {
		return *r, nil
	}
	return o.willTaint(have, &c, fleet.Rollout{
		ID: c.Rollout, Kind: c.Kind, Reason: c.Reason, Phase: fleet.RolloutPrepare, By: c.By, CreatedAt: c.At,
		Steps: []fleet.RolloutStep{{Phase: fleet.RolloutPrepare, At: c.At}}, Canary: c.Canary, MaxParallel: c.MaxParallel,
	}), nil
}

// shown waits a moment until the mirror has a rotation of the authority as it
// should be, and returns it; nil, if it takes longer.
func (o *Operator) shown(ctx context.Context, kind fleet.RolloutKind, as func(*fleet.Rollout) bool) (seen *fleet.Rollout) {
	o.State.Rotations.Until(ctx, planned, func() bool {
		if r := o.LastRollout(kind); r != nil && as(r) {
			seen = r
		}
		return seen != nil
	})
	return seen
}

// command returns the command that a request asks for. What is wrong with the
// request itself is refused.
func command(r api.RolloutRequest) (event.RolloutCommand, error) {
	c := event.RolloutCommand{
		CA: r.CA, Kind: r.Kind, Action: event.RolloutStart, Reason: fleet.RolloutAsked, Canary: r.Canary, MaxParallel: r.MaxParallel,
		Certificate: []byte(r.Certificate), Anchor: []byte(r.Root),
	}
	if c.Kind == "" {
		c.Kind = fleet.RolloutCA
	}
	external := r.Certificate != "" || r.Root != ""
	switch {
	case c.Kind != fleet.RolloutCA && c.Kind != fleet.RolloutToken:
		return c, fmt.Errorf("%w: kind %q: use ca or token", fleet.ErrInvalid, c.Kind)
	case r.CA != "" && !r.Taint:
		return c, fmt.Errorf("%w: ca says which one is compromised: it belongs to taint", fleet.ErrInvalid)
	case c.MaxParallel < 0 || c.MaxParallel > maxClusters:
		return c, fmt.Errorf("%w: maxParallel %d: use 1 to %d clusters, or 0 for the default", fleet.ErrInvalid, c.MaxParallel, maxClusters)
	case c.Kind == fleet.RolloutToken && (external || r.Taint):
		return c, fmt.Errorf("%w: the token key: taint, certificate and root are of a CA: leave them out", fleet.ErrInvalid)
	case c.Kind == fleet.RolloutToken && (r.Canary != "" || r.MaxParallel != 0):
		return c, fmt.Errorf("%w: the token key: no client is reissued for it: leave canary and maxParallel out", fleet.ErrInvalid)
	case external && r.Taint:
		return c, fmt.Errorf("%w: taint or certificate: one of the two; after a compromise the next CA is made here, at once", fleet.ErrInvalid)
	case external && (r.Certificate == "" || r.Root == ""):
		return c, fmt.Errorf("%w: certificate and root belong together: give both", fleet.ErrInvalid)
	case r.Taint && (r.Canary != "" || r.MaxParallel != 0):
		return c, fmt.Errorf("%w: after a compromise all clusters are reissued at once: leave canary and maxParallel out", fleet.ErrInvalid)
	case r.Taint:
		c.Reason = fleet.RolloutTainted
	case external:
		c.Reason = fleet.RolloutImported
	}
	return c, nil
}

// mayBegin refuses a rotation that cannot begin as things stand; have is the last
// one of its kind.
func (o *Operator) mayBegin(ctx context.Context, have *fleet.Rollout, c *event.RolloutCommand) error {
	o.State.Authority.Fresh(ctx)
	a, ok := o.State.TheAuthority()
	switch {
	case !ok || a.ActiveCA() == nil:
		return fmt.Errorf("%w: there is no authority to rotate yet: check that the issuer runs", fleet.ErrConflict)
	case have != nil && !have.Phase.Done() && c.Reason != fleet.RolloutTainted:
		return underWay(have)
	case made(&a, c.Rollout):
		return fmt.Errorf("%w: the idempotency key was used for a rotation of the authority that has ended, %s: use another", fleet.ErrConflict, c.Rollout)
	case c.Reason == fleet.RolloutImported:
		if a.Pending == nil {
			return fmt.Errorf("%w: no CA waits for a signature: ask for its request with rotor authority csr, and have that signed", fleet.ErrConflict)
		}
		if _, err := trust.CheckIssuingCA(c.Certificate, c.Anchor, a.Pending.CSR, c.At); err != nil {
			return err // the issuer looks again
		}
	}
	if c.Canary == "" {
		return nil
	}
	o.State.Declared.Fresh(ctx)
	o.State.Agents.Fresh(ctx)
	if _, err := o.State.Cluster(c.Canary); err != nil {
		return fmt.Errorf("canary: %w", err)
	}
	if agent := o.State.Agent(c.Canary); agent == nil || agent.ID == "" {
		return fmt.Errorf("%w: canary %q has no agent, so it would prove nothing: name a cluster whose agent is enrolled (rotor get agents)", fleet.ErrConflict, c.Canary)
	}
	return nil
}

// underWay refuses a second rotation beside one that has not ended.
func underWay(r *fleet.Rollout) error {
	flag := ""
	if r.Kind == fleet.RolloutToken {
		flag = " --token-key"
	}
	help := "rotor authority status says what it waits for"
	switch {
	case r.AwaitsRetirement():
		help = "rotor authority retire ends it"
	case view.Returnable(r) == nil && r.Phase != fleet.RolloutRollback:
		help += ", rotor authority rollback" + flag + " takes it back"
	}
	return fmt.Errorf("%w: a rotation of the %s is under way since %s, in phase %s: %s",
		fleet.ErrConflict, r.Kind.Name(), r.CreatedAt.UTC().Format(time.RFC3339), r.Phase, help)
}

// made reports whether a generation of the authority comes from this rotation.
func made(a *fleet.Authority, id string) bool {
	for i := range a.CAs {
		if a.CAs[i].Rollout == id {
			return true
		}
	}
	for i := range a.Keys {
		if a.Keys[i].Rollout == id {
			return true
		}
	}
	return false
}

func sameRollout(have *fleet.Rollout, want *event.RolloutCommand) error {
	if have.Reason == want.Reason && have.Canary == want.Canary && have.MaxParallel == want.MaxParallel && bytes.Equal(have.Certificate, want.Certificate) {
		return nil
	}
	return fmt.Errorf("%w: the idempotency key was used for another rotation of the authority, %s", fleet.ErrConflict, have.ID)
}

// entryOf is what the ledger says of the beginning of a rotation, by its id: the
// same rotation makes no second entry.
func (o *Operator) entryOf(c *event.RolloutCommand) audit.Entry {
	e := audit.Entry{
		Action: "authority.rotate", Request: "authority rotation " + c.Rollout,
		Details: map[string]string{"rotation": c.Rollout, "kind": string(c.Kind)},
	}
	a, _ := o.State.TheAuthority()
	if ca := a.ActiveCA(); ca != nil && c.Kind == fleet.RolloutCA {
		e.Details["ca"] = ca.ID
	}
	switch c.Reason {
	case fleet.RolloutTainted:
		e.Action, e.Details["ca"] = "authority.taint", c.CA
	case fleet.RolloutImported:
		e.Action = "authority.import"
		e.Details["certificate"], e.Details["root"] = fingerprint(c.Certificate), fingerprint(c.Anchor)
	}
	if c.Canary != "" {
		e.Details["canary"] = c.Canary
	}
	if c.MaxParallel != 0 {
		e.Details["maxParallel"] = strconv.Itoa(c.MaxParallel)
	}
	return e
}
