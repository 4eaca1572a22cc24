package gateway_test

import (
	"crypto/x509"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// keyed returns the client with an idempotency key.
func (w *world) keyed(key string) *api.Client {
	c := *w.client
	c.Key = key
	return &c
}

func TestRotateTheCA(t *testing.T) {
	w := start(t)
	s := newSteersman(t, w)
	w.apply(t, fleetFile)
	w.enrolled(t, "hq")
	for name, test := range map[string]struct {
		body   any
		status int
		says   string
	}{
		"unknown kind":            {map[string]any{"kind": "root"}, 422, "ca, token"},
		"unknown field":           {map[string]any{"canery": "hq"}, 422, "canery"},
		"negative":                {map[string]any{"maxParallel": -1}, 422, "maxParallel"},
		"canary of nobody":        {api.RolloutRequest{Canary: "edge-09"}, 404, `canary: cluster "edge-09"`},
		"canary without agent":    {api.RolloutRequest{Canary: "edge-01"}, 409, "has no agent"},
		"token key with a canary": {api.RolloutRequest{Kind: fleet.RolloutToken, Canary: "hq"}, 422, "leave canary and maxParallel out"},
		"token key with a taint":  {api.RolloutRequest{Kind: fleet.RolloutToken, Taint: true}, 422, "are of a CA"},
		"taint with a canary":     {api.RolloutRequest{Taint: true, Canary: "hq"}, 422, "all clusters are reissued at once"},
		"taint and import":        {api.RolloutRequest{Taint: true, Certificate: "x", Root: "y"}, 422, "one of the two"},
		"half an import":          {api.RolloutRequest{Certificate: "x"}, 422, "give both"},
		"import of nothing":       {api.RolloutRequest{Certificate: "x", Root: "y"}, 409, "rotor authority csr"},
	} {
		err := w.client.Call(t.Context(), http.MethodPost, api.PathRollouts, test.body, nil)
		if status(err) != test.status || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %d with %q", name, err, test.status, test.says)
		}
	}
	if n := len(s.sent()) + len(w.written(t)); n > 0 {
		t.Fatalf("%d commands and entries of what was refused", n)
	}

	request := api.RolloutRequest{Canary: "hq", MaxParallel: 3}
	first, err := w.keyed("k").BeginRollout(t.Context(), request)
	if err != nil || first.Kind != fleet.RolloutCA || first.Reason != fleet.RolloutAsked || first.Phase != fleet.RolloutPrepare || first.From != "ca-1" || first.Canary != "hq" || first.MaxParallel != 3 || first.By != "admin" {
		t.Fatalf("%+v, %v", first, err)
	}
	again, err := w.keyed("k").BeginRollout(t.Context(), request)
	if err != nil || mustJSON(t, again) != mustJSON(t, first) || len(s.sent()) != 1 {
		t.Errorf("the repeat: %+v, %v, %d commands", again, err, len(s.sent()))
	}
	if _, err := w.keyed("k").BeginRollout(t.Context(), api.RolloutRequest{Canary: "hq"}); status(err) != http.StatusConflict || !strings.Contains(err.Error(), "another rotation of the authority") {
		t.Errorf("the key of another request: %v", err)
	}
	_, err = w.client.BeginRollout(t.Context(), api.RolloutRequest{})
	if status(err) != http.StatusConflict {
		t.Fatal(err)
	}
	contains(t, err.Error(), "is under way since", "in phase prepare", "rotor authority rollback")
	if _, err := w.client.BeginRollout(t.Context(), api.RolloutRequest{Kind: fleet.RolloutToken}); err != nil {
		t.Errorf("the token key beside it: %v", err)
	}

	entries := w.written(t)
	if len(entries) != 2 || entries[0].Action != "authority.rotate" || !maps.Equal(entries[0].Details, map[string]string{
		"rotation": first.ID, "kind": "ca", "ca": "ca-1", "canary": "hq", "maxParallel": "3",
	}) || entries[0].Actor != "admin" || entries[1].Details["kind"] != "token" {
		t.Errorf("%+v", entries)
	}
	var page api.Page[fleet.Rollout]
	w.get(t, api.PathRollouts, &page)
	if len(page.Items) != 2 || page.Items[0].ID != first.ID || page.Items[1].Kind != fleet.RolloutToken {
		t.Errorf("%+v", page)
	}
	var others api.Page[fleet.Rotation]
	w.get(t, api.PathRotations, &others)
	if len(others.Items) > 0 {
		t.Errorf("rotations of clients: %+v", others)
	}
}

// The document of a rotation is replaced by that of the next; what its generation
// says of it stays.
func TestTheKeyOfARotationThatHasEnded(t *testing.T) {
	w := start(t)
	s := newSteersman(t, w)
	first, err := w.keyed("k").BeginRollout(t.Context(), api.RolloutRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.authority.Edit(t.Context(), fleet.AuthorityKey, func(a *fleet.Authority) error {
		a.CAs[0].Rollout = first.ID
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	s.put(t, fleet.Rollout{ID: "of-another", Kind: fleet.RolloutCA, Phase: fleet.RolloutCompleted})
	if _, err := w.keyed("k").BeginRollout(t.Context(), api.RolloutRequest{}); status(err) != http.StatusConflict || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("the repeat: %v", err)
	}
	if _, err := w.keyed("other").BeginRollout(t.Context(), api.RolloutRequest{Taint: true}); err != nil {
		t.Error(err)
	}
	if e := w.written(t); len(e) != 2 || e[1].Action != "authority.taint" {
		t.Errorf("%+v", e)
	}
}

// A CA may turn out to be compromised at any time, and nothing has to be undone
// first; where more than one is trusted it has to be said which, and the answer has
// the commands.
func TestTaintInTheMiddle(t *testing.T) {
	w := start(t)
	s := newSteersman(t, w)
	set := func(phases ...fleet.Phase) {
		t.Helper()
		if _, err := s.authority.Edit(t.Context(), fleet.AuthorityKey, func(a *fleet.Authority) error {
			first := a.CAs[0]
			a.CAs = nil
			for i, phase := range phases {
				first.ID, first.Number, first.Phase = "ca-"+strconv.Itoa(i+1), i+1, phase
				a.CAs = append(a.CAs, first)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	const incoming, active, outgoing, retired = fleet.PhaseIncoming, fleet.PhaseActive, fleet.PhaseOutgoing, fleet.PhaseRetired
	in := func(phase fleet.RolloutPhase, tainted ...string) fleet.Rollout {
		return fleet.Rollout{ID: "r-1", Kind: fleet.RolloutCA, Reason: fleet.RolloutAsked, Phase: phase, From: "ca-1", To: "ca-2", CreatedAt: clock.Wall(), Compromised: tainted}
	}
	for name, test := range map[string]struct {
		phases []fleet.Phase
		have   fleet.Rollout
		ca     string
		status int
		says   string // of a refusal
		id     string // of the rotation; empty, if it is another
		sends  bool
	}{
		"the old one":                {[]fleet.Phase{active, incoming}, in(fleet.RolloutTrusted), "ca-1", 202, "", "r-1", true},
		"the old one, again":         {[]fleet.Phase{active, incoming}, in(fleet.RolloutTrusted, "ca-1"), "ca-1", 202, "", "r-1", false},
		"the old one, when it went":  {[]fleet.Phase{retired, active}, in(fleet.RolloutCompleted, "ca-1"), "ca-1", 202, "", "r-1", false},
		"the new one":                {[]fleet.Phase{outgoing, active}, in(fleet.RolloutReissued), "ca-2", 202, "", "", true},
		"the new one, once more":     {[]fleet.Phase{retired, active}, in(fleet.RolloutCompleted, "ca-2"), "ca-2", 202, "", "", true},
		"the only one":               {[]fleet.Phase{retired, active}, in(fleet.RolloutCompleted), "", 202, "", "", true},
		"one of two":                 {[]fleet.Phase{active, incoming}, in(fleet.RolloutTrusted), "", 409, "2 CAs are trusted now: say which one is compromised: rotor authority taint ca-1 (CA 1, active), or rotor authority taint ca-2 (CA 2, incoming)", "", false},
		"nobody":                     {[]fleet.Phase{active}, in(fleet.RolloutTrusted), "ca-9", 404, "rotor authority status", "", false},
		"one that is gone":           {[]fleet.Phase{retired, active}, in(fleet.RolloutCompleted), "ca-1", 409, "nobody trusts it any more", "", false},
		"one that is of no rotation": {[]fleet.Phase{active, incoming}, in(fleet.RolloutCompleted), "ca-2", 409, "rotor authority rotate --yes, then rotor authority taint ca-2", "", false},
	} {
		set(test.phases...)
		s.put(t, test.have)
		before, entries := len(s.sent()), len(w.written(t))
		got, err := w.client.BeginRollout(t.Context(), api.RolloutRequest{Taint: true, CA: test.ca})
		if (err != nil || test.status != 202) && status(err) != test.status || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %d with %q", name, err, test.status, test.says)
			continue
		}
		sent, written := s.sent()[before:], w.written(t)[entries:]
		if (len(sent) == 1) != test.sends || len(written) != len(sent) {
			t.Errorf("%s: sent %+v, wrote %+v", name, sent, written)
		}
		if test.status != 202 {
			continue
		}
		if (got.ID == "r-1") != (test.id == "r-1") {
			t.Errorf("%s: %+v", name, got)
		}
		if want := test.ca; test.sends && (sent[0].CA == "" || want != "" && sent[0].CA != want || written[0].Action != "authority.taint" || written[0].Details["ca"] != sent[0].CA) {
			t.Errorf("%s: sent %+v, wrote %+v", name, sent, written)
		}
	}
	if err := w.client.Call(t.Context(), http.MethodPost, api.PathRollouts, api.RolloutRequest{CA: "ca-1"}, nil); status(err) != 422 || !strings.Contains(err.Error(), "belongs to taint") {
		t.Error(err)
	}
}

func TestSteerARotationOfTheAuthority(t *testing.T) {
	w := start(t)
	s := newSteersman(t, w)
	w.apply(t, fleetFile)
	in := func(phase fleet.RolloutPhase, change ...func(*fleet.Rollout)) fleet.Rollout {
		r := fleet.Rollout{ID: "r-1", Kind: fleet.RolloutCA, Reason: fleet.RolloutAsked, Phase: phase, From: "ca-1", CreatedAt: clock.Wall()}
		for _, f := range change {
			f(&r)
		}
		return r
	}
	tainted := func(r *fleet.Rollout) { r.Reason = fleet.RolloutTainted }
	excluded := func(r *fleet.Rollout) { r.Excluded = map[string]fleet.Exclusion{"gone-1": {Reason: "x"}} }
	halted := func(r *fleet.Rollout) { r.Halted = "1 client has failed" }
	type request struct {
		method, path string
		body         any
	}
	ca := func(pattern string) request {
		return request{http.MethodPost, api.RolloutPath(pattern, fleet.RolloutCA), nil}
	}
	exclude := func(cluster, reason string) request {
		return request{http.MethodPost, api.RolloutPath(api.PathExclusions, fleet.RolloutCA), api.Exclude{Cluster: cluster, Reason: reason}}
	}
	include := func(cluster string) request {
		return request{http.MethodDelete, api.RolloutPath(api.PathExclusions, fleet.RolloutCA, cluster), nil}
	}
	for name, test := range map[string]struct {
		have   fleet.Rollout
		ask    request
		status int
		says   string              // of a refusal
		sends  event.RolloutAction // empty, if nothing is sent
	}{
		"back":                       {in(fleet.RolloutReissued), ca(api.PathRollback), 200, "", event.RolloutBack},
		"back of a halted one":       {in(fleet.RolloutReissued, halted), ca(api.PathRollback), 200, "", event.RolloutBack},
		"back again":                 {in(fleet.RolloutRollback), ca(api.PathRollback), 200, "", ""},
		"back when it is back":       {in(fleet.RolloutRolledBack), ca(api.PathRollback), 200, "", ""},
		"back in retire":             {in(fleet.RolloutRetire), ca(api.PathRollback), 409, "the old CA is not trusted any more: rotate again", ""},
		"back when completed":        {in(fleet.RolloutCompleted), ca(api.PathRollback), 409, "the old CA is not trusted any more: rotate again", ""},
		"back to a compromised one":  {in(fleet.RolloutReissued, tainted), ca(api.PathRollback), 409, "compromised", ""},
		"resume":                     {in(fleet.RolloutReissued, halted), ca(api.PathResume), 200, "", event.RolloutResume},
		"resume what runs":           {in(fleet.RolloutReissued), ca(api.PathResume), 200, "", ""},
		"resume what has ended":      {in(fleet.RolloutCompleted), ca(api.PathResume), 409, "it is completed", ""},
		"exclude":                    {in(fleet.RolloutTrusted), exclude("edge-01", " away "), 200, "", event.RolloutExclude},
		"exclude nobody":             {in(fleet.RolloutTrusted), exclude("edge-09", "away"), 404, "edge-09", ""},
		"exclude without reason":     {in(fleet.RolloutTrusted), exclude("edge-01", "  "), 422, "say why", ""},
		"exclude without any reason": {in(fleet.RolloutTrusted), exclude("edge-01", ""), 422, "reason", ""},
		"exclude from what ended":    {in(fleet.RolloutCompleted), exclude("edge-01", "away"), 409, "has ended", ""},
		"include":                    {in(fleet.RolloutTrusted, excluded), include("gone-1"), 200, "", event.RolloutInclude},
		"include what is included":   {in(fleet.RolloutTrusted), include("edge-01"), 200, "", ""},
		"include nobody":             {in(fleet.RolloutTrusted), include("edge-09"), 404, "edge-09", ""},
		"retire":                     {in(fleet.RolloutRetire, tainted), ca(api.PathRetirement), 200, "", event.RolloutRetireIt},
		"retire too early":           {in(fleet.RolloutReissued, tainted), ca(api.PathRetirement), 409, "still in use", ""},
		"retire by hand":             {in(fleet.RolloutRetire), ca(api.PathRetirement), 409, "by itself", ""},
		"retire what is retired":     {in(fleet.RolloutCompleted, tainted), ca(api.PathRetirement), 200, "", ""},
		"of no kind":                 {in(fleet.RolloutTrusted), request{http.MethodPost, api.RolloutPath(api.PathResume, "root"), nil}, 422, "ca, token", ""},
		"of no token key":            {in(fleet.RolloutTrusted), request{http.MethodPost, api.RolloutPath(api.PathRollback, fleet.RolloutToken), nil}, 404, "there was none", ""},
	} {
		s.put(t, test.have)
		before, entries := len(s.sent()), len(w.written(t))
		var got fleet.Rollout
		err := w.client.Call(t.Context(), test.ask.method, test.ask.path, test.ask.body, &got)
		if status(err) != test.status || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %d with %q", name, err, test.status, test.says)
			continue
		}
		sent, written := s.sent()[before:], w.written(t)[entries:]
		if test.sends == "" {
			if len(sent)+len(written) > 0 {
				t.Errorf("%s: sent %+v, wrote %+v", name, sent, written)
			}
			continue
		}
		if len(sent) != 1 || sent[0].Action != test.sends || sent[0].Rollout != "r-1" || sent[0].By != "admin" {
			t.Errorf("%s: sent %+v", name, sent)
		}
		if len(written) != 1 || written[0].Action != "authority."+string(test.sends) || written[0].Details["rotation"] != "r-1" || written[0].Cluster != sent[0].Cluster {
			t.Errorf("%s: wrote %+v", name, written)
		}
		switch test.sends {
		case event.RolloutExclude:
			if got.Excluded["edge-01"].Reason != "away" || written[0].Reason != "away" {
				t.Errorf("%s: %+v", name, got)
			}
		case event.RolloutBack:
			if got.Phase != fleet.RolloutRollback {
				t.Errorf("%s: %+v", name, got)
			}
		}
	}
	// The token key waits for no cluster.
	s.put(t, fleet.Rollout{ID: "r-2", Kind: fleet.RolloutToken, Phase: fleet.RolloutTrusted})
	err := w.client.Call(t.Context(), http.MethodPost, api.RolloutPath(api.PathExclusions, fleet.RolloutToken), api.Exclude{Cluster: "edge-01", Reason: "x"}, nil)
	if status(err) != http.StatusConflict {
		t.Errorf("exclude from that of the token key: %v", err)
	}
}

func TestBringYourOwnRoot(t *testing.T) {
	w := start(t)
	s := newSteersman(t, w)
	o := newOffline(t)
	w.issuer.csr.Store(&o.csr)
	for range 2 { // the second finds what the first has made
		r, err := w.client.External(t.Context())
		if err != nil || r.Number != 2 || requestOf(t, r.CSR).Subject.CommonName != "client" {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	if e := w.written(t); len(e) != 1 || e[0].Action != "authority.csr" {
		t.Errorf("%+v", e)
	}
	good, root := o.certificate(t, nil), string(pemOf(o.root.Raw))
	other, _ := newCA(t)
	for name, test := range map[string]struct{ certificate, root, says string }{
		"no PEM":          {"x", root, "is not PEM"},
		"no root":         {good, "x", "root: "},
		"another root":    {good, string(pemOf(other.Raw)), "is not signed by"},
		"of another key":  {o.certificate(t, func(c *x509.Certificate) { c.PublicKey = newKey(t).Public() }), root, "for another key"},
		"no CA":           {o.certificate(t, func(c *x509.Certificate) { c.IsCA = false }), root, "is not a CA"},
		"expired":         {o.certificate(t, func(c *x509.Certificate) { c.NotAfter = clock.Wall().Add(-time.Minute) }), root, "expired"},
		"with a key":      {good + "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n", root, "private key"},
		"larger than may": {strings.Repeat(good, 200), root, "65536"},
	} {
		_, err := w.client.BeginRollout(t.Context(), api.RolloutRequest{Certificate: test.certificate, Root: test.root})
		if status(err) != http.StatusUnprocessableEntity || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %q", name, err, test.says)
		}
	}
	if n := len(s.sent()); n > 0 {
		t.Fatalf("%d commands for what was refused", n)
	}
	r, err := w.client.BeginRollout(t.Context(), api.RolloutRequest{Certificate: good, Root: root})
	if err != nil || r.Reason != fleet.RolloutImported || string(r.Certificate) != good || string(r.Anchor) != root {
		t.Fatalf("%+v, %v", r, err)
	}
	e := w.written(t)
	if len(e) != 2 || e[1].Action != "authority.import" || len(e[1].Details["certificate"]) != 64 || len(e[1].Details["root"]) != 64 {
		t.Errorf("%+v", e)
	}
}

// The answer has what it had before there were rotations, and what is new.
func TestStatusOfTheAuthority(t *testing.T) {
	w := start(t)
	s := newSteersman(t, w)
	w.apply(t, "authority: {slack: 20d}\n"+strings.TrimPrefix(fleetFile, "\n"))
	keys := func() []string {
		var raw map[string]json.RawMessage
		w.get(t, api.PathAuthority, &raw)
		return slices.Sorted(maps.Keys(raw))
	}
	if got, want := keys(), []string{"bundle", "cas", "dates", "fleetKey", "keys", "now", "policy", "tokenIssuer", "trustDomain"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	since := clock.Wall().Add(-time.Hour)
	s.put(t, fleet.Rollout{
		ID: "r-1", Kind: fleet.RolloutCA, Phase: fleet.RolloutTrusted, From: "ca-1", To: "ca-2", CreatedAt: since, Ready: 1, Total: 2, MissingCount: 1,
		Steps:   []fleet.RolloutStep{{Phase: fleet.RolloutTrusted, At: since}},
		Missing: []fleet.Laggard{{Cluster: "edge-01", Why: "its agent has not called", Since: since}},
	})
	got, err := w.client.Authority(t.Context())
	if err != nil || got.CA == nil || got.CA.ID != "r-1" || got.Token != nil || got.Policy.Slack.Std() != 20*fleet.Day || got.Policy.Mode != fleet.ModeAutomatic {
		t.Fatalf("%+v, %v", got, err)
	}
	if d := got.Dates; d == nil || d.End != got.CAs[0].NotAfter || d.End.Sub(d.CutsFrom) != 90*fleet.Day || d.CutsFrom.Sub(d.ActiveBy).Round(time.Minute) != 20*fleet.Day {
		t.Errorf("dates %+v", got.Dates)
	}
	if len(got.Attention) != 1 || !strings.Contains(got.Attention[0], "edge-01 (its agent has not called)") || len(got.Next) != 2 || got.Next[0].Command != "rotor authority exclude edge-01 --reason WHY" {
		t.Errorf("%q, %+v", got.Attention, got.Next)
	}
	var fleetStatus api.Status
	w.get(t, api.PathStatus, &fleetStatus)
	if !slices.Contains(fleetStatus.Reasons, got.Attention[0]) || len(fleetStatus.UnderWay) > 0 {
		t.Errorf("at a glance: %q, %q", fleetStatus.Reasons, fleetStatus.UnderWay)
	}
}

// What cannot be written down goes to no scheduler and no issuer.
func TestNoRotationOfTheAuthorityWithoutAnEntry(t *testing.T) {
	w := startOn(t, bustest.NewDenying(t, "rotor.v1.audit.>"))
	if _, err := open[fleet.Cluster](t, w, bus.Clusters).Create(t.Context(), "edge-01", fleet.Cluster{Name: "edge-01", Kind: fleet.Workload}); err != nil {
		t.Fatal(err)
	}
	post := func(path string, body any) {
		t.Helper()
		if err := w.client.Call(t.Context(), http.MethodPost, path, body, nil); status(err) < 500 {
			t.Errorf("%s: %v", path, err)
		}
	}
	post(api.PathRollouts, nil)
	post(api.PathRollouts, api.RolloutRequest{Taint: true})
	post(api.PathExternal, nil)
	r := fleet.Rollout{ID: "r-1", Kind: fleet.RolloutCA, Phase: fleet.RolloutReissued, Halted: "x", From: "ca-1"}
	rollouts := open[fleet.Rollout](t, w, bus.Rotations)
	if _, err := rollouts.Create(t.Context(), fleet.RolloutCA.Key(), r); err != nil {
		t.Fatal(err)
	}
	post(api.RolloutPath(api.PathRollback, fleet.RolloutCA), nil)
	post(api.RolloutPath(api.PathResume, fleet.RolloutCA), nil)
	post(api.RolloutPath(api.PathExclusions, fleet.RolloutCA), api.Exclude{Cluster: "edge-01", Reason: "x"})
	if n := len(bustest.Stored(t, w.bus, event.Advance)) + len(bustest.Stored(t, w.bus, event.External)); n > 0 {
		t.Errorf("%d commands went out", n)
	}
}
