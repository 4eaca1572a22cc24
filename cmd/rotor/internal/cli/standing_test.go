package cli

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// ask runs the command line with somebody at a terminal who types an answer.
func (s *server) ask(t *testing.T, answer string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	env := map[string]string{"ROTOR_URL": s.URL, "ROTOR_TOKEN": token}
	root := New(Options{Getenv: func(k string) string { return env[k] }, Version: "v1.2.3", Asks: true})
	code := Execute(t.Context(), root, args, Streams{strings.NewReader(answer), &out, &errs})
	return result{code, out.String(), errs.String()}
}

func TestRevoke(t *testing.T) {
	s := newServer(t)
	var got api.RevokeRequest
	var key string
	s.mux.HandleFunc("POST /v1/clusters/hq/revocations", func(w http.ResponseWriter, r *http.Request) {
		key = r.Header.Get(api.HeaderIdempotency)
		_ = json.NewDecoder(r.Body).Decode(&got)
		answer(api.ClientView{
			Cluster: "hq", Kind: "node-agent", Instance: "host-1", State: fleet.StateRevoked,
			Reason: "revoked since 2026-11-24 12:00 UTC: key-compromise", Remedy: "rotor reinstate hq/node-agent/host-1",
		})(w, r)
	})
	for name, tt := range map[string]struct {
		answer string // of somebody at a terminal; nobody is there if empty
		args   []string
		code   int
		out    string
		err    string
	}{
		"without a terminal": {"", []string{"--reason", "key-compromise"}, 2, "", "say --yes"},
		"with --yes":         {"", []string{"--reason", "key-compromise", "--yes"}, 0, "hq/node-agent/host-1 is revoked since 2026-11-24 12:00 UTC: key-compromise\n  -> rotor reinstate hq/node-agent/host-1\n", ""},
		"confirmed":          {"yes\n", []string{"--reason", "key-compromise"}, 0, "is revoked since", "Revoke hq/node-agent/host-1 (key-compromise)?"},
		"refused":            {"y\n", []string{"--reason", "key-compromise"}, 1, "", "nothing was done"},
		"no answer":          {"\x00", []string{"--reason", "key-compromise"}, 1, "", "nothing was done"},
		"no reason":          {"", []string{"--yes"}, 2, "", "unspecified, key-compromise, ca-compromise, affiliation-changed, superseded, cessation-of-operation, certificate-hold, privilege-withdrawn or aa-compromise"},
		"wrong reason":       {"", []string{"--yes", "--reason", "keyCompromise"}, 2, "", "key-compromise, ca-compromise"},
	} {
		t.Run(name, func(t *testing.T) {
			got, key, s.calls = api.RevokeRequest{}, "", nil
			args := append([]string{"revoke", "hq/node-agent/host-1"}, tt.args...)
			r := s.run(t, args...)
			if tt.answer != "" {
				r = s.ask(t, tt.answer, args...)
			}
			if r.code != tt.code || !strings.Contains(r.out, tt.out) || !strings.Contains(r.err, tt.err) {
				t.Fatalf("%+v", r)
			}
			if tt.code != 0 && len(s.calls) > 0 {
				t.Errorf("something was done: %q", s.calls)
			}
			if want := (fleet.ClientKey{Kind: "node-agent", Instance: "host-1"}); tt.code == 0 && (got.Client != want || got.Reason != fleet.KeyCompromise || key == "") {
				t.Errorf("sent %+v under key %q", got, key)
			}
		})
	}
	for _, wrong := range []string{"hq", "hq/", "hq/a/b/c", "hq/KMS"} {
		if r := s.run(t, "revoke", wrong, "--reason", "superseded", "--yes"); r.code != 2 {
			t.Errorf("%s: %+v", wrong, r)
		}
	}
}

func TestReinstate(t *testing.T) {
	s := newServer(t)
	s.mux.HandleFunc("POST /v1/clusters/edge-01/reinstatements", answer(api.ClientView{Cluster: "edge-01", Kind: "kms", State: fleet.StatePending}))
	if r := s.run(t, "reinstate", "edge-01/kms"); r.code != 0 || r.out != "edge-01/kms is reinstated and gets a new generation; follow it with: rotor get clients --cluster edge-01\n" {
		t.Errorf("%+v", r)
	}
}

// The gateway answers after a while though the issuer has not: that is no success.
func TestStandingNotInEffectYet(t *testing.T) {
	s := newServer(t)
	s.mux.HandleFunc("POST /v1/clusters/edge-01/revocations", answer(api.ClientView{Cluster: "edge-01", Kind: "kms", State: fleet.StateHealthy}))
	s.mux.HandleFunc("POST /v1/clusters/edge-01/reinstatements", answer(api.ClientView{Cluster: "edge-01", Kind: "kms", State: fleet.StateRevoked}))
	for _, args := range [][]string{{"revoke", "edge-01/kms", "--reason", "superseded", "--yes"}, {"reinstate", "edge-01/kms"}} {
		if r := s.run(t, args...); r.code != 1 || r.out != "" || !strings.Contains(r.err, "not in effect yet") {
			t.Errorf("%q: %+v", args, r)
		}
	}
}

// ledgerOf returns the entries of a ledger with two chains.
func ledgerOf(t *testing.T, n int) []json.RawMessage {
	t.Helper()
	var all []json.RawMessage
	for _, chain := range []string{"gateway", "issuer"} {
		store := &memory{all: &all}
		log := audit.New(chain, store, func() time.Time { return now })
		for i := range n {
			if err := log.Append(t.Context(), audit.Entry{Actor: "admin", Action: "client.revoke", Cluster: "edge-01", Request: chain + string(rune('a'+i))}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return all
}

func TestAudit(t *testing.T) {
	entries := ledgerOf(t, 3)
	s := newServer(t)
	served := entries
	s.mux.HandleFunc("GET "+api.PathAudit, func(w http.ResponseWriter, r *http.Request) {
		page := api.AuditPage{End: uint64(len(served))}
		from, to := 0, 2
		page.Next = "more"
		if r.URL.Query().Get("cursor") != "" {
			from, to, page.Next = 2, len(served), ""
		}
		page.Items = served[from:to]
		for at := from; at < to; at++ {
			page.Positions = append(page.Positions, uint64(at+1))
		}
		answer(page)(w, r)
	})
	s.mux.HandleFunc("GET "+api.PathStatus, answer(api.Status{Now: now, ClockRate: 1}))
	s.mux.HandleFunc("GET "+api.PathAuthority, answer(api.AuthorityView{}))
	s.mux.HandleFunc("GET "+api.PathRecords, answer(api.Page[api.RecordView]{}))
	s.mux.HandleFunc("GET "+api.PathSigned, answer(api.Page[api.SignedView]{}))
	if r := s.run(t, "audit", "verify"); r.code != 0 || !strings.HasSuffix(r.out, "ok: 6 entries in 2 chains\n") {
		t.Errorf("%+v", r)
	}
	file := filepath.Join(t.TempDir(), "ledger.jsonl")
	if r := s.run(t, "audit", "export", "--file", file); r.code != 0 || r.out != "" {
		t.Errorf("%+v", r)
	}
	if r := s.run(t, "audit", "export"); r.code != 0 || strings.Count(r.out, "\n") != 6 {
		t.Errorf("%+v", r)
	}
	verify := func() result { return runWith(t, nil, "", "audit", "verify", "--file", file) } // no server
	if r := verify(); r.code != 0 || !strings.Contains(r.out, "ok: 6 entries") {
		t.Errorf("%+v", r)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(raw), "edge-01", "edge-02", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := verify(); r.code != 1 || !strings.Contains(r.err, `:1: the chain is broken: entry 1 of chain "gateway"`) {
		t.Errorf("%+v", r)
	}
	served = append(append([]json.RawMessage{}, entries[:4]...), entries[5])
	if r := s.run(t, "audit", "verify"); r.code != 1 || !strings.Contains(r.err, `entry 2 of chain "issuer" is missing or was moved: entry 3 comes behind 1`) || !strings.Contains(r.err, "hint:") {
		t.Errorf("left out: %+v", r)
	}
}
