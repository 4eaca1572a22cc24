package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/services/gateway"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// entries returns what the gateway has written into the ledger.
func (w *world) entries(t *testing.T) []audit.Entry {
	t.Helper()
	messages, err := w.bus.Bus.Audited(t.Context(), "gateway", 0, 10000)
	if err != nil {
		t.Fatal(err)
	}
	var chains audit.Chains
	var all []audit.Entry
	for _, m := range messages {
		e, err := chains.Add(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// write is one way to change something through the API, with the action of its
// entry.
type write struct {
	action string
	do     func(w *world, t *testing.T) error // whole; or
	call   *http.Request                      // one that may wait for an effect that nobody in the test brings about
	in     any
	given  *fleet.Rollout // that is the last of the CA before
}

func called(action, method, path string, in any) write {
	return write{action: action, call: &http.Request{Method: method, URL: &url.URL{Path: path}}, in: in}
}

// course is a write about a rotation of the CA.
func course(given fleet.Rollout, action, method, path string, in any) write {
	row := called("authority."+action, method, strings.Replace(path, "{kind}", "ca", 1), in)
	given.ID, given.Kind = "of the CA", fleet.RolloutCA
	row.given = &given
	return row
}

// buried is the path of a dead letter.
func buried(cluster string) string {
	return api.PathDeadLetters + "/" + event.ID("letter", bus.UserScheduler, cluster)
}

// writes are all operations that change something, by their ids. A new one needs a
// row here: what an operator does, and who is let in, has an entry.
var writes = map[string]write{
	"apply": {action: "fleet.apply", do: func(w *world, t *testing.T) error {
		_, err := w.client.Apply(t.Context(), []byte(strings.Replace(fleetFile, "zone: north", "zone: south", 1)), false, false)
		return err
	}},
	"rotate":            called("cluster.rotate", http.MethodPost, api.PathRotations, api.RotateRequest{All: true}),
	"rotateCluster":     called("cluster.rotate", http.MethodPost, api.PathClusters+"/hq/rotations", nil),
	"resumeRotation":    called("rotation.resume", http.MethodPost, api.PathRotations+"/"+halted+"/resume", nil),
	"cancelRotation":    called("rotation.cancel", http.MethodPost, api.PathRotations+"/"+halted+"/cancel", nil),
	"excludeCluster":    called("rotation.exclude", http.MethodPost, api.PathRotations+"/"+halted+"/exclusions", api.ExclusionRequest{Cluster: "hq", Reason: "flood"}),
	"includeCluster":    called("rotation.include", http.MethodDelete, api.PathRotations+"/"+halted+"/exclusions/edge-01", nil),
	"upgrade":           called("cluster.upgrade", http.MethodPost, api.PathClusters+"/edge-01/upgrades", api.UpgradeRequest{Release: "2026.08"}),
	"join":              called("agent.join-token", http.MethodPost, api.PathClusters+"/hq/join-tokens", nil),
	"recover":           called("cluster.recover", http.MethodPost, api.PathClusters+"/edge-01/recoveries", nil),
	"revoke":            called("client.revoke", http.MethodPost, api.PathClusters+"/edge-01/revocations", api.RevokeRequest{Client: kms, Reason: fleet.Superseded}),
	"reinstate":         called("client.reinstate", http.MethodPost, api.PathClusters+"/edge-01/reinstatements", api.ReinstateRequest{Client: csi}),
	"replayDeadLetter":  called("letter.replay", http.MethodPost, buried("edge-a")+"/replay", nil),
	"dropDeadLetter":    called("letter.drop", http.MethodDelete, buried("edge-b"), nil),
	"replayDeadLetters": called("letter.replay", http.MethodPost, api.PathDeadLetters+"/replay", api.ReplayRequest{Cluster: "edge-c"}),
	"rotateAuthority":   called("authority.rotate", http.MethodPost, api.PathRollouts, api.RolloutRequest{Kind: fleet.RolloutToken}),
	"externalAuthority": called("authority.csr", http.MethodPost, api.PathExternal, nil),
	"rollbackAuthority": course(fleet.Rollout{Phase: fleet.RolloutTrusted}, "rollback", http.MethodPost, api.PathRollback, nil),
	"resumeAuthority":   course(fleet.Rollout{Phase: fleet.RolloutReissued, Halted: "too many failures"}, "resume", http.MethodPost, api.PathResume, nil),
	"retireAuthority":   course(fleet.Rollout{Phase: fleet.RolloutRetire, Reason: fleet.RolloutTainted}, "retire", http.MethodPost, api.PathRetirement, nil),
	"excludeFromAuthority": course(fleet.Rollout{Phase: fleet.RolloutTrusted}, "exclude", http.MethodPost, api.PathExclusions,
		api.Exclude{Cluster: "edge-01", Reason: "flood"}),
	"includeInAuthority": course(fleet.Rollout{Phase: fleet.RolloutTrusted, Excluded: map[string]fleet.Exclusion{"edge-01": {Reason: "flood"}}},
		"include", http.MethodDelete, api.PathExclusions+"/edge-01", nil),
	"login": {action: "client.login", do: func(w *world, t *testing.T) error {
		p := w.signedIn(t, order{cluster: "edge-01", client: certManager, number: 1, step: fleet.StepProven})
		_, err := p.Login(t.Context(), p.with, newKey(t))
		return err
	}},
	"redeemRecovery": {action: "client.recovery", do: func(w *world, t *testing.T) error {
		v, err := w.client.Recover(t.Context(), "edge-01", api.RecoveryRequest{Clients: []fleet.ClientKey{cloudProvider}, Token: true})
		if err != nil || len(v.Tokens) != 1 {
			return fmt.Errorf("tokens %+v: %w", v.Tokens, err)
		}
		_, err = (&api.Client{URL: w.url}).Redeem(t.Context(), secret.New(v.Tokens[0].Token), newKey(t))
		return err
	}},
	"enrol": {action: "agent.enrol", do: func(w *world, t *testing.T) error {
		w.enrolled(t, "edge-02")
		return nil
	}},
}

// halted is the id of a rotation that is halted.
const halted = "0b7c44b2-6d0b-4b52-8a3d-0d5f6c1f6b11"

var (
	csi           = fleet.ClientKey{Kind: "csi"}
	certManager   = fleet.ClientKey{Kind: "cert-manager"}
	cloudProvider = fleet.ClientKey{Kind: "cloud-provider"}
)

// unwritten are the operations that are no GET and have no entry, and why.
var unwritten = map[string]string{
	"introspect":   "it reads",
	"fileRequests": "a request changes nothing until something is signed for it, and that has an entry",
	"reportSteps":  "what an agent has done is in the record and among the facts",
	"prove":        "likewise",
}

// operations returns the ids of all operations of both listeners that are no GET.
func operations(t *testing.T) []string {
	t.Helper()
	own, agents, err := gateway.OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, raw := range [][]byte{own, agents} {
		var doc struct {
			Paths map[string]map[string]struct {
				ID string `json:"operationId"`
			} `json:"paths"`
		}
		if err := json.Unmarshal(raw, &doc); err != nil {
			t.Fatal(err)
		}
		for _, methods := range doc.Paths {
			for method, operation := range methods {
				if method != "get" && !slices.Contains(ids, operation.ID) {
					ids = append(ids, operation.ID)
				}
			}
		}
	}
	return ids
}

// Every operation that changes something has an entry in the ledger, and one that
// nobody has thought of fails here.
func TestEveryWriteHasAnEntry(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile+`  - {name: edge-02, kind: workload, parent: hq, release: "2026.07", upgradedAt: 2026-07-05}`+"\n")
	if _, err := open[fleet.Credentials](t, w, bus.Credentials).Edit(t.Context(), "edge-01", func(c *fleet.Credentials) error {
		c.Clients = map[fleet.ClientKey]*fleet.Record{csi: {Revoked: &fleet.Revocation{Reason: fleet.Superseded}}}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := open[fleet.Rotation](t, w, bus.Rotations).Create(t.Context(), halted, fleet.Rotation{
		ID: halted, Reason: fleet.ReasonRotation, State: fleet.RotationHalted, Clusters: []string{"hq", "edge-01"},
		Halt: &fleet.Halt{Number: 1}, Exclusions: map[string]fleet.Exclusion{"edge-01": {Reason: "flood"}},
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"edge-a", "edge-b", "edge-c"} {
		bury(t, w, bus.UserScheduler, name, `{}`)
	}
	bustest.Eventually(t, func() error {
		_, err := w.client.Rotation(t.Context(), halted)
		return err
	})
	for _, id := range operations(t) {
		if unwritten[id] != "" {
			continue
		}
		row, known := writes[id]
		if !known {
			t.Errorf("operation %s has no row: write down in the ledger what it does before it does it, and add a row to the table of this test", id)
			continue
		}
		t.Run(id, func(t *testing.T) { w.demandEntry(t, row) })
	}
}

// demandEntry makes a call and waits for its entry, which may come before the
// answer.
func (w *world) demandEntry(t *testing.T, row write) {
	t.Helper()
	if row.given != nil {
		if _, err := open[fleet.Rollout](t, w, bus.Rotations).Edit(t.Context(), fleet.RolloutCA.Key(), func(r *fleet.Rollout) error {
			*r = *row.given
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	before := len(w.entries(t))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	if row.call == nil {
		if err := row.do(w, t); err != nil {
			t.Fatal(err)
		}
	} else {
		go func() {
			defer close(done)
			done <- w.client.Call(ctx, row.call.Method, row.call.URL.Path, row.in, nil)
		}()
		defer func() {
			for range done { // until the call has ended; what it said does not matter here
				continue
			}
		}()
	}
	defer cancel()
	var refused error
	bustest.Eventually(t, func() error {
		for _, e := range w.entries(t)[before:] {
			if e.Action == row.action && e.Actor != "" {
				return nil
			}
		}
		select {
		case err, fresh := <-done:
			if fresh {
				refused = err
			}
		default:
		}
		if refused != nil {
			t.Fatalf("no entry, and %v", refused)
		}
		return fmt.Errorf("no entry %s", row.action)
	})
}

// A program and an agent that repeat a call whose answer was lost make no second
// entry, and who cannot be written down is not let in.
func TestWhoIsLetInIsWrittenDownOnce(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	p := w.signedIn(t, order{})
	next := newKey(t)
	agent, token := w.newAgent(t), w.joinToken(t, "hq", false)
	for range 2 {
		if _, err := p.Login(t.Context(), p.with, next); err != nil {
			t.Fatal(err)
		}
		if err := agent.enrol(t.Context(), "hq", token); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, e := range w.entries(t) {
		if e.Action == "client.login" || e.Action == "agent.enrol" {
			got = append(got, e.Actor+" "+e.Action+" "+e.Cluster+" "+e.Client)
		}
	}
	if want := []string{"client edge-01/kms client.login edge-01 kms", "agent " + agent.id + " agent.enrol hq "}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
