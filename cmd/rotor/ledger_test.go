package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/cli"
	"github.com/rotor-fleet/rotor/services/gateway"
	"github.com/rotor-fleet/rotor/services/issuer"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/secret"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// stored are the messages of the streams of a store.
type stored map[string][]*nats.Msg

// fleetOf makes a fleet with a client that was issued two generations, and returns
// its store with a checkpoint over all of the ledger.
func fleetOf(t *testing.T) stored {
	t.Helper()
	s := bustest.New(t)
	fleetOn(t, s)
	return dump(t, s)
}

// fleetOn makes the fleet on a server.
func fleetOn(t *testing.T, s *bustest.Server) {
	t.Helper()
	config := issuer.Defaults()
	config.KeyFile = filepath.Join(t.TempDir(), "issuer.key")
	run := func() {
		env := s.Env(t, "issuer", clock.Real())
		bustest.Run(t, func(ctx context.Context) error { return issuer.Run(ctx, env, config) })
	}
	run()
	asked := audit.New("gateway", s.Bus.Ledger("gateway"), clock.Wall)
	credentials, err := kv.Open[fleet.Credentials](t.Context(), s.NATS, bus.Credentials)
	if err != nil {
		t.Fatal(err)
	}
	client := fleet.ClientKey{Kind: "kms"}
	for generation := 1; generation <= 2; generation++ {
		if err := asked.Append(t.Context(), audit.Entry{Actor: "admin", Action: "cluster.rotate", Cluster: "edge-01", Request: fmt.Sprint(generation)}); err != nil {
			t.Fatal(err)
		}
		order(t, s, client, generation)
		bustest.Eventually(t, func() error {
			e, err := credentials.Get(t.Context(), "edge-01")
			if err == nil && e.Value.Record(client).Number() < generation {
				err = errors.New("not issued")
			}
			return err
		})
	}
	if err := asked.Append(t.Context(), audit.Entry{Actor: "admin", Action: "client.revoke", Cluster: "edge-01", Request: "3", Reason: "superseded"}); err != nil {
		t.Fatal(err)
	}
	run() // one that starts signs a checkpoint
	authority, err := kv.Open[fleet.Authority](t.Context(), s.NATS, bus.Authority)
	if err != nil {
		t.Fatal(err)
	}
	bustest.Eventually(t, func() error {
		e, err := authority.Get(t.Context(), fleet.AuthorityKey)
		if err != nil {
			return err
		}
		c, _, err := trust.VerifyCheckpoint(e.Value.Checkpoint, e.Value.Bundle.FleetKey)
		if err == nil && c.Heads["gateway"].Seq < 3 {
			err = errors.New("no checkpoint over all")
		}
		return err
	})
}

// order puts a request on file and asks the issuer for a generation.
func order(t *testing.T, s *bustest.Server, client fleet.ClientKey, generation int) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	thumbprint, err := identity.Thumbprint(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	opener, err := secret.NewOpenKey()
	if err != nil {
		t.Fatal(err)
	}
	agents, err := kv.Open[fleet.Agent](t.Context(), s.NATS, bus.Agents)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agents.Edit(t.Context(), "edge-01", func(a *fleet.Agent) error {
		a.ID, a.SealKey = "agent-1", opener.SealKey()
		a.Requests = map[fleet.ClientKey]fleet.Request{client: {Generation: generation, CSR: csr, Key: thumbprint}}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	at := clock.Wall().Truncate(time.Second)
	m := event.Meta{Source: "scheduler", Cluster: "edge-01", Key: []string{fmt.Sprint(generation)}, Time: at}
	if err := bus.Publish(t.Context(), s.Bus, event.Issue, m, event.IssueCommand{Reason: fleet.ReasonRenewal, At: at, Clients: []event.IssueClient{{
		Client: client, Generation: generation, Life: fleet.Life{Certificate: at.Add(90 * fleet.Day), Token: at.Add(90 * fleet.Day)}, RenewAt: at.Add(50 * fleet.Day),
	}}}); err != nil {
		t.Fatal(err)
	}
}

// dump reads a store.
func dump(t *testing.T, s *bustest.Server) stored {
	t.Helper()
	js, err := jetstream.New(s.NATS)
	if err != nil {
		t.Fatal(err)
	}
	all := stored{}
	for _, name := range bus.Lasting() {
		stream, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
			raw, err := stream.GetMsg(t.Context(), seq)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				continue // another took its place in a bucket
			}
			if err != nil {
				t.Fatal(err)
			}
			all[name] = append(all[name], &nats.Msg{Subject: raw.Subject, Data: raw.Data})
		}
	}
	return all
}

// serve puts a store on a server of its own, less what is deleted from the ledger,
// and returns the URL and the token of a gateway before it.
func (all stored) serve(t *testing.T, deleted ...uint64) (url, token string) {
	t.Helper()
	return all.serveOn(t, bustest.NewEmpty(t), clock.Real(), deleted...)
}

// serveOn is serve on an empty server, by a clock of the fleet.
func (all stored) serveOn(t *testing.T, s *bustest.Server, fleetTime clock.Clock, deleted ...uint64) (url, token string) {
	t.Helper()
	js, err := jetstream.New(s.NATS)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range bus.Layout(1) {
		if c.Name == bus.Audit { // whoever holds the disk of the store can do all of this
			c.DenyDelete = false
			stream, err := js.CreateStream(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			publish(t, js, all[c.Name])
			for _, seq := range deleted {
				if err := stream.DeleteMsg(t.Context(), seq); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := bus.Setup(t.Context(), s.NATS, 1); err != nil {
		t.Fatal(err)
	}
	for name, messages := range all {
		if name != bus.Audit {
			publish(t, js, messages)
		}
	}
	dir := t.TempDir()
	config := gateway.Defaults()
	config.AdminTokenFile = filepath.Join(dir, "admin.token")
	if config.APIListener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	config.ListenAgents = "127.0.0.1:0"
	env := s.Env(t, "gateway", fleetTime)
	env.Log = bustest.Quiet()
	bustest.Run(t, func(ctx context.Context) error { return gateway.Run(ctx, env, config) })
	var text secret.Text
	bustest.Eventually(t, func() (err error) {
		text, err = secret.ReadFile(config.AdminTokenFile)
		return err
	})
	return "http://" + config.APIListener.Addr().String(), text.Reveal()
}

func publish(t *testing.T, js jetstream.JetStream, messages []*nats.Msg) {
	t.Helper()
	for _, m := range messages {
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
}

// rotorWith runs the command line.
func rotorWith(t *testing.T, url, token string, args ...string) (code int, out string) {
	t.Helper()
	env := map[string]string{"ROTOR_URL": url, "ROTOR_TOKEN": token, "HOME": t.TempDir()}
	var both bytes.Buffer
	root := cli.New(cli.Options{Getenv: func(k string) string { return env[k] }, Version: "v0"})
	code = cli.Execute(t.Context(), root, args, cli.Streams{In: strings.NewReader(""), Out: &both, Err: &both})
	return code, both.String()
}

// places returns where the entries of a chain lie, from 0.
func (all stored) places(t *testing.T, chain string) []int {
	t.Helper()
	var at []int
	for i, m := range all[bus.Audit] {
		if strings.HasSuffix(m.Subject, "."+chain) {
			at = append(at, i)
		}
	}
	if len(at) < 3 {
		t.Fatalf("only %d entries of %s", len(at), chain)
	}
	return at
}

// naming returns where the entry that holds a text lies, from 0.
func (all stored) naming(t *testing.T, text string) int {
	t.Helper()
	at := slices.IndexFunc(all[bus.Audit], func(m *nats.Msg) bool { return strings.Contains(string(m.Data), text) })
	if at < 0 {
		t.Fatalf("no entry holds %s", text)
	}
	return at
}

// The verification of a running Rotor finds whatever is done to the stream in its
// store, and names the entry.
func TestATamperedStoreIsFound(t *testing.T) {
	t.Parallel()
	whole := fleetOf(t)
	gatewayAt := whole.places(t, "gateway")
	last := len(whole[bus.Audit]) - 1
	without := func(at ...int) func([]*nats.Msg) []*nats.Msg {
		return func(all []*nats.Msg) []*nats.Msg {
			var left []*nats.Msg
			for i, m := range all {
				if !slices.Contains(at, i) {
					left = append(left, m)
				}
			}
			return left
		}
	}
	swapped := func(i, j int) func([]*nats.Msg) []*nats.Msg {
		return func(all []*nats.Msg) []*nats.Msg {
			all[i], all[j] = all[j], all[i]
			return all
		}
	}
	replaced := func(at int, old, new string) func([]*nats.Msg) []*nats.Msg {
		return func(all []*nats.Msg) []*nats.Msg {
			data := strings.Replace(string(all[at].Data), old, new, 1)
			if data == string(all[at].Data) {
				t.Fatalf("nothing changed in %s", data)
			}
			all[at] = &nats.Msg{Subject: all[at].Subject, Data: []byte(data)}
			return all
		}
	}
	same := func(all []*nats.Msg) []*nats.Msg { return all }
	for name, test := range map[string]struct {
		do      func([]*nats.Msg) []*nats.Msg
		deleted []uint64
		says    string
	}{
		"as written":                   {do: same},
		"changed":                      {do: replaced(gatewayAt[1], "cluster.rotate", "cluster.revoke"), says: `entry 2 of chain "gateway"`},
		"changed, of the issuer":       {do: replaced(whole.naming(t, `"generation":1`), `"generation":1`, `"generation":7`), says: `of chain "issuer"`},
		"left out, first":              {do: without(gatewayAt[0]), says: `entry 1 of chain "gateway" is missing`},
		"left out, in the middle":      {do: without(gatewayAt[1]), says: `entry 2 of chain "gateway" is missing`},
		"left out, last of a chain":    {do: without(gatewayAt[2]), says: `chain "gateway"`},
		"left out, last of all":        {do: without(last), says: `of chain "issuer", or one behind it, is missing`},
		"cut off":                      {do: without(last-1, last), says: `is missing`},
		"deleted, first":               {do: same, deleted: []uint64{1}, says: "nothing lies at position 1"},
		"deleted, in the middle":       {do: same, deleted: []uint64{uint64(gatewayAt[1] + 1)}, says: `entry 2 of chain "gateway" is missing`},
		"deleted, last":                {do: same, deleted: []uint64{uint64(last + 1)}, says: fmt.Sprintf("position %d", last+1)},
		"moved within a chain":         {do: swapped(gatewayAt[0], gatewayAt[1]), says: `entry 1 of chain "gateway" is missing or was moved`},
		"moved between chains":         {do: swapped(gatewayAt[1], gatewayAt[1]+1), says: `it was moved`},
		"moved to the end":             {do: func(all []*nats.Msg) []*nats.Msg { return append(without(gatewayAt[1])(all), all[gatewayAt[1]]) }, says: `entry 2 of chain "gateway" is missing or was moved`},
		"put in twice":                 {do: func(all []*nats.Msg) []*nats.Msg { return slices.Insert(all, gatewayAt[1], all[gatewayAt[1]]) }, says: `chain "gateway"`},
		"a chain made anew as a whole": {do: func(all []*nats.Msg) []*nats.Msg { return forged(t, all, gatewayAt) }, says: `of chain "gateway" has the hash`},
	} {
		t.Run(name, func(t *testing.T) {
			tampered := stored{}
			for stream, messages := range whole {
				tampered[stream] = slices.Clone(messages)
			}
			tampered[bus.Audit] = test.do(tampered[bus.Audit])
			url, token := tampered.serve(t, test.deleted...)
			code, out := rotorWith(t, url, token, "audit", "verify")
			if test.says == "" {
				if code != 0 || !strings.Contains(out, "2 certificates on record of 1 client, each in the ledger") {
					t.Errorf("exit code %d: %s", code, out)
				}
				return
			}
			if code != 1 || !strings.Contains(out, test.says) {
				t.Errorf("exit code %d, and not %q: %s", code, test.says, out)
			}
		})
	}
}

// chainOf is a store for one chain that remembers what was written.
type chainOf struct{ all []audit.Message }

func (c *chainOf) Last(context.Context) (audit.Message, error) {
	if len(c.all) == 0 {
		return audit.Message{}, nil
	}
	return c.all[len(c.all)-1], nil
}
func (c *chainOf) At(context.Context, uint64) (audit.Message, error) { return audit.Message{}, nil }

// forged makes the chain of the gateway anew: each entry fits the one before it,
// lies where it lay, and the second says something else.
func forged(t *testing.T, all []*nats.Msg, at []int) []*nats.Msg {
	t.Helper()
	store := &chainOf{}
	for i, place := range at {
		e, err := audit.Parse(all[place].Data)
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			e.Action = "cluster.recover"
		}
		log := audit.New("gateway", &next{store, uint64(place + 1)}, func() time.Time { return e.Time })
		if err := log.Append(t.Context(), audit.Entry{Actor: e.Actor, Action: e.Action, Cluster: e.Cluster, Request: e.Request, Reason: e.Reason}); err != nil {
			t.Fatal(err)
		}
		all[place] = &nats.Msg{Subject: all[place].Subject, Data: store.all[i].Data}
	}
	return all
}

// next writes one entry behind those of a chain, at a position.
type next struct {
	*chainOf
	position uint64
}

func (n *next) Append(_ context.Context, message []byte, _ string, _ uint64) (uint64, bool, error) {
	n.all = append(n.all, audit.Message{Position: n.position, Data: message})
	return n.position, false, nil
}
