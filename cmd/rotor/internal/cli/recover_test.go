package cli

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// recovering serves one recovery and returns what was asked for.
func (s *server) recovering(view api.RecoveryView) *api.RecoveryRequest {
	got := &api.RecoveryRequest{}
	view.Reason = fleet.ReasonRecovery
	s.mux.HandleFunc("POST /v1/clusters/edge-01/recoveries", func(w http.ResponseWriter, r *http.Request) {
		*got = api.RecoveryRequest{}
		_ = json.NewDecoder(r.Body).Decode(got)
		if r.Header.Get(api.HeaderIdempotency) == "" {
			problem(w, 422, "no key")
			return
		}
		answer(view)(w, r)
	})
	return got
}

func TestRecover(t *testing.T) {
	revoked := with(rotated(), fleet.RotationCompleted, fleet.OutcomeRevoked, "revoked")
	revoked.Clients = []fleet.ClientKey{{Kind: "kms"}, {Kind: "csi"}}
	for name, tt := range map[string]struct {
		view api.RotationView
		args []string
		code int
		last string
	}{
		"completed":             {rotated(), nil, 0, "completed: 2 of 2 clients rotated in "},
		"failed":                {with(rotated(), fleet.RotationFailed, fleet.OutcomeFailed, "away"), nil, 1, "failed: 1 of 2 clients rotated, 1 failed in "},
		"a revoked one":         {with(rotated(), fleet.RotationCompleted, fleet.OutcomeRevoked, "revoked"), nil, 0, "completed: 1 of 2 clients rotated, 1 revoked in "},
		"a revoked one by name": {revoked, []string{"--client", "kms", "--client", "csi"}, 1, "completed: 1 of 2 clients rotated, 1 revoked in "},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			got := s.recovering(api.RecoveryView{RotationView: tt.view})
			r := s.run(t, append([]string{"recover", "edge-01", "--wait"}, tt.args...)...)
			lines := strings.Split(strings.TrimSpace(r.out), "\n")
			if r.code != tt.code || !strings.HasPrefix(lines[len(lines)-1], tt.last) {
				t.Fatalf("%+v", r)
			}
			if got.Token || got.DryRun || len(got.Clients) != len(tt.args)/2 {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestRecoverShowsTokensOnce(t *testing.T) {
	s := newServer(t)
	token := api.RecoveryToken{Client: fleet.ClientKey{Kind: "kms"}, Generation: 2, Token: "TOKEN", ExpiresAt: now}
	got := s.recovering(api.RecoveryView{RotationView: rotated(), Tokens: []api.RecoveryToken{token}})
	r := s.run(t, "recover", "edge-01", "--client", "kms", "--token")
	if r.code != 0 || !got.Token || strings.Count(r.out, "TOKEN") != 1 || !strings.Contains(r.out, "--data @- "+s.URL+"/v1/recover <<END\n") {
		t.Errorf("%+v", r)
	}
	r = s.run(t, "recover", "edge-01", "--token", "-o", "json")
	var view api.RecoveryView
	if err := json.Unmarshal([]byte(r.out), &view); err != nil || len(view.Tokens) != 1 || view.Tokens[0].Token != "TOKEN" {
		t.Errorf("%v: %+v", err, r)
	}
	s = newServer(t)
	s.recovering(api.RecoveryView{RotationView: rotated()})
	if r := s.run(t, "recover", "edge-01", "--token"); !strings.HasPrefix(r.out, "no recovery token: ") {
		t.Errorf("%+v", r)
	}
}

func TestRecoverIsRefused(t *testing.T) {
	s := newServer(t)
	s.mux.HandleFunc("POST /v1/clusters/edge-01/recoveries", func(w http.ResponseWriter, _ *http.Request) {
		problem(w, 409, "management-first: recover hq before")
	})
	if r := s.run(t, "recover", "edge-01"); r.code != 1 || !strings.Contains(r.err, "management-first: recover hq before") {
		t.Errorf("%+v", r)
	}
	for _, args := range [][]string{{"recover"}, {"recover", "edge-01", "hq"}, {"recover", "edge-01", "--client", "A/b/c"}} {
		if r := s.run(t, args...); r.code != 2 {
			t.Errorf("%v: %+v", args, r)
		}
	}
}

// A rotation tells what needs recovery, and ends with 1.
func TestRotateReportsNeedsRecovery(t *testing.T) {
	s := newServer(t)
	s.rotations(accepted(), with(rotated(), fleet.RotationFailed, fleet.OutcomeNeedsRecovery, "locked out since ...: rotor recover edge-01 --client csi"))
	r := s.run(t, "rotate", "edge-01", "--force", "--wait")
	if r.code != 1 || !strings.Contains(r.out, "needs-recovery  locked out since") || !strings.Contains(r.out, "failed: 1 of 2 clients rotated, 1 needs-recovery in ") {
		t.Errorf("%+v", r)
	}
}
