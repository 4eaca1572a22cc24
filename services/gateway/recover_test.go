package gateway_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/services/gateway/internal/operate"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// expired returns a proven generation whose credentials have both ended.
func (w *world) expired(t *testing.T, client fleet.ClientKey, agent string) issued {
	t.Helper()
	g := w.issuer.sign(t, order{cluster: "edge-01", client: client, number: 1, agent: agent, step: fleet.StepProven})
	ended := clock.Wall().Add(-fleet.Day).Truncate(time.Second)
	g.At, g.ProvenAt = ended.Add(-90*fleet.Day), ended.Add(-90*fleet.Day)
	g.Certificate.NotBefore, g.Token.NotBefore = g.At, g.At
	g.Certificate.NotAfter, g.Token.ExpiresAt = ended, ended
	return g
}

// longAgo makes the enrolment of an agent older than any lock-out of a test.
func (w *world) longAgo(t *testing.T, cluster string) {
	t.Helper()
	if _, err := open[fleet.Agent](t, w, bus.Agents).Edit(t.Context(), cluster, func(a *fleet.Agent) error {
		a.EnrolledAt = a.EnrolledAt.Add(-200 * fleet.Day)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

var byOperator = strings.Replace(fleetFile, "\nreleases:", "\npolicy: {recovery: operator}\nreleases:", 1)

// What was issued before a client was locked out stays where it is until an
// operator lets the client back; then its agent gets it, and no command needs
// the credentials that have expired.
func TestF4_F5_RecoveryHandsOverWhatWaited(t *testing.T) {
	w := start(t)
	w.apply(t, byOperator)
	a := w.enrolled(t, "edge-01")
	w.longAgo(t, "edge-01")
	waiting := w.issuer.sign(t, order{cluster: "edge-01", client: kms, number: 2, agent: a.id, step: fleet.StepIssued})
	w.record(t, "edge-01", kms, w.expired(t, kms, a.id), waiting)
	bustest.Eventually(t, func() error {
		if c := a.work(t).Clients[0]; c.Generation != 2 || c.Pickup != nil {
			return fmt.Errorf("work of a client that waits for an operator: %+v", c)
		}
		return nil
	})
	var clients api.Page[api.ClientView]
	w.get(t, api.PathClusters+"/edge-01/clients?kind=kms", &clients)
	if c := clients.Items[0]; c.State != fleet.StateLockedOut || c.Remedy != "rotor recover edge-01 --client kms" {
		t.Errorf("%+v", c)
	}
	var status api.Status
	w.get(t, api.PathStatus, &status)
	if status.Health != api.HealthBroken || !strings.Contains(strings.Join(status.Reasons, "\n"), "-> rotor recover edge-01 --client kms") {
		t.Errorf("%s: %v", status.Health, status.Reasons)
	}
	preview, err := w.client.Rotate(t.Context(), api.RotateRequest{Clusters: []string{"edge-01"}, Force: true, DryRun: true})
	if err != nil || preview.Results[0].Clients[0].Outcome != fleet.OutcomeNeedsRecovery {
		t.Errorf("%+v, %v", preview.Results, err)
	}

	view, err := w.client.Recover(t.Context(), "edge-01", api.RecoveryRequest{})
	if err != nil || view.Reason != fleet.ReasonRecovery || len(view.Tokens) != 0 {
		t.Fatalf("%+v, %v", view, err)
	}
	if c := bustest.Expect(t, w.bus, event.Rotate, nil); c.Reason != fleet.ReasonRecovery || c.Rotation != view.ID || c.Force {
		t.Errorf("command %+v", c)
	}
	doc := agentDoc(t, w, "edge-01")
	if p := doc.Permits[kms]; p.Operation != view.ID || len(doc.Permits) != 1 || len(doc.Recoveries) != 0 {
		t.Errorf("permits %+v", doc.Permits)
	}
	bustest.Eventually(t, func() error {
		if c := a.work(t).Clients[0]; c.Pickup == nil {
			return errors.New("the permit hands nothing over")
		}
		return nil
	})
	if _, err := open[fleet.Credentials](t, w, bus.Credentials).Edit(t.Context(), "edge-01", func(c *fleet.Credentials) error {
		c.Clients[kms].Revoked = &fleet.Revocation{At: clock.Wall(), Reason: "keyCompromise"}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	bustest.Eventually(t, func() error {
		if c := a.work(t).Clients[0]; c.Pickup != nil {
			return errors.New("a revoked client gets a pick-up")
		}
		return nil
	})
}

// A second answer of the same call shows no token; each token is for one client,
// the next generation and one recovery, and is stored as a hash.
func TestRecoveryTokens(t *testing.T) {
	w := start(t)
	w.apply(t, byOperator)
	csi := fleet.ClientKey{Kind: "csi"}
	w.record(t, "edge-01", kms, w.expired(t, kms, "gone"))
	w.record(t, "edge-01", csi, w.issuer.sign(t, order{cluster: "edge-01", client: csi, number: 1, step: fleet.StepProven}))
	dry, err := w.client.Recover(t.Context(), "edge-01", api.RecoveryRequest{Token: true, DryRun: true})
	if err != nil || !dry.DryRun || len(dry.Tokens) != 0 || len(bustest.Stored(t, w.bus, event.Rotate)) != 0 {
		t.Fatalf("dry run: %+v, %v", dry, err)
	}
	keyed := *w.client
	keyed.Key = "key-1"
	request := api.RecoveryRequest{Clients: []fleet.ClientKey{kms, csi}, Token: true}
	view, err := keyed.Recover(t.Context(), "edge-01", request)
	if err != nil || len(view.Tokens) != 1 { // none for who is well
		t.Fatalf("%+v, %v", view, err)
	}
	token := view.Tokens[0]
	if token.Client != kms || token.Generation != 2 || len(token.Token) < 52 { // 26 characters of base32 are 130 bits
		t.Errorf("%+v", token)
	}
	doc := agentDoc(t, w, "edge-01")
	if r := doc.Recoveries[kms]; r.Hash != operate.HashToken(token.Token) || r.Generation != 2 || r.Operation != view.ID || !r.ExpiresAt.Equal(token.ExpiresAt) {
		t.Errorf("%+v", r)
	}
	if life := token.ExpiresAt.Sub(clock.Wall()); life > time.Hour || life < 50*time.Minute {
		t.Errorf("it lives for %s", life)
	}
	if len(doc.Permits) != 0 {
		t.Errorf("who redeems a token has no agent to let back: %+v", doc.Permits)
	}
	if strings.Contains(mustJSON(t, doc), token.Token) {
		t.Error("the token is stored")
	}
	given, err := (&api.Client{URL: w.url}).Redeem(t.Context(), secret.New(token.Token), newKey(t))
	if err != nil || given.Client != kms || given.Generation != 2 {
		t.Errorf("redeemed: %+v, %v", given, err)
	}
	planned := view.Rotation
	planned.State = fleet.RotationRunning
	if _, err := open[fleet.Rotation](t, w, bus.Rotations).Create(t.Context(), view.ID, planned); err != nil {
		t.Fatal(err)
	}
	repeat, err := keyed.Recover(t.Context(), "edge-01", request)
	if err != nil || repeat.ID != view.ID || len(repeat.Tokens) != 0 {
		t.Errorf("repeat: %+v, %v", repeat, err)
	}
	if _, err := keyed.Recover(t.Context(), "hq", api.RecoveryRequest{}); status(err) != http.StatusConflict {
		t.Errorf("the same key for another recovery: %v", err)
	}
	if _, err := w.client.Recover(t.Context(), "edge-01", api.RecoveryRequest{Clients: []fleet.ClientKey{{Kind: "caph"}}}); status(err) != http.StatusNotFound {
		t.Errorf("unknown client: %v", err)
	}
	if _, err := w.client.Recover(t.Context(), "edge-99", api.RecoveryRequest{}); status(err) != http.StatusNotFound {
		t.Errorf("unknown cluster: %v", err)
	}
}

// The documented order: management cluster first.
func TestManagementFirst(t *testing.T) {
	w := start(t)
	w.apply(t, byOperator)
	w.record(t, "edge-01", kms, w.expired(t, kms, "gone"))
	w.record(t, "hq", kms, w.expired(t, kms, "gone"))
	for _, dry := range []bool{true, false} {
		var p *api.Problem
		_, err := w.client.Recover(t.Context(), "edge-01", api.RecoveryRequest{DryRun: dry})
		if !errors.As(err, &p) || p.Status != http.StatusConflict || p.Type != operate.TypeManagementFirst || p.Title != "management-first" {
			t.Fatalf("%+v", err)
		}
		contains(t, p.Detail, "management-first: ", "hq", "kms since ", "rotor recover hq --wait")
	}
	if doc, err := open[fleet.Agent](t, w, bus.Agents).Get(t.Context(), "edge-01"); err == nil && len(doc.Value.Permits) > 0 {
		t.Errorf("permits %+v", doc.Value.Permits)
	}
	if _, err := w.client.Recover(t.Context(), "hq", api.RecoveryRequest{}); err != nil {
		t.Errorf("the management cluster itself: %v", err)
	}
	w.record(t, "hq", kms, w.issuer.sign(t, order{cluster: "hq", client: kms, number: 2, step: fleet.StepProven}))
	bustest.Eventually(t, func() error {
		_, err := w.client.Recover(t.Context(), "edge-01", api.RecoveryRequest{})
		return err
	})
}

// What a client had before its recovery signs in no more, although it is valid.
func TestF27_RecoveryEndsWhatWasBefore(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	sign := func(number int) issued {
		return w.issuer.sign(t, order{cluster: "edge-01", client: kms, number: number, step: fleet.StepInstalled})
	}
	old, g := sign(1), sign(2)
	g.Reason = fleet.ReasonRecovery
	w.record(t, "edge-01", kms, old, g)
	if _, err := w.prove(t, old.pair, old.token); status(err) != http.StatusForbidden || !strings.Contains(err.Error(), "recovered") {
		t.Errorf("the generation before: %v", err)
	}
	if _, err := w.prove(t, g.pair, g.token); err != nil {
		t.Error(err)
	}
}
