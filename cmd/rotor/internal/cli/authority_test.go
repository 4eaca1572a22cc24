package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// caSignedBy makes a CA certificate whose issuer has this name.
func caSignedBy(t *testing.T, issuer string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Rotor CA"}, NotAfter: now.Add(fleet.Day)}
	der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{Subject: pkix.Name{CommonName: issuer}}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// authorityOf is an authority in the middle of a rotation of its CA.
func authorityOf(t *testing.T) api.AuthorityStatus {
	t.Helper()
	begin := now.Add(-190 * fleet.Day)
	return api.AuthorityStatus{
		AuthorityView: api.AuthorityView{
			CAs: []fleet.CA{
				{ID: "1111111111111111", Number: 2, Phase: fleet.PhaseRetired},
				{ID: "0123456789abcdef", Number: 3, Phase: fleet.PhaseActive, Certificate: caSignedBy(t, "Rotor CA"), NotBefore: begin, NotAfter: begin.Add(365 * fleet.Day)},
				{ID: "fedcba9876543210", Number: 4, Phase: fleet.PhaseIncoming, Certificate: caSignedBy(t, "Example Root"), NotBefore: now, NotAfter: now.Add(365 * fleet.Day)},
			},
			Keys:   []fleet.SigningKey{{ID: "token-1", Number: 1, Phase: fleet.PhaseActive, ActivatedAt: begin}},
			Bundle: 7,
		},
		Now: now, Policy: fleet.DefaultAuthorityPolicy(),
		Dates: &fleet.AuthorityDates{
			Start: begin.Add(182 * fleet.Day), Warning: begin.Add(230 * fleet.Day), Critical: begin.Add(255 * fleet.Day),
			ActiveBy: begin.Add(260 * fleet.Day), CutsFrom: begin.Add(275 * fleet.Day), End: begin.Add(365 * fleet.Day),
		},
		CA: rollout(fleet.RolloutPrepare, fleet.RolloutTrusted),
	}
}

// rollout is a rotation of the CA that has come through these phases, a minute
// each.
func rollout(phases ...fleet.RolloutPhase) *fleet.Rollout {
	r := &fleet.Rollout{
		ID: "ro-1", Kind: fleet.RolloutCA, Reason: fleet.RolloutAsked, By: "admin", From: "0123456789abcdef", To: "fedcba9876543210",
		CreatedAt: now.Add(-10 * time.Minute),
	}
	for i, phase := range phases {
		r.Phase = phase
		r.Steps = append(r.Steps, fleet.RolloutStep{Phase: phase, At: r.CreatedAt.Add(time.Duration(i) * time.Minute)})
	}
	if r.Phase.Done() {
		r.EndedAt = r.Since()
	}
	return r
}

func changed(r *fleet.Rollout, change func(*fleet.Rollout)) *fleet.Rollout {
	change(r)
	return r
}

func TestAuthorityStatus(t *testing.T) {
	late := func(r *fleet.Rollout) {
		r.Ready, r.Total, r.MissingCount = 4, 8, 4
		r.Missing = []fleet.Laggard{
			{Cluster: "edge-03", Why: "its agent has not called", Since: now.Add(-3 * time.Hour)},
			{Cluster: "hq", Client: &fleet.ClientKey{Kind: "node-agent", Instance: "host-1"}, Why: "generation 4 is not proven\x1b[2J", Since: now.Add(-8 * time.Minute)},
		}
		r.Excluded = map[string]fleet.Exclusion{"edge-09": {Reason: "closed until spring", By: "admin", At: now.Add(-time.Hour)}}
	}
	none, waiting, halted, tainted, token := authorityOf(t), authorityOf(t), authorityOf(t), authorityOf(t), authorityOf(t)
	none.CA, none.CAs = nil, none.CAs[1:2]
	changed(waiting.CA, late)
	waiting.Attention = []string{"the rotation of the CA waits for edge-03"}
	waiting.Next = []api.Suggestion{{Command: "rotor authority exclude edge-03 --reason WHY", Why: "do not wait for it"}, {Command: "rotor authority rollback", Why: "take it back"}}
	halted.CA = changed(rollout(fleet.RolloutPrepare, fleet.RolloutTrusted, fleet.RolloutActivate, fleet.RolloutReissued), func(r *fleet.Rollout) {
		r.Halted = "2 of 4 clients of the canary have failed"
	})
	halted.Attention = []string{"it has halted"}
	halted.Policy.Mode = fleet.ModeManual
	halted.Pending = &fleet.PendingCA{Number: 5, CreatedAt: now}
	tainted.CA = changed(rollout(fleet.RolloutPrepare, fleet.RolloutActivate, fleet.RolloutReissued, fleet.RolloutRetire), func(r *fleet.Rollout) {
		r.Reason, r.LastReplacedAt = fleet.RolloutTainted, r.CreatedAt.Add(42500*time.Millisecond)
	})
	tainted.CAs[1].Phase, tainted.CAs[1].TaintedAt = fleet.PhaseOutgoing, now
	tainted.CAs[2].Phase, tainted.CAs[2].Anchor = fleet.PhaseActive, []byte("root")
	tainted.Attention = []string{"retire it"}
	token.CA = rollout(fleet.RolloutPrepare, fleet.RolloutTrusted, fleet.RolloutActivate, fleet.RolloutReissued, fleet.RolloutRetire, fleet.RolloutCompleted)
	token.Token = changed(rollout(fleet.RolloutPrepare, fleet.RolloutTrusted), func(r *fleet.Rollout) {
		r.Kind, r.OpensAt, r.From, r.To, r.Reason = fleet.RolloutToken, now.Add(3*time.Minute), "token-1", "token-2", fleet.RolloutScheduled
	})
	token.Keys = append(token.Keys, fleet.SigningKey{ID: "token-2", Number: 2, Phase: fleet.PhaseIncoming, Algorithm: "ES256"},
		fleet.SigningKey{ID: "token-0", Phase: fleet.PhaseOutgoing, RetireAt: now.Add(90 * fleet.Day)}, fleet.SigningKey{ID: "gone", Phase: fleet.PhaseRetired})
	var all strings.Builder
	for _, test := range []struct {
		name   string
		status api.AuthorityStatus
		code   int
	}{{"none", none, 0}, {"waiting", waiting, 1}, {"halted", halted, 1}, {"tainted", tainted, 1}, {"token", token, 0}} {
		s := newServer(t)
		s.mux.Handle("GET /v1/authority", answer(test.status))
		r := s.run(t, "authority", "status")
		if r.code != test.code || r.err != "" {
			t.Errorf("%s: %+v", test.name, r)
		}
		all.WriteString("== " + test.name + "\n" + r.out + "\n")
		if r := s.run(t, "authority", "status", "-o", "json"); r.code != test.code || !strings.Contains(r.out, `"dates": {`) {
			t.Errorf("%s as JSON: %+v", test.name, r)
		}
	}
	golden(t, "authority", all.String())
	s := newServer(t)
	s.mux.Handle("GET /v1/authority", answer(map[string]any{"ofALaterVersion": 1, "cas": []any{}}))
	if r := s.run(t, "authority", "status", "-o", "json"); r.code != 0 || !strings.Contains(r.out, `"ofALaterVersion": 1`) {
		t.Errorf("what the server sends: %+v", r)
	}
	if r := s.run(t, "authority", "status"); r.code != 0 || !strings.Contains(r.out, "no authority yet") {
		t.Errorf("before the first: %+v", r)
	}
}

// Whoever has a root of their own is told that this leads away from it.
func TestRotateBelowAnOfflineRoot(t *testing.T) {
	for _, anchor := range [][]byte{nil, []byte("PEM")} {
		s := newServer(t)
		glance := status(api.HealthWell)
		glance.Authority = authorityOf(t).AuthorityView
		for i := range glance.Authority.CAs {
			glance.Authority.CAs[i].Anchor = anchor
		}
		s.mux.Handle("GET /v1/status", answer(glance))
		r := s.ask(t, "no\n", "authority", "rotate")
		if told := strings.Contains(r.err, "use rotor authority csr instead"); told != (anchor != nil) {
			t.Errorf("anchor %q: %+v", anchor, r)
		}
	}
}

func TestAuthorityAsks(t *testing.T) {
	for name, test := range map[string]struct {
		args     []string
		answer   string // of somebody at a terminal; nobody is there if empty
		code     int
		says     string
		question string
	}{
		"rotate without a terminal":   {[]string{"rotate"}, "", 2, "say --yes", ""},
		"taint without a terminal":    {[]string{"taint"}, "", 2, "say --yes", ""},
		"rollback without a terminal": {[]string{"rollback"}, "", 2, "say --yes", ""},
		"retire without a terminal":   {[]string{"retire"}, "", 2, "say --yes", ""},
		"exclude without a terminal":  {[]string{"exclude", "edge-01", "--reason", "x"}, "", 2, "say --yes", ""},
		"exclude without a reason":    {[]string{"exclude", "edge-01", "--yes"}, "", 2, "say why with --reason", ""},
		"rotate":                      {[]string{"rotate", "--canary", "edge-01"}, "yes\n", 0, "has begun (ro-1)", "Rotate CA 3, 0123456789ab, valid until 2027-05-18? The next one signs when every agent trusts it; then 17 clients of 3 clusters get certificates of it, edge-01 first. Type yes"},
		"rotate, no":                  {[]string{"rotate"}, "no\n", 1, "nothing was done", "the canary first"},
		"rotate with nothing":         {[]string{"rotate"}, "\n", 1, "nothing was done", ""},
		"rotate the token key":        {[]string{"rotate", "--token-key"}, "yes\n", 0, "has begun", "tokens of the old one stay valid"},
		"rollback":                    {[]string{"rollback"}, "yes\n", 0, "is being taken back", "Take the rotation of the CA back?"},
		"exclude":                     {[]string{"exclude", "edge-01", "--reason", "x"}, "yes\n", 0, "edge-01 is not waited for", "Not wait for edge-01?"},
		"retire":                      {[]string{"retire"}, "yes\n", 0, "goes out of the trust bundle", "Who still has a certificate"},
		"taint of one of two":         {[]string{"taint"}, "0123456789ab\n", 0, "has begun", "  fedcba987654  CA 4, incoming\nWhich one is compromised?"},
		"taint by the whole id":       {[]string{"taint"}, "0123456789abcdef\n", 0, "has begun", ""},
		"taint of neither":            {[]string{"taint"}, "yes\n", 1, "rotor authority taint fedcba987654 --yes   # CA 4, incoming", "2 CAs are trusted now"},
		"taint with nothing":          {[]string{"taint"}, "\n", 1, "nothing was done", ""},
		"taint by name":               {[]string{"taint", "fedc"}, "fedcba987654\n", 0, "has begun", "Is the CA fedcba987654 (number 4) compromised? It is withdrawn before it signs"},
		"taint by number":             {[]string{"taint", "3"}, "0123456789ab\n", 0, "has begun", "Is the CA 0123456789ab (number 3) compromised? All clients"},
		"taint by name, with a yes":   {[]string{"taint", "0123"}, "yes\n", 1, "nothing was done", "Type 0123456789ab to go on"},
		"taint of the other one":      {[]string{"taint", "fedc"}, "0123456789ab\n", 1, "nothing was done", ""},
		"taint of nobody":             {[]string{"taint", "9999", "--yes"}, "", 2, `there is no CA "9999"`, ""},
		"taint by too little":         {[]string{"taint", "fed", "--yes"}, "", 2, `there is no CA "fed"`, ""},
		"taint, one of two, unasked":  {[]string{"taint", "--yes"}, "", 2, "rotor authority taint 0123456789ab --yes   # CA 3, active", ""},
		"taint of two":                {[]string{"taint", "3", "4", "--yes"}, "", 2, "name one CA", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, writes := newServer(t), 0
			write := func(r *fleet.Rollout) http.HandlerFunc {
				return func(w http.ResponseWriter, request *http.Request) {
					if writes++; request.Header.Get(api.HeaderIdempotency) == "" {
						t.Error("no idempotency key")
					}
					answer(r)(w, request)
				}
			}
			glance := status(api.HealthWell)
			glance.Authority = authorityOf(t).AuthorityView
			s.mux.Handle("GET /v1/status", answer(glance))
			s.mux.Handle("GET /v1/authority", answer(authorityOf(t)))
			s.mux.Handle("POST /v1/authority/rotations", write(changed(rollout(fleet.RolloutPrepare), func(r *fleet.Rollout) {
				r.Compromised = []string{"0123456789abcdef", "fedcba9876543210"}
			})))
			s.mux.Handle("POST /v1/authority/rotations/ca/rollback", write(rollout(fleet.RolloutPrepare, fleet.RolloutRollback)))
			s.mux.Handle("POST /v1/authority/rotations/ca/exclusions", write(changed(rollout(fleet.RolloutTrusted), func(r *fleet.Rollout) {
				r.Excluded = map[string]fleet.Exclusion{"edge-01": {}}
			})))
			s.mux.Handle("POST /v1/authority/rotations/ca/retirement", write(changed(rollout(fleet.RolloutRetire), func(r *fleet.Rollout) { r.RetireAsked = true })))
			args := append([]string{"authority"}, test.args...)
			var r result
			if test.answer == "" {
				r = s.run(t, args...)
			} else {
				r = s.ask(t, test.answer, args...)
			}
			if r.code != test.code || !strings.Contains(r.out+r.err, test.says) || !strings.Contains(r.err, test.question) {
				t.Errorf("%+v", r)
			}
			if (writes == 1) != (test.code == 0) {
				t.Errorf("%d writes", writes)
			}
		})
	}
}

func TestAuthorityCourses(t *testing.T) {
	s := newServer(t)
	runs := rollout(fleet.RolloutReissued)
	s.mux.Handle("POST /v1/authority/rotations/ca/resume", answer(runs))
	s.mux.Handle("DELETE /v1/authority/rotations/ca/exclusions/edge-03", answer(runs))
	if r := s.run(t, "authority", "resume"); r.code != 0 || !strings.HasPrefix(r.out, "the rotation of the CA goes on, in phase reissued\n") {
		t.Errorf("%+v", r)
	}
	if r := s.run(t, "authority", "include", "edge-03"); r.code != 0 || r.out != "edge-03 is waited for\n" {
		t.Errorf("%+v", r)
	}
	// The gateway answers after a while though the scheduler has not.
	runs.Halted, runs.Excluded = "x", map[string]fleet.Exclusion{"edge-03": {}}
	s.mux.Handle("POST /v1/authority/rotations/ca/rollback", answer(runs))
	s.mux.Handle("POST /v1/authority/rotations/ca/retirement", answer(runs))
	s.mux.Handle("POST /v1/authority/rotations/ca/exclusions", answer(runs))
	for _, args := range [][]string{{"resume"}, {"include", "edge-03"}, {"rollback", "--yes"}, {"retire", "--yes"}, {"exclude", "edge-04", "--reason", "x", "--yes"}} {
		if r := s.run(t, append([]string{"authority"}, args...)...); r.code != 1 || r.out != "" || !strings.Contains(r.err, "not in effect yet") {
			t.Errorf("%q: %+v", args, r)
		}
	}
	s.mux.HandleFunc("POST /v1/authority/rotations", func(w http.ResponseWriter, _ *http.Request) {
		problem(w, 409, "a rotation of the CA is under way")
	})
	if r := s.run(t, "authority", "rotate", "--yes", "--wait"); r.code != 1 || !strings.Contains(r.err, "rotor: a rotation of the CA is under way") {
		t.Errorf("%+v", r)
	}
	unheard := newServer(t)
	unheard.mux.Handle("GET /v1/authority", answer(authorityOf(t)))
	unheard.mux.Handle("POST /v1/authority/rotations", answer(rollout(fleet.RolloutPrepare)))
	if r := unheard.run(t, "authority", "taint", "3", "--yes"); r.code != 1 || r.out != "" || !strings.Contains(r.err, "the taint of CA 0123456789ab was asked for and is not in effect yet") {
		t.Errorf("%+v", r)
	}
	for _, args := range [][]string{{"rotate", "--token-key", "--canary", "hq"}, {"rotate", "--max-parallel", "-1"}, {"exclude"}, {"import"}, {"whatever"}, {"rotate", "hq"}} {
		if r := s.run(t, append([]string{"authority"}, append(args, "--yes")...)...); r.code != 2 {
			t.Errorf("%q: %+v", args, r)
		}
	}
}

func TestAuthorityOfAnOfflineRoot(t *testing.T) {
	s := newServer(t)
	var got api.RolloutRequest
	s.mux.Handle("POST /v1/authority/csr", answer(api.ExternalRequest{Number: 4, CSR: "-----BEGIN CERTIFICATE REQUEST-----\n"}))
	s.mux.HandleFunc("POST /v1/authority/rotations", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewDecoder(r.Body).Decode(&got)
		answer(rollout(fleet.RolloutPrepare))(w, r)
	})
	dir := t.TempDir()
	if r := s.run(t, "authority", "csr"); r.code != 0 || r.out != "-----BEGIN CERTIFICATE REQUEST-----\n" || !strings.Contains(r.err, "CA 4") {
		t.Errorf("%+v", r)
	}
	file := filepath.Join(dir, "ca.csr")
	if r := s.run(t, "authority", "csr", "--file", file); r.code != 0 || r.out != "" {
		t.Errorf("%+v", r)
	}
	if raw, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(raw), "-----BEGIN") {
		t.Errorf("%q, %v", raw, err)
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certificate, root := write("ca.pem", string(caSignedBy(t, "Example Root"))), write("root.pem", string(caSignedBy(t, "Rotor CA")))
	s.calls = nil
	for name, bad := range map[string]string{
		"private key": write("key.pem", string(caSignedBy(t, "x"))+"-----BEGIN EC PRIVATE KEY-----\n"), "no certificate": write("none.pem", "x"),
		"more than": write("large.pem", strings.Repeat("x", 70<<10)), "no such file": filepath.Join(dir, "away.pem"),
	} {
		for _, args := range [][]string{{"--certificate", bad, "--root", root}, {"--certificate", certificate, "--root", bad}} {
			if r := s.run(t, append([]string{"authority", "import", "--yes"}, args...)...); r.code != 1 || !strings.Contains(r.err, name) || len(s.calls) > 0 {
				t.Errorf("%s: %+v, %q", name, r, s.calls)
			}
		}
	}
	r := s.run(t, "authority", "import", "--certificate", certificate, "--root", root, "--yes")
	if r.code != 0 || got.Certificate == "" || got.Root == "" || got.Certificate == got.Root || got.Taint {
		t.Errorf("%+v, sent %+v", r, got)
	}
}

func TestAuthorityTeachesAndCompletes(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || c.Long == "" || c.Example == "" || c.Args == nil {
			t.Errorf("%s lacks Short, Long, Example or Args", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&app{}).authorityCommand())
	s := newServer(t)
	s.mux.Handle("GET /v1/clusters", answer(page(status(api.HealthWell).Clusters...)))
	with := authorityOf(t)
	with.CA.Excluded = map[string]fleet.Exclusion{"edge-09": {}}
	s.mux.Handle("GET /v1/authority", answer(with))
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"exclude", ""}, "edge-01\nedge-03\nhq\n"},
		{[]string{"exclude", "hq", ""}, ":4"},
		{[]string{"include", ""}, "edge-09\n"},
		{[]string{"rotate", "--canary", ""}, "edge-01\nedge-03\nhq\n"},
	} {
		r := s.run(t, append([]string{"__complete", "authority"}, test.args...)...)
		if got := strings.Join(sorted(strings.SplitAfter(strings.Split(r.out, ":4")[0], "\n")), ""); test.want != ":4" && got != test.want || test.want == ":4" && !strings.HasPrefix(r.out, ":4") {
			t.Errorf("%q: %q", test.args, r.out)
		}
	}
}

func TestStatusMentionsARotation(t *testing.T) {
	s := newServer(t)
	glance := status(api.HealthWell)
	glance.UnderWay = []string{"the CA is being rotated: trusted since 2026-11-24 11:50 UTC"}
	s.mux.Handle("GET /v1/status", answer(glance))
	if r := s.run(t, "status"); r.code != 0 || !strings.Contains(r.out, "\n  the CA is being rotated: trusted since 2026-11-24 11:50 UTC\n") {
		t.Errorf("%+v", r)
	}
}
