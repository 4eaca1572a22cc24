package operate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/rotor-fleet/rotor/services/gateway/internal/view"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Recover lets locked-out clients of a cluster come back: it writes the permit
// that agents, scheduler and pick-ups go by, and then asks for a rotation whose
// reason is recovery. Killed in between, it leaves a permit that ends by itself;
// the repeat with the same key writes it again and goes on.
func (o *Operator) Recover(ctx context.Context, cluster string, request api.RecoveryRequest, key string) (api.RecoveryView, error) {
	o.State.Declared.Fresh(ctx)
	o.State.Credentials.Fresh(ctx)
	c, err := o.Cluster(cluster)
	if err != nil {
		return api.RecoveryView{}, err
	}
	if err := checkClients([]fleet.Cluster{c.Declared}, request.Clients); err != nil {
		return api.RecoveryView{}, err
	}
	rotation := fleet.Rotation{
		ID: uuid.NewString(), Reason: fleet.ReasonRecovery, State: fleet.RotationAccepted,
		Clusters: []string{cluster}, Clients: request.Clients, By: "admin", CreatedAt: c.Now,
	}
	if key != "" {
		rotation.ID = event.ID("recovery", key)
		have, err := o.Rotation(ctx, rotation.ID)
		if err == nil {
			return api.RecoveryView{RotationView: have}, sameRecovery(have.Rotation, rotation)
		}
		if !errors.Is(err, fleet.ErrNotFound) {
			return api.RecoveryView{}, err
		}
	}
	if err := o.managementFirst(c); err != nil {
		return api.RecoveryView{}, err
	}
	if request.DryRun {
		v, err := o.preview(ctx, rotation)
		return api.RecoveryView{RotationView: v}, err
	}
	if err := o.writeDown(ctx, rotation); err != nil {
		return api.RecoveryView{}, err
	}
	tokens, err := o.permit(ctx, c, rotation, request.Token)
	if err != nil {
		return api.RecoveryView{}, err
	}
	v, err := o.begin(ctx, rotation, nil)
	return api.RecoveryView{RotationView: v, Tokens: tokens}, err
}

func sameRecovery(have, want fleet.Rotation) error {
	if slices.Equal(have.Clusters, want.Clusters) && slices.Equal(have.Clients, want.Clients) {
		return nil
	}
	return fmt.Errorf("%w: the idempotency key was used for another recovery, %s", fleet.ErrConflict, have.ID)
}

// TypeManagementFirst is the type of the problem that refuses a recovery.
const TypeManagementFirst = "urn:rotor:management-first"

// managementFirst refuses to recover a workload cluster while clients of its
// management cluster are locked out: what it needs to work again is there.
func (o *Operator) managementFirst(c view.Cluster) error {
	if c.Declared.Parent == "" {
		return nil
	}
	parent, err := o.Cluster(c.Declared.Parent)
	if errors.Is(err, fleet.ErrNotFound) {
		return nil // it was taken out of the fleet: nobody can recover it first
	}
	if err != nil {
		return err
	}
	var out []string
	for _, key := range parent.Declared.ClientKeys() {
		if lockout, locked := parent.Lockout(key); locked {
			out = append(out, fmt.Sprintf("%s since %s", key, lockout.Since.UTC().Format(time.RFC3339)))
		}
	}
	if len(out) == 0 {
		return nil
	}
	return &api.Problem{
		Type: TypeManagementFirst, Title: "management-first", Status: http.StatusConflict,
		Detail: fmt.Sprintf("management-first: recover %s, the management cluster of %s, before: locked out are %s; run rotor recover %s --wait",
			c.Declared.Parent, c.Declared.Name, strings.Join(out, ", "), c.Declared.Parent),
	}
}

// permit notes that the locked-out clients of a recovery may come back: with
// their agent, or with a token, if tokens are asked for. It is one or the other:
// who asks for a token has no agent, or has lost it to somebody.
func (o *Operator) permit(ctx context.Context, c view.Cluster, r fleet.Rotation, withTokens bool) ([]api.RecoveryToken, error) {
	// It is a matter of people and networks, so it passes on the machine's time; a
	// fast clock only writes it down in its own.
	life := fleet.PolicyOf(c.Settings, &c.Declared).RecoveryTokenLife.Std()
	expires := c.Now.Add(time.Duration(float64(life) * o.Clock.Rate())).Truncate(time.Second)
	permits, recoveries := map[fleet.ClientKey]fleet.Permit{}, map[fleet.ClientKey]fleet.Recovery{}
	var tokens []api.RecoveryToken
	for _, key := range c.Selected(r.Clients) {
		record := c.Records.Record(key)
		state := fleet.StateOf(record, c.Now)
		switch {
		case withTokens && (slices.Contains(unwell, state) || stuck(record, state, c.Now)):
			t := api.RecoveryToken{Client: key, Generation: record.Number() + 1, Token: rand.Text() + rand.Text(), ExpiresAt: expires}
			recoveries[key] = fleet.Recovery{Hash: HashToken(t.Token), Generation: t.Generation, Operation: r.ID, ExpiresAt: expires}
			tokens = append(tokens, t)
		case state == fleet.StateLockedOut:
			permits[key] = fleet.Permit{Operation: r.ID, ExpiresAt: expires}
		}
	}
	if len(permits) == 0 && len(recoveries) == 0 {
		return nil, nil
	}
	e, err := o.State.Agents.Bucket.Edit(ctx, r.Clusters[0], func(a *fleet.Agent) error {
		a.Permit(permits, c.Now)
		for key, recovery := range recoveries {
			if a.Recoveries == nil {
				a.Recoveries = map[fleet.ClientKey]fleet.Recovery{}
			}
			a.Recoveries[key] = recovery
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("permit the recovery of %s: %w", r.Clusters[0], err)
	}
	o.State.Agents.Await(ctx, e.Revision)
	return tokens, nil
}

// stuck reports whether a program may have lost the key of the generation that it
// was given last: that is not proven, and its sign-ins lead to no other.
func stuck(record *fleet.Record, state fleet.State, now time.Time) bool {
	g := record.Newest()
	return state != fleet.StateRevoked && g.ByProgram() && g.Step.Before(fleet.StepProven) && now.Before(g.Expiry())
}

// unwell are the states for which there are recovery tokens. Who is well has
// nothing to recover, and who is revoked is not recovered.
var unwell = []fleet.State{fleet.StateLockedOut, fleet.StateRecoverable, fleet.StateDegraded, fleet.StatePending}
