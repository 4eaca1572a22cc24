package view

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// authorityAt is an authority whose CA was made so long ago.
func authorityAt(age time.Duration) Authority {
	begin := now.Add(-age - fleet.Backdate)
	return Authority{Now: now, Rate: 1, Document: fleet.Authority{CAs: []fleet.CA{{
		ID: "0123456789abcdef", Number: 3, Phase: fleet.PhaseActive, NotBefore: begin, NotAfter: begin.Add(fleet.Backdate + 365*fleet.Day),
	}}}}
}

// rolloutIn is a rotation that has been in a phase for so long and waits for one.
func rolloutIn(phase fleet.RolloutPhase, since time.Duration) *fleet.Rollout {
	return &fleet.Rollout{
		ID: "r", Kind: fleet.RolloutCA, Reason: fleet.RolloutAsked, Phase: phase, From: "0123456789abcdef", CreatedAt: now.Add(-since), Ready: 2, Total: 3,
		Steps: []fleet.RolloutStep{{Phase: phase, At: now.Add(-since)}}, MissingCount: 1,
		Missing: []fleet.Laggard{{Cluster: "edge-03", Why: "its agent has not called", Since: now.Add(-since)}},
	}
}

func TestWhatWantsAttention(t *testing.T) {
	halted := rolloutIn(fleet.RolloutReissued, time.Minute)
	halted.Halted = "2 of 4 clients have failed"
	alone := rolloutIn(fleet.RolloutTrusted, time.Minute)
	alone.Missing, alone.MissingCount, alone.Ready = nil, 0, 3
	tainted := rolloutIn(fleet.RolloutReissued, time.Second)
	tainted.Reason = fleet.RolloutTainted
	waits := rolloutIn(fleet.RolloutRetire, time.Second)
	waits.Reason, waits.Missing, waits.MissingCount = fleet.RolloutTainted, nil, 0
	goes := *waits
	goes.RetireAsked = true
	unanswered := rolloutIn(fleet.RolloutActivate, 10*time.Minute)
	unanswered.Missing, unanswered.MissingCount = nil, 0
	done := rolloutIn(fleet.RolloutCompleted, 300*fleet.Day)
	many := rolloutIn(fleet.RolloutTrusted, time.Hour)
	many.MissingCount, many.Missing = 7, []fleet.Laggard{
		{Cluster: "a", Why: "x"}, {Cluster: "b", Why: "y", Client: &fleet.ClientKey{Kind: "kms"}}, {Cluster: "c", Why: "z"}, {Cluster: "d", Why: "z"},
	}
	token := rolloutIn(fleet.RolloutTrusted, time.Minute)
	token.Kind, token.Total, token.MissingCount, token.Missing = fleet.RolloutToken, 0, 0, nil
	for name, test := range map[string]struct {
		age  time.Duration
		ca   *fleet.Rollout
		rate float64
		want string // of the first line; empty, if all goes on as it should
		next string // the commands
		runs string // what is under way
	}{
		"nothing":            {100 * fleet.Day, nil, 1, "", "", ""},
		"begins by itself":   {200 * fleet.Day, nil, 1, "", "rotate", ""},
		"late":               {231 * fleet.Day, nil, 1, "the next CA is late: it should sign by ", "rotate", ""},
		"very late":          {256 * fleet.Day, done, 1, "the next CA is very late: ", "rotate", ""},
		"late and under way": {256 * fleet.Day, alone, 1, "rotor authority status says what it waits for", "rollback", "the CA is being rotated: trusted since"},
		"under way":          {190 * fleet.Day, rolloutIn(fleet.RolloutTrusted, time.Minute), 1, "", "rollback", "the CA is being rotated: trusted since 2026-11-23 11:59 UTC, 2 of 3 clusters; rotor authority status"},
		"held for trust":     {190 * fleet.Day, rolloutIn(fleet.RolloutTrusted, time.Hour), 1, "is in phase trusted since 2026-11-23 11:00 UTC, waiting for edge-03 (its agent has not called); ", "exclude edge-03 --reason WHY,rollback", ""},
		"on a fast clock":    {190 * fleet.Day, rolloutIn(fleet.RolloutTrusted, time.Hour), 1000, "", "rollback", "being rotated"},
		"in waves":           {190 * fleet.Day, rolloutIn(fleet.RolloutReissued, time.Hour), 1, "", "rollback", "reissued since"},
		"held for clients":   {190 * fleet.Day, rolloutIn(fleet.RolloutReissued, 25*time.Hour), 1, "is in phase reissued", "exclude edge-03 --reason WHY,rollback", ""},
		"of many":            {190 * fleet.Day, many, 1, "for a (x), b/kms (y), c (z), and 4 more; ", "exclude a --reason WHY,rollback", ""},
		"halted":             {190 * fleet.Day, halted, 1, "the rotation of the CA has halted in phase reissued: 2 of 4 clients have failed; rotor authority status", "resume,rollback", ""},
		"on its way back":    {190 * fleet.Day, rolloutIn(fleet.RolloutRollback, time.Minute), 1, "", "", "rollback since"},
		"compromised":        {190 * fleet.Day, tainted, 1, "the CA 0123456789ab is compromised since 2026-11-23 11:59 UTC; its rotation is in phase reissued, waiting for edge-03", "", ""},
		"one word is needed": {190 * fleet.Day, waits, 1, "no client uses the compromised CA 0123456789ab any more, and it is still trusted; rotor authority retire", "retire", ""},
		"it was said":        {190 * fleet.Day, &goes, 1, "", "", "the CA is being rotated: retire since"},
		"no issuer":          {190 * fleet.Day, unanswered, 1, "is in phase activate since 2026-11-23 11:50 UTC, waiting for the issuer: check that one runs", "rollback", ""},
		"no issuer, yet":     {190 * fleet.Day, unanswered, 100, "", "rollback", "being rotated: activate since"},
		"forgotten":          {10 * fleet.Day, nil, 1, " is compromised since 2026-11-23 12:00 UTC and still active, and no rotation replaces it; rotor authority taint ", "taint 0123456789ab", ""},
		"completed":          {10 * fleet.Day, done, 1, "", "", ""},
		"the token key":      {10 * fleet.Day, token, 1, "", "rollback --token-key", "the token key is being rotated: trusted since 2026-11-23 11:59 UTC; "},
	} {
		t.Run(name, func(t *testing.T) {
			a := authorityAt(test.age)
			a.CA, a.Rate = test.ca, test.rate
			if name == "forgotten" {
				a.Document.CAs[0].TaintedAt = now
			}
			if test.ca == token {
				a.CA, a.Token = nil, token
			}
			s := a.Status()
			if text := strings.Join(s.Attention, "\n"); !strings.Contains(text, test.want) || (text == "") != (test.want == "") {
				t.Errorf("%q, want %q", text, test.want)
			}
			var commands []string
			for _, n := range s.Next {
				commands = append(commands, strings.TrimPrefix(n.Command, "rotor authority "))
			}
			if got := strings.Join(commands, ","); got != test.next {
				t.Errorf("next %q, want %q", got, test.next)
			}
			f := Fleet{Authority: a.Document, CA: a.CA, Token: a.Token, Now: now, Rate: a.Rate}.Status()
			if got := strings.Join(f.UnderWay, "\n"); !strings.Contains(got, test.runs) || (got == "") != (test.runs == "") {
				t.Errorf("under way %q, want %q", got, test.runs)
			}
			if (f.Health == api.HealthWell) != (test.want == "") || len(f.Reasons) != len(s.Attention) {
				t.Errorf("at a glance: %s %q", f.Health, f.Reasons)
			}
		})
	}
}

// Dates follow from the longest life that a leaf may have, and a fleet whose
// leaves live as long as the CA is not told every day that it is late.
func TestDatesFollowTheLongestLeaf(t *testing.T) {
	a := authorityAt(200 * fleet.Day)
	a.Clusters = []fleet.Cluster{{Name: "a"}, {Name: "b", Policy: fleet.Policy{CertificateLife: fleet.Duration(120 * fleet.Day)}}}
	if d := a.Status().Dates; d.End.Sub(d.CutsFrom) != 120*fleet.Day {
		t.Errorf("%+v", d)
	}
	if len(a.Attention()) > 0 {
		t.Errorf("%q", a.Attention())
	}
	a.Clusters[0].Policy.CertificateLife = fleet.Duration(365 * fleet.Day)
	if len(a.Attention()) > 0 {
		t.Errorf("no date can be kept: %q", a.Attention())
	}
	if (Authority{Now: now}).Status().Dates != nil {
		t.Error("dates of no CA")
	}
}

// The successor of a CA of an offline root comes from there.
func TestDueFromAnOfflineRoot(t *testing.T) {
	a := authorityAt(231 * fleet.Day)
	a.Document.CAs[0].Anchor = []byte("root")
	if n := a.Status().Next; len(n) != 1 || n[0].Command != "rotor authority csr" || !strings.HasSuffix(a.Attention()[0], "; rotor authority csr") {
		t.Errorf("%+v, %q", n, a.Attention())
	}
}

func TestAPendingRequestIsNotForgotten(t *testing.T) {
	a := authorityAt(fleet.Day)
	a.Document.Pending = &fleet.PendingCA{Number: 4}
	if n := a.Status().Next; len(n) != 1 || n[0].Command != "rotor authority import --certificate FILE --root FILE" || !strings.Contains(n[0].Why, "CA 4") {
		t.Errorf("%+v", n)
	}
	a.CA = rolloutIn(fleet.RolloutTrusted, time.Minute)
	a.CA.Excluded = map[string]fleet.Exclusion{"b": {}, "a": {}}
	if n := a.Status().Next; len(n) != 2 || n[0].Command != "rotor authority include a" {
		t.Errorf("%+v", n)
	}
}

// What the issuer refuses holds a rotation up for good.
func TestARefusalIsTold(t *testing.T) {
	a := authorityAt(190 * fleet.Day)
	a.CA = rolloutIn(fleet.RolloutActivate, time.Second)
	a.Document.Refused = &fleet.RefusedMove{Rollout: "r", Kind: fleet.RolloutCA, Move: fleet.MoveActivate, Why: "the bundle is another"}
	if got := a.Attention(); len(got) != 1 || !strings.Contains(got[0], "the issuer refuses to go on: activate: the bundle is another") {
		t.Errorf("%q", got)
	}
	a.Document.Refused.Rollout = "of another"
	if got := a.Attention(); len(got) > 0 {
		t.Errorf("%q", got)
	}
}

func TestReturnable(t *testing.T) {
	for phase, want := range map[fleet.RolloutPhase]string{
		fleet.RolloutPrepare: "", fleet.RolloutTrusted: "", fleet.RolloutActivate: "", fleet.RolloutReissued: "", fleet.RolloutRollback: "", fleet.RolloutRolledBack: "",
		fleet.RolloutRetire: "rotate again", fleet.RolloutCompleted: "rotate again",
	} {
		err := Returnable(&fleet.Rollout{Kind: fleet.RolloutCA, Phase: phase})
		if (err == nil) != (want == "") || err != nil && (!errors.Is(err, fleet.ErrConflict) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", phase, err)
		}
	}
	for _, r := range []fleet.Rollout{
		{Kind: fleet.RolloutToken, Phase: fleet.RolloutCompleted}, {Kind: fleet.RolloutCA, Reason: fleet.RolloutTainted, Phase: fleet.RolloutReissued},
	} {
		if err := Returnable(&r); !errors.Is(err, fleet.ErrConflict) {
			t.Errorf("%+v: %v", r, err)
		}
	}
}
