package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/cluster"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// Whichever service is killed without warning at whichever boundary of two
// phases, and also all of them at once: the rotation of the CA ends the same way.
func TestRolloutSurvivesAKillAtEveryBoundary(t *testing.T) {
	t.Parallel()
	k, client := startPrograms(t, cluster.Config{Nodes: 1, Copies: 1, Hosts: 2})
	nc, err := k.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "KV_"+bus.Rotations)
	if err != nil {
		t.Fatal(err)
	}
	document := func() (fleet.Rollout, error) {
		var r fleet.Rollout
		msg, err := stream.GetLastMsgForSubject(t.Context(), "$KV."+bus.Rotations+"."+fleet.RolloutCA.Key())
		if err == nil {
			err = json.Unmarshal(msg.Data, &r)
		}
		return r, err
	}
	all := []string{"scheduler-1", "issuer-1", "gateway-1", "notifier-1"}
	for _, victims := range [][]string{all[:1], all[1:2], all[2:3], all[3:], {"agents-1", "agents-2"}, all} {
		killAtBoundaries(t, k, client, victims, document)
	}
}

func killAtBoundaries(t *testing.T, k *cluster.Cluster, client *api.Client, victims []string, document func() (fleet.Rollout, error)) {
	t.Helper()
	var begun fleet.Rollout
	wait(t, "the rotation of the CA has begun", func() error {
		return client.Call(t.Context(), http.MethodPost, api.PathRollouts, api.RolloutRequest{}, &begun)
	})
	killed := map[fleet.RolloutPhase]bool{}
	wait(t, fmt.Sprintf("the rotation ends though %v are killed", victims), func() error {
		for {
			r, err := document()
			if err != nil {
				return err
			}
			if r.ID != begun.ID {
				return fmt.Errorf("the document is of %q", r.ID)
			}
			if !killed[r.Phase] {
				killed[r.Phase] = true
				for _, name := range victims {
					k.Process(name).Kill()
				}
				for _, name := range victims {
					if err := k.Process(name).Start(); err != nil {
						return err
					}
				}
			}
			if r.Phase.Done() {
				return nil
			}
			if t.Context().Err() != nil {
				return t.Context().Err()
			}
			if clock.Wall().Sub(begun.CreatedAt) > 2*patience {
				return errors.New("it hangs in " + string(r.Phase))
			}
		}
	})
	t.Logf("%v were killed in %v", victims, killed)
	wait(t, "it has ended as it always does", func() error { return rolledOut(t.Context(), client, begun.ID) })
}

// rolledOut reports whether a rotation of the CA has ended: one CA is trusted, it
// is the new one, and every client is healthy with a certificate of it.
func rolledOut(ctx context.Context, client *api.Client, id string) error {
	var status api.AuthorityStatus
	if err := client.Call(ctx, http.MethodGet, api.PathAuthority, nil, &status); err != nil {
		return err
	}
	if status.CA == nil || status.CA.ID != id || status.CA.Phase != fleet.RolloutCompleted {
		return fmt.Errorf("the last rotation of the CA is %+v", status.CA)
	}
	return oneCA(ctx, client, status, status.CA.To)
}

// oneCA reports whether one CA alone is trusted, and used by every client.
func oneCA(ctx context.Context, client *api.Client, status api.AuthorityStatus, want string) error {
	for _, c := range status.CAs {
		if (c.Phase == fleet.PhaseActive) != (c.ID == want) || c.Phase != fleet.PhaseActive && c.Phase != fleet.PhaseRetired {
			return fmt.Errorf("CA %d is %s", c.Number, c.Phase)
		}
	}
	clients, err := api.List[api.ClientView](ctx, client, api.PathClients, nil)
	if err != nil {
		return err
	}
	for _, c := range clients {
		if c.State != fleet.StateHealthy || c.Step != fleet.StepProven || c.Certificate.Issuer != want {
			return fmt.Errorf("%s %s/%s is %s, step %s, certificate of %s", c.Cluster, c.Kind, c.Instance, c.State, c.Step, c.Certificate.Issuer)
		}
	}
	if len(clients) == 0 {
		return errors.New("there are no clients")
	}
	return nil
}

// startPrograms runs so many NATS nodes, copies of each service and hosts of
// agents, with two clusters whose clients are proven.
func startPrograms(t *testing.T, c cluster.Config) (*cluster.Cluster, *api.Client) {
	t.Helper()
	c.Dir, c.Bin, c.Self, c.Log, c.Said = t.TempDir(), binaries, filepath.Join(binaries, "cluster"), io.Discard, t.Output()
	c.Listen = cluster.Listen{API: "127.0.0.1:0", Agents: "127.0.0.1:0", NATS: "127.0.0.1:0"}
	k, err := cluster.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	token, err := k.Token()
	if err != nil {
		t.Fatal(err)
	}
	client := &api.Client{URL: k.API(), Token: token}
	file := "authority: {soak: 100ms}\nreleases: [{version: \"1\", publishedAt: 2026-10-09}]\nclusters:\n"
	for _, name := range []string{"edge-01", "edge-02"} {
		file += fmt.Sprintf("  - {name: %s, kind: workload, release: \"1\", upgradedAt: 2026-10-12, delivery: {directory: clusters/%s}}\n", name, name)
	}
	if _, err := client.Apply(t.Context(), []byte(file), false, false); err != nil {
		t.Fatal(err)
	}
	wait(t, "all clients are healthy", func() error {
		var status api.Status
		if err := client.Call(t.Context(), http.MethodGet, api.PathStatus, nil, &status); err != nil {
			return err
		}
		if status.States["healthy"] != 8 {
			return fmt.Errorf("%v", status.States)
		}
		return nil
	})
	return k, client
}

// cmdKillRollout begins a rotation of the CA and kills `rotor up` at the beginning
// of each of its phases; in the end it is as if nothing had happened.
func cmdKillRollout(ts *testscript.TestScript, _ bool, _ []string) {
	client := func() *api.Client { return &api.Client{URL: ts.Getenv("API"), Token: secret.New(ts.Getenv("TOKEN"))} }
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	var begun fleet.Rollout
	ts.Check(client().Call(ctx, http.MethodPost, api.PathRollouts, api.RolloutRequest{}, &begun))
	var killed []string
	for {
		var status api.AuthorityStatus
		ts.Check(client().Call(ctx, http.MethodGet, api.PathAuthority, nil, &status))
		if status.CA == nil || status.CA.ID != begun.ID {
			continue
		}
		if phase := status.CA.Phase; !slices.Contains(killed, string(phase)) {
			killed = append(killed, string(phase))
			cmdCrash(ts, false, nil)
			cmdUp(ts, false, nil)
		}
		if status.CA.Phase.Done() {
			break
		}
	}
	eventually(ts, func() error { return rolledOut(ctx, client(), begun.ID) })
	_, _ = fmt.Fprintf(ts.Stdout(), "killed in %s\n", strings.Join(killed, " "))
}

// In each phase until the old CA is retired a rotation can be taken back: the old
// CA alone is trusted then, and every client is proven with a certificate of it.
// Afterwards it is refused.
func TestRollbackInEachPhase(t *testing.T) {
	t.Parallel()
	k, client := startPrograms(t, cluster.Config{Nodes: 1, Copies: 1, Hosts: 2})
	w := &rollbackWorld{t: t, k: k, client: client}
	start := func(names ...string) {
		for _, name := range names {
			if err := k.Process(name).Start(); err != nil {
				t.Fatal(err)
			}
		}
	}
	kill := func(names ...string) {
		for _, name := range names {
			k.Process(name).Kill()
		}
	}
	for _, test := range []struct {
		phase fleet.RolloutPhase
		hold  func() // begins a rotation and has it stand in the phase
		loose func() // lets it go on
	}{
		{fleet.RolloutPrepare, func() { kill("issuer-1"); w.begin() }, func() { start("issuer-1") }},
		{fleet.RolloutTrusted, func() { kill("agents-1"); w.begin() }, func() { start("agents-1") }},
		{fleet.RolloutActivate, func() {
			kill("agents-1")
			w.begin()
			// The other one has proven it, so the gateway has the certificate for that.
			wait(t, "one agent is missing", func() error {
				if r := w.status().CA; r.Phase != fleet.RolloutTrusted || r.MissingCount != 1 || r.Total != 2 {
					return fmt.Errorf("%s, %d of %d", r.Phase, r.Ready, r.Total)
				}
				return nil
			})
			kill("issuer-1")
			start("agents-1")
		}, func() { start("issuer-1") }},
		{fleet.RolloutReissued, func() {
			w.begin()
			w.reached(fleet.RolloutReissued)
			kill("agents-1", "agents-2")
		}, func() { start("agents-1", "agents-2") }},
	} {
		status := w.status()
		before := ""
		for _, c := range status.CAs {
			if c.Phase == fleet.PhaseActive {
				before = c.ID
			}
		}
		test.hold()
		w.reached(test.phase)
		w.rollback(0)
		test.loose()
		w.reached(fleet.RolloutRolledBack)
		if r := w.status().CA; r.BackFrom != test.phase {
			t.Errorf("taken back in %s, want in %s", r.BackFrom, test.phase)
		}
		wait(t, fmt.Sprintf("taken back in %s, all is as before", test.phase), func() error { return oneCA(t.Context(), client, w.status(), before) })
	}
	w.begin()
	w.reached(fleet.RolloutCompleted)
	w.rollback(http.StatusConflict)
}

type rollbackWorld struct {
	t      *testing.T
	k      *cluster.Cluster
	client *api.Client
}

func (w *rollbackWorld) begin() {
	w.t.Helper()
	if err := w.client.Call(w.t.Context(), http.MethodPost, api.PathRollouts, api.RolloutRequest{}, nil); err != nil {
		w.t.Fatal(err)
	}
}

func (w *rollbackWorld) status() api.AuthorityStatus {
	w.t.Helper()
	var status api.AuthorityStatus
	if err := w.client.Call(w.t.Context(), http.MethodGet, api.PathAuthority, nil, &status); err != nil {
		w.t.Fatal(err)
	}
	return status
}

// reached waits until the rotation stands in a phase; it looks all the time, as
// some phases are short.
func (w *rollbackWorld) reached(phase fleet.RolloutPhase) {
	w.t.Helper()
	deadline := clock.Wall().Add(patience)
	for clock.Wall().Before(deadline) {
		r := w.status().CA
		if r != nil && r.Phase == phase {
			return
		}
		if r != nil && r.Phase.Done() && phase != fleet.RolloutCompleted && len(r.Steps) > 1 && r.EndedAt.After(deadline.Add(-patience)) {
			w.t.Fatalf("the rotation has ended as %s, and was to be met in %s", r.Phase, phase)
		}
	}
	w.t.Fatalf("the rotation is %+v, want it in %s", w.status().CA, phase)
}

// rollback takes the rotation back, which is refused with the status, if it is not
// 0.
func (w *rollbackWorld) rollback(refused int) {
	w.t.Helper()
	path := strings.ReplaceAll(api.PathRollback, "{kind}", string(fleet.RolloutCA))
	err := w.client.Call(w.t.Context(), http.MethodPost, path, struct{}{}, nil)
	problem, isProblem := errors.AsType[*api.Problem](err)
	switch {
	case refused == 0 && err != nil:
		w.t.Fatalf("rollback: %v", err)
	case refused != 0 && (!isProblem || problem.Status != refused):
		w.t.Fatalf("rollback: %v, want it refused with %d", err, refused)
	}
}

// cmdOfflineRoot is an offline root that signs the request of a CA: offline-root
// CSR CERTIFICATE ROOT. It writes the CA certificate and its own.
func cmdOfflineRoot(ts *testscript.TestScript, _ bool, args []string) {
	block, _ := pem.Decode([]byte(ts.ReadFile(args[0])))
	if block == nil {
		ts.Fatalf("%s is no PEM", args[0])
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	ts.Check(err)
	ts.Check(csr.CheckSignature())
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	ts.Check(err)
	now := clock.Wall()
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Offline Root"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(10 * fleet.AuthorityLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	ts.Check(err)
	if root, err = x509.ParseCertificate(rootDER); err != nil {
		ts.Fatalf("%v", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: csr.Subject, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(fleet.AuthorityLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLen: 1,
	}, root, csr.PublicKey, key)
	ts.Check(err)
	for name, raw := range map[string][]byte{args[1]: der, args[2]: rootDER} {
		ts.Check(os.WriteFile(ts.MkAbs(name), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o600))
	}
}
