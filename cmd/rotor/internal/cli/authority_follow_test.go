package cli

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// rollouts serves the rotations one after the other, the last for ever; a number
// is a problem with that status, nil no rotation.
func (s *server) rollouts(t *testing.T, views ...any) *atomic.Int32 {
	t.Helper()
	var n atomic.Int32
	s.mux.HandleFunc("GET /v1/authority", func(w http.ResponseWriter, r *http.Request) {
		v := views[min(int(n.Add(1)), len(views))-1]
		status := api.AuthorityStatus{Now: now, AuthorityView: api.AuthorityView{CAs: []fleet.CA{{ID: "0123456789abcdef", Phase: fleet.PhaseActive}}}}
		switch v := v.(type) {
		case int:
			problem(w, v, "not now")
			return
		case *fleet.Rollout:
			if status.CA = v; v.Kind == fleet.RolloutToken {
				status.CA, status.Token = nil, v
			}
		}
		answer(status)(w, r)
	})
	return &n
}

func TestAuthorityRotateWait(t *testing.T) {
	p, tr, ac, re, rt, co := fleet.RolloutPrepare, fleet.RolloutTrusted, fleet.RolloutActivate, fleet.RolloutReissued, fleet.RolloutRetire, fleet.RolloutCompleted
	before := changed(rollout(p, tr, ac, re, rt, co), func(r *fleet.Rollout) { r.ID = "ro-0" })
	other := changed(rollout(p, tr), func(r *fleet.Rollout) { r.ID = "ro-2" })
	halted := changed(rollout(p, tr, ac, re), func(r *fleet.Rollout) { r.Halted = "2 clients have failed" })
	taintedAt := func(phases ...fleet.RolloutPhase) *fleet.Rollout {
		return changed(rollout(phases...), func(r *fleet.Rollout) {
			r.Reason, r.LastReplacedAt = fleet.RolloutTainted, r.CreatedAt.Add(90*time.Second)
		})
	}
	over := changed(taintedAt(p, ac), func(r *fleet.Rollout) {
		r.ID, r.Replaces, r.Compromised = "ro-2", "ro-1", []string{"0123456789abcdef", "fedcba9876543210"}
	})
	token := func(phases ...fleet.RolloutPhase) *fleet.Rollout {
		return changed(rollout(phases...), func(r *fleet.Rollout) { r.Kind = fleet.RolloutToken })
	}
	rotate, rollback := []string{"rotate"}, []string{"rollback"}
	for name, test := range map[string]struct {
		args  []string
		views []any
		code  int
		out   string
		err   string
	}{
		"completed":                 {rotate, []any{nil, before, rollout(p), rollout(p, tr), rollout(p, tr, ac, re, rt, co)}, 0, "completed in 5 minutes: the CA is fedcba987654 now, in place of 0123456789ab\n", ""},
		"the server restarts":       {rotate, []any{rollout(p), 503, 500, 503, rollout(p, tr, ac, re, rt, co)}, 0, "completed in", "the server does not answer, trying again\n"},
		"halted":                    {rotate, []any{rollout(p), halted}, 1, "", "rotor: the rotation of the CA has halted in phase reissued: 2 clients have failed\nhint: mend"},
		"taken back by another":     {rotate, []any{rollout(p, tr), rollout(p, tr, fleet.RolloutRollback, fleet.RolloutRolledBack)}, 1, "", "rotor: the rotation of the CA was taken back\n"},
		"another came first":        {rotate, []any{before, other}, 1, "", "another rotation of the CA has begun before this one, ro-2"},
		"another came after":        {rotate, []any{rollout(p), other}, 1, "", "rotation ro-1 has ended, and another has begun, ro-2"},
		"no token":                  {rotate, []any{rollout(p), 401}, 1, "", "the admin token is missing or wrong"},
		"taken back":                {rollback, []any{halted, rollout(p, tr, fleet.RolloutRollback), rollout(p, tr, fleet.RolloutRollback, fleet.RolloutRolledBack)}, 0, "taken back in 3 minutes: the CA is 0123456789ab as before\n", ""},
		"too late to take it back":  {rollback, []any{rollout(p, tr, ac, re, rt, co)}, 1, "", "was completed, not taken back"},
		"the way back halts":        {rollback, []any{changed(rollout(p, tr, fleet.RolloutRollback), func(r *fleet.Rollout) { r.Halted = "1 client" })}, 1, "", "has halted in phase rollback: 1 client"},
		"tainted":                   {[]string{"taint"}, []any{taintedAt(p), taintedAt(p, ac, re, rt)}, 0, "every client was replaced 1m30s after the taint; the compromised CA 0123456789ab is still trusted: rotor authority retire\n", ""},
		"tainted in the middle":     {[]string{"taint"}, []any{rollout(p), halted, changed(taintedAt(p, tr, ac, re, rt), func(r *fleet.Rollout) { r.TaintedAt = r.CreatedAt.Add(time.Minute) })}, 0, "every client was replaced 30s after the taint; ", "asked for; the scheduler has not"},
		"tainted on the way back":   {[]string{"taint"}, []any{rollout(p, tr, fleet.RolloutRollback), taintedAt(p, tr, fleet.RolloutRollback), taintedAt(p, tr, fleet.RolloutRollback, fleet.RolloutRolledBack)}, 0, "taken back in 3 minutes", ""},
		"tainted, and taken over":   {[]string{"taint"}, []any{rollout(p, tr), over, changed(taintedAt(p, ac, re, rt), func(r *fleet.Rollout) { r.ID, r.Compromised = "ro-2", over.Compromised })}, 0, "every client was replaced 1m30s after the taint; the compromised CA 0123456789ab and fedcba987654 is still", ""},
		"taken over by a taint":     {rotate, []any{rollout(p, tr), over}, 1, "", "rotation ro-1 was taken over by ro-2, as the CA to which it led is compromised"},
		"an emergency halts":        {[]string{"taint"}, []any{changed(taintedAt(p, ac, re), func(r *fleet.Rollout) { r.Halted = "1 client" })}, 1, "", "leave a cluster out with rotor authority exclude\n"},
		"the token key":             {[]string{"rotate", "--token-key"}, []any{token(p, tr), token(p, tr, ac, co)}, 0, "completed in 3 minutes: the token key is", "this takes 10 minutes: verifiers"},
		"the token key, taken back": {[]string{"rollback", "--token-key"}, []any{token(p, fleet.RolloutRollback, fleet.RolloutRolledBack)}, 0, "taken back", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			begun := rollout(p)
			if test.args[0] == "rollback" {
				begun = rollout(p, fleet.RolloutRollback)
			}
			s.mux.HandleFunc("POST /v1/authority/rotations", answer(map[bool]*fleet.Rollout{false: begun, true: token(p)}[len(test.args) > 1]))
			s.mux.HandleFunc("POST /v1/authority/rotations/{kind}/rollback", answer(begun))
			s.rollouts(t, test.views...)
			r := s.run(t, append(append([]string{"authority"}, test.args...), "--wait", "--yes")...)
			if r.code != test.code || !strings.HasPrefix(r.out, test.out) || (r.out == "") != (test.out == "") || !strings.Contains(r.err, test.err) {
				t.Fatalf("%+v", r)
			}
			if name != "completed" {
				return
			}
			want := `asked for; the scheduler has not taken it up yet
11:50:00  prepare     the issuer makes the next CA
11:51:00  trusted     each agent proves that it trusts the next CA
11:52:00  activate    the next CA begins to sign
11:53:00  reissued    each client gets a certificate of the new CA and proves it
11:54:00  retire      the old CA goes out of the trust bundle
11:55:00  completed   the old CA is trusted no more
`
			if r.err != want {
				t.Errorf("progress:\n%s\nwant:\n%s", r.err, want)
			}
		})
	}
}

// Whoever interrupts the wait is told that the rotation goes on, and on a terminal
// one line says for whom it waits.
func TestAuthorityRotateInterrupted(t *testing.T) {
	s := newServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	waiting := changed(rollout(fleet.RolloutPrepare, fleet.RolloutTrusted), func(r *fleet.Rollout) {
		r.Total, r.Ready, r.MissingCount = 9, 5, 4
		for _, name := range []string{"a", "b", "c", "d"} {
			r.Missing = append(r.Missing, fleet.Laggard{Cluster: name, Why: "away"})
		}
	})
	s.mux.HandleFunc("GET /v1/authority", func(w http.ResponseWriter, r *http.Request) {
		if n++; n == 2 { // the first was shown
			cancel()
		}
		answer(api.AuthorityStatus{Now: now, CA: waiting})(w, r)
	})
	var log bytes.Buffer
	f := rolloutFollower{client: &api.Client{URL: s.URL, Token: secret.New(token)}, kind: fleet.RolloutCA, id: "ro-1", log: &log, live: true}
	_, err := f.follow(ctx)
	if e, ok := errors.AsType[*ExitError](err); !ok || e.Code != 1 || e.Hint != "the rotation goes on; follow it with: rotor authority status" {
		t.Fatalf("%v", err)
	}
	if !strings.HasSuffix(log.String(), "\r\x1b[Ktrusted: 5 of 9 clusters, waiting for a (away), b (away), c (away), 1 more\r\x1b[K") {
		t.Errorf("%q", log.String())
	}
	// Beside a terminal it is told only when nothing passes for a while, once.
	log.Reset()
	f = rolloutFollower{log: &log, told: clock.Wall().Add(-2 * hanging), steps: 2}
	f.show(waiting, now)
	f.show(waiting, now)
	if log.String() != "          trusted: 5 of 9 clusters, waiting for a (away), b (away), c (away), 1 more\n" {
		t.Errorf("%q", log.String())
	}
	f.told = clock.Wall()
	more := *waiting // the server may still be at its answer
	more.Ready++
	if f.show(&more, now); strings.Count(log.String(), "\n") != 1 {
		t.Errorf("%q", log.String())
	}
}
