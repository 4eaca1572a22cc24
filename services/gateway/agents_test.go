package gateway_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

var kms = fleet.ClientKey{Kind: "kms"}

// A one-time token was consumed and the reply lost: the same key may repeat,
// another may not.
func TestF28_EnrolmentCanBeRepeatedByTheSameKeyOnly(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	token := w.joinToken(t, "edge-01", true) // one that may replace, also only once
	a := w.newAgent(t)
	for range 2 {
		if err := a.enrol(t.Context(), "edge-01", token); err != nil {
			t.Fatal(err)
		}
	}
	if all := bustest.Stored(t, w.bus, event.AgentEnrolled); len(all) != 1 || all[0].Agent != a.id {
		t.Errorf("enrolments told: %+v", all)
	}
	for name, test := range map[string]struct {
		cluster, token string
		status         int
	}{
		"another key":     {"edge-01", token, http.StatusForbidden},
		"a wrong token":   {"edge-01", "wrong", http.StatusForbidden},
		"another cluster": {"hq", token, http.StatusForbidden},
		"a strange name":  {"../x", token, http.StatusUnprocessableEntity},
	} {
		if err := w.newAgent(t).enrol(t.Context(), test.cluster, test.token); status(err) != test.status {
			t.Errorf("%s: %v, want %d", name, err, test.status)
		}
		if got := agentDoc(t, w, "edge-01").ID; got != a.id {
			t.Fatalf("%s: agent is now %s", name, got)
		}
	}
	told := bustest.Stored(t, w.bus, event.SigninRefused)
	if len(told) != 1 || told[0].What != event.RefusedJoin || told[0].Agent == a.id || told[0].Agent == "" {
		t.Errorf("only another key with the right token is told of: %+v", told)
	}
	var refused api.JoinReply
	err := w.client.Call(t.Context(), http.MethodPost, api.PathClusters+"/edge-01/join-tokens", nil, &refused)
	if status(err) != http.StatusConflict || refused.Token != "" {
		t.Fatalf("a token for a second agent: %v", err)
	}
	contains(t, err.Error(), "has an agent already", a.id[:12], "rotor join edge-01 --replace")
	if err := a.enrol(t.Context(), "hq", w.joinToken(t, "hq", false)); status(err) != http.StatusConflict {
		t.Errorf("one key for two clusters: %v", err)
	}
}

// The reply was lost, and the operator made another token meanwhile: the agent
// is enrolled, and hears so.
func TestF28_EnrolmentIsRepeatedAfterAnotherTokenWasMade(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	token := w.joinToken(t, "edge-01", false)
	a := w.newAgent(t)
	if err := a.enrol(t.Context(), "edge-01", token); err != nil {
		t.Fatal(err)
	}
	w.joinToken(t, "edge-01", true)
	if err := a.enrol(t.Context(), "edge-01", token); err != nil {
		t.Errorf("repeat: %v", err)
	}
	if doc := agentDoc(t, w, "edge-01"); doc.Join.UsedBy != "" {
		t.Errorf("the repeat has used up the new token: %+v", doc.Join)
	}
}

// Delete that matched zero rows treated as success: of many that redeem one
// token at the same moment, at two gateways, exactly one gets in.
func TestOneTokenLetsOneAgentInHoweverManyTry(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	second := *w
	second.env = w.bus.Env(t, "gateway", clock.Real())
	second.env.Instance = "second"
	second.run(t)
	token := w.joinToken(t, "edge-01", false)
	var agents []*agent
	for i := range 8 {
		at := w
		if i%2 == 1 {
			at = &second
		}
		agents = append(agents, at.newAgent(t))
	}
	errs := make([]error, len(agents))
	var all sync.WaitGroup
	for i, a := range agents {
		all.Go(func() { errs[i] = a.enrol(t.Context(), "edge-01", token) })
	}
	all.Wait()
	in := agentDoc(t, w, "edge-01").ID
	for i, a := range agents {
		if want := a.id == in; (errs[i] == nil) != want || errs[i] != nil && status(errs[i]) != http.StatusForbidden {
			t.Errorf("agent %d: %v; on record %v", i, errs[i], want)
		}
	}
	if all := bustest.Stored(t, w.bus, event.AgentEnrolled); len(all) != 1 || all[0].Agent != in {
		t.Errorf("enrolments told: %+v", all)
	}
	if all := bustest.Stored(t, w.bus, event.SigninRefused); len(all) != len(agents)-1 {
		t.Errorf("%d refusals were told of, want %d", len(all), len(agents)-1)
	}
}

func TestJoinSaysWhatToDo(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile+"  - {name: edge-02, kind: workload, parent: hq, delivery: {directory: clusters/edge-02}}\n")
	join := func(cluster, body string) (reply api.JoinReply, err error) {
		return reply, w.client.Call(t.Context(), http.MethodPost, api.PathClusters+"/"+cluster+"/join-tokens", json.RawMessage(body), &reply)
	}
	reply, err := join("edge-01", "{}")
	if err != nil {
		t.Fatal(err)
	}
	want := "rotor agent --server https://" + w.agents + " --join " + reply.Token + " --ca-hash " + w.issuer.doc.Bundle.FleetKey
	if reply.Command != want || !strings.HasPrefix(reply.Token, "edge-01.1.") || reply.Server != "https://"+w.agents || reply.CAHash == "" {
		t.Errorf("reply %+v", reply)
	}
	if left := reply.ExpiresAt.Sub(clock.Wall()); left > time.Hour || left < 50*time.Minute {
		t.Errorf("good for %s", left)
	}
	if hash := agentDoc(t, w, "edge-01").Join.Hash; hash == "" || strings.Contains(hash, reply.Token) {
		t.Errorf("stored %q", hash)
	}
	for name, c := range map[string]struct {
		cluster, body string
		status        int
		says          string
	}{
		"unknown cluster": {"edge-09", "{}", 404, "edge-09"},
		"hosted agent":    {"edge-02", `{"replace":true}`, 409, "take delivery out"},
	} {
		if _, err := join(c.cluster, c.body); status(err) != c.status || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := join("edge-02", `{"replace":true,"hosted":true}`); err != nil {
		t.Errorf("the host itself: %v", err)
	}
}

func TestEnrolmentReplacesAndExpires(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	first := w.enrolled(t, "edge-01")
	if err := first.file(t.Context(), api.FileRequest{Client: kms, Generation: 1, CSR: csrOf(t, newKey(t))}); err != nil {
		t.Fatal(err)
	}
	second := w.newAgent(t)
	if err := second.enrol(t.Context(), "edge-01", w.joinToken(t, "edge-01", true)); err != nil {
		t.Fatal(err)
	}
	doc := agentDoc(t, w, "edge-01")
	if doc.ID != second.id || len(doc.Requests) != 0 {
		t.Errorf("after a replacement: %+v", doc)
	}
	bustest.Eventually(t, func() error {
		if _, _, err := first.WorkAfter(t.Context(), "", 0); status(err) != http.StatusUnauthorized {
			return fmt.Errorf("the agent before gets %w", err)
		}
		return nil
	})
	if err := first.report(t.Context()); status(err) != http.StatusUnauthorized {
		t.Errorf("a report of the agent before: %v", err)
	}
	told := bustest.Stored(t, w.bus, event.SigninRefused)
	if len(told) != 1 || told[0].What != event.RefusedAgent || told[0].Agent != first.id {
		t.Errorf("told of the agent before: %+v", told)
	}
	token := w.joinToken(t, "edge-01", true)
	if _, err := open[fleet.Agent](t, w, bus.Agents).Edit(t.Context(), "edge-01", func(a *fleet.Agent) error {
		a.Join.ExpiresAt = clock.Wall().Add(-time.Second)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	err := w.newAgent(t).enrol(t.Context(), "edge-01", token)
	if status(err) != http.StatusForbidden {
		t.Fatalf("expired token: %v", err)
	}
	contains(t, err.Error(), "expired")
	bare := w.agentClient(t, tls.Certificate{})
	for _, path := range []string{api.PathWork} {
		if err := bare.Call(t.Context(), http.MethodGet, path, nil, nil); status(err) != http.StatusUnauthorized {
			t.Errorf("%s without a certificate: %v", path, err)
		}
	}
	stranger := w.newAgent(t)
	if _, _, err := stranger.WorkAfter(t.Context(), "", 0); status(err) != http.StatusUnauthorized {
		t.Errorf("a stranger: %v", err)
	}
}

// While a request waits, no other key takes its place, so that the key of a
// generation is settled before it is signed.
func TestRequestsCannotBeReplaced(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	a := w.enrolled(t, "edge-01")
	key := newKey(t)
	csr := csrOf(t, key)
	for range 2 {
		if err := a.file(t.Context(), api.FileRequest{Client: kms, Generation: 1, CSR: csr}); err != nil {
			t.Fatal(err)
		}
	}
	before := agentDoc(t, w, "edge-01").Requests[kms]
	forged := slices.Clone(csrOf(t, newKey(t)))
	forged[len(forged)-1] ^= 1
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	csi := fleet.ClientKey{Kind: "csi"}
	for name, test := range map[string]struct {
		request api.FileRequest
		status  int
	}{
		"another key":       {api.FileRequest{Client: kms, Generation: 1, CSR: csrOf(t, newKey(t))}, 409},
		"a later one":       {api.FileRequest{Client: kms, Generation: 2, CSR: csrOf(t, newKey(t))}, 409},
		"an unknown client": {api.FileRequest{Client: fleet.ClientKey{Kind: "caph"}, Generation: 1, CSR: csr}, 422},
		"no request":        {api.FileRequest{Client: csi, Generation: 1, CSR: []byte("x")}, 422},
		"a forged one":      {api.FileRequest{Client: csi, Generation: 1, CSR: forged}, 422},
		"RSA":               {api.FileRequest{Client: csi, Generation: 1, CSR: csrOf(t, weak)}, 422},
	} {
		good := api.FileRequest{Client: fleet.ClientKey{Kind: "cert-manager"}, Generation: 1, CSR: csrOf(t, key)}
		if err := a.file(t.Context(), test.request, good); status(err) != test.status {
			t.Errorf("%s: %v, want %d", name, err, test.status)
		}
	}
	doc := agentDoc(t, w, "edge-01")
	if mustJSON(t, doc.Requests[kms]) != mustJSON(t, before) {
		t.Errorf("the request has changed: %+v", doc.Requests[kms])
	}
	if _, ok := doc.Requests[csi]; ok || len(doc.Requests) != 2 {
		t.Errorf("requests %+v", doc.Requests)
	}
	if err := a.file(t.Context(), api.FileRequest{Client: kms, Generation: 1, CSR: csr, Lost: true}); err != nil {
		t.Fatal(err)
	}
	if !agentDoc(t, w, "edge-01").Requests[kms].Lost {
		t.Error("lost was not noted")
	}
}

func TestWorkWakesAndHandsOverToTheRightAgent(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	a := w.enrolled(t, "edge-01")
	idle := a.work(t)
	if len(idle.Clients) != 4 || idle.Clients[0].Client != kms || idle.Bundle != 1 {
		t.Fatalf("work %+v", idle)
	}
	got := make(chan api.Work, 1)
	go func() {
		work, _, _ := a.WorkAfter(t.Context(), idle.Tag, 20*time.Second)
		got <- work
	}()
	g := w.issuer.sign(t, order{cluster: "edge-01", client: kms, number: 1, agent: a.id, step: fleet.StepIssued})
	w.record(t, "edge-01", kms, g)
	work := <-got
	for work.Clients[0].Pickup == nil { // the record came first
		next, _, err := a.WorkAfter(t.Context(), work.Tag, 20*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		work = next
	}
	if c := work.Clients[0]; c.Generation != 1 || c.Step != fleet.StepIssued || c.Pickup.Generation != 1 {
		t.Errorf("work %+v", c)
	}
	if same, changed, err := a.WorkAfter(t.Context(), work.Tag, time.Millisecond); err != nil || changed || same.Tag != work.Tag {
		t.Errorf("nothing has changed: %v %v", changed, err)
	}
	other := w.issuer.sign(t, order{cluster: "edge-01", client: kms, number: 1, agent: "another", step: fleet.StepIssued})
	w.record(t, "edge-01", kms, other)
	bustest.Eventually(t, func() error {
		if p := a.work(t).Clients[0].Pickup; p != nil {
			return fmt.Errorf("handed over what is sealed to another: %+v", p)
		}
		return nil
	})
}

func TestStepsBecomeFactsOnce(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	a := w.enrolled(t, "edge-01")
	g := w.issuer.sign(t, order{cluster: "edge-01", client: kms, number: 1, agent: a.id, step: fleet.StepIssued})
	w.record(t, "edge-01", kms, g)
	failed := api.StepReport{Client: kms, Generation: 1, Step: fleet.StepInstalled, Error: "disk full"}
	delivered := api.StepReport{Client: kms, Generation: 1, Step: fleet.StepDelivered}
	for range 2 {
		if err := a.report(t.Context(), delivered, failed, api.StepReport{Client: kms, Generation: 9, Step: fleet.StepInstalled}); err != nil {
			t.Fatal(err)
		}
	}
	if f := agentDoc(t, w, "edge-01").Failures[kms]; f.Error != "disk full" || f.Step != fleet.StepInstalled {
		t.Errorf("failure %+v", f)
	}
	var clients api.Page[api.ClientView]
	w.get(t, api.PathClusters+"/edge-01/clients?kind=kms", &clients)
	bustest.Eventually(t, func() error {
		w.get(t, api.PathClusters+"/edge-01/clients?kind=kms", &clients)
		if !strings.Contains(clients.Items[0].Reason, "disk full") {
			return fmt.Errorf("reason %q", clients.Items[0].Reason)
		}
		return nil
	})
	installed := api.StepReport{Client: kms, Generation: 1, Step: fleet.StepInstalled}
	if err := a.report(t.Context(), delivered, installed); err != nil {
		t.Fatal(err)
	}
	if n := len(agentDoc(t, w, "edge-01").Failures); n != 0 {
		t.Errorf("%d failures are left", n)
	}
	if all := bustest.Stored(t, w.bus, event.CredentialDelivered); len(all) != 1 || all[0].Clients[0].Serial != g.Certificate.Serial {
		t.Errorf("delivered: %+v", all)
	}
	if all := bustest.Stored(t, w.bus, event.CredentialInstalled); len(all) != 1 {
		t.Errorf("installed: %+v", all)
	}
	if err := a.report(t.Context(), api.StepReport{Client: fleet.ClientKey{Kind: "caph"}, Generation: 1, Step: fleet.StepDelivered}); status(err) != 422 {
		t.Errorf("unknown client: %v", err)
	}
}

func (w *world) prove(t *testing.T, pair tls.Certificate, token string) (reply api.ProveReply, err error) {
	t.Helper()
	c := w.agentClient(t, pair)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.URL+api.PathProve, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := c.HTTP.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode == http.StatusOK {
		return reply, json.NewDecoder(response.Body).Decode(&reply)
	}
	p := &api.Problem{}
	if err := json.NewDecoder(response.Body).Decode(p); err != nil {
		t.Fatal(err)
	}
	return reply, p
}

// Success is the observed use of exactly the new certificate and token.
// TestF9_WhatAnAgentCannotDoIsKept: also before its first generation, and about
// what is no client.
func TestF9_WhatAnAgentCannotDoIsKept(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	a := w.enrolled(t, "edge-01")
	send := func(r api.ReportSteps) fleet.Agent {
		t.Helper()
		if err := a.Call(t.Context(), http.MethodPost, api.PathSteps, r, nil); err != nil {
			t.Fatal(err)
		}
		return agentDoc(t, w, "edge-01")
	}
	first := api.StepReport{Client: kms, Generation: 1, Step: fleet.StepInstalled, Error: "Secret rotor/rotor-kms exists and is not Rotor's"}
	doc := send(api.ReportSteps{Steps: []api.StepReport{first}, BundleError: "read-only file system"})
	if doc.Failures[kms].Error != first.Error || doc.BundleFailure == nil || doc.BundleFailure.Error != "read-only file system" {
		t.Fatalf("%+v %+v", doc.Failures, doc.BundleFailure)
	}
	since := doc.BundleFailure.Since
	doc = send(api.ReportSteps{Steps: []api.StepReport{}, BundleError: "disk full"})
	if doc.BundleFailure == nil || doc.BundleFailure.Error != "disk full" || doc.BundleFailure.Since != since {
		t.Errorf("%+v; want the newer reason, since %s", doc.BundleFailure, since)
	}
	if doc = send(api.ReportSteps{Steps: []api.StepReport{}}); doc.BundleFailure != nil {
		t.Errorf("it is over: %+v", doc.BundleFailure)
	}
}

func TestF18_ProofSeesExactlyOneGeneration(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	sign := func(o order) issued {
		o.cluster, o.client = "edge-01", kms
		return w.issuer.sign(t, o)
	}
	old := sign(order{number: 1, step: fleet.StepProven})
	g := sign(order{number: 2, step: fleet.StepInstalled})
	w.record(t, "edge-01", kms, old, g)
	now := clock.Wall()
	claim := func(name string, value any) string {
		return sign(order{claims: func(c map[string]any) { c[name] = value }}).token
	}
	public, thief, err := ed25519.GenerateKey(rand.Reader)
	if err != nil || public == nil {
		t.Fatal(err)
	}
	expired := sign(order{leaf: func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }})
	server := sign(order{leaf: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }})
	foreign := sign(order{leaf: func(c *x509.Certificate) {
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: "evil.test", Path: "/edge-01/kms"}}
	}})
	nobody := sign(order{leaf: func(c *x509.Certificate) { c.URIs = nil }})
	self, _ := selfSigned(t)
	unknown := sign(order{number: 3})
	forged := w.issuer.mint(t, thief, "at+jwt", map[string]any{"iss": w.issuer.doc.TokenIssuer, "aud": "rotor", "sub": "edge-01/kms"})
	second := w.issuer.mint(t, w.issuer.tokenKey, "at+jwt", map[string]any{
		"iss": w.issuer.doc.TokenIssuer, "aud": "rotor", "sub": "edge-01/kms", "jti": "another", "nbf": now.Add(-time.Minute).Unix(),
		"exp": now.Add(fleet.Day).Unix(), "cnf": map[string]string{"jkt": g.Key},
	})
	for name, test := range map[string]struct {
		pair   tls.Certificate
		token  string
		status int
		says   string
	}{
		"no certificate":             {tls.Certificate{}, g.token, 401, "certificate"},
		"self-signed certificate":    {self, g.token, 401, "unknown authority"},
		"expired certificate":        {expired.pair, expired.token, 401, "expired"},
		"server certificate":         {server.pair, server.token, 401, "usage"},
		"foreign certificate":        {foreign.pair, foreign.token, 403, "trust domain"},
		"certificate without a name": {nobody.pair, nobody.token, 403, "URI"},
		"no token":                   {g.pair, "", 401, "Bearer"},
		"no JWT":                     {g.pair, "secret-text", 401, "not a JWT"},
		"forged token":               {g.pair, forged, 401, "signature"},
		"token of the generation 1":  {g.pair, old.token, 403, "jkt"},
		"another token of the key":   {g.pair, second, 403, "not the one of generation 2"},
		"wrong typ":                  {g.pair, sign(order{typ: "JWT"}).token, 401, "typ"},
		"wrong iss":                  {g.pair, claim("iss", "http://evil.test"), 401, "iss"},
		"wrong aud":                  {g.pair, claim("aud", "others"), 401, "aud"},
		"expired token":              {g.pair, claim("exp", now.Add(-time.Second).Unix()), 401, "exp"},
		"token of tomorrow":          {g.pair, claim("nbf", now.Add(fleet.Day).Unix()), 401, "nbf"},
		"token without end":          {g.pair, claim("exp", nil), 401, "exp"},
		"token without id":           {g.pair, claim("jti", ""), 401, "jti"},
		"token of another client":    {g.pair, claim("sub", "edge-01/csi"), 403, "sub"},
		"never recorded":             {unknown.pair, unknown.token, 403, "not on record"},
	} {
		_, err := w.prove(t, test.pair, test.token)
		if status(err) != test.status {
			t.Errorf("%s: %v, want %d", name, err, test.status)
			continue
		}
		contains(t, err.Error(), test.says)
		if test.token != "" && strings.Contains(err.Error(), test.token) {
			t.Errorf("%s: the answer shows the token", name)
		}
	}
	if n := len(bustest.Stored(t, w.bus, event.CredentialProven)); n != 0 {
		t.Fatalf("%d proofs were told", n)
	}
	for range 2 {
		if reply, err := w.prove(t, g.pair, g.token); err != nil || reply.Generation != 2 || reply.Serial != g.Certificate.Serial {
			t.Fatalf("%+v, %v", reply, err)
		}
	}
	if _, err := w.prove(t, old.pair, old.token); err != nil {
		t.Errorf("the generation before is still good: %v", err)
	}
	if all := bustest.Stored(t, w.bus, event.CredentialProven); len(all) != 1 || all[0].Clients[0].Generation != 2 {
		t.Errorf("proofs told: %+v", all)
	}
	if _, err := open[fleet.Credentials](t, w, bus.Credentials).Edit(t.Context(), "edge-01", func(c *fleet.Credentials) error {
		c.Clients[kms].Revoked = &fleet.Revocation{At: now, Reason: "keyCompromise"}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.prove(t, g.pair, g.token); status(err) != http.StatusForbidden {
		t.Errorf("revoked: %v", err)
	}
}

// Long polls and streams end at once when the gateway ends; the test's own
// clean-up fails if it does not end.
func TestLongPollDoesNotHoldUpTheEnd(t *testing.T) {
	ended := make(chan struct{})
	t.Cleanup(func() { <-ended }) // after the gateway was told to end
	w := start(t)
	w.apply(t, fleetFile)
	a := w.enrolled(t, "edge-01")
	tag := a.work(t).Tag
	go func() {
		defer close(ended)
		_, _, _ = a.WorkAfter(context.Background(), tag, 50*time.Second)
	}()
	bustest.Eventually(t, func() error {
		body := w.metrics(t)
		if !strings.Contains(body, "rotor_agents_connected 1") {
			return fmt.Errorf("nobody waits")
		}
		return nil
	})
}

// pollAs makes one poll as a process of an agent that tells of itself.
func (a *agent) pollAs(t *testing.T, name string, starts int, now time.Time) {
	t.Helper()
	if _, _, err := a.WorkOf(t.Context(), api.Caller{Heard: fleet.Heard{Instance: name, Starts: starts}, Now: now}, "", 0); err != nil {
		t.Fatal(err)
	}
}

// Two agents with one identity are noticed; a restart is not taken for it.
func TestCopiedKeyIsNoticedAndARestartIsNot(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	a := w.enrolled(t, "edge-01")
	for starts, name := range []string{"first", "second", "third"} {
		a.pollAs(t, name, starts+1, clock.Wall())
		a.pollAs(t, name, starts+1, clock.Wall())
	}
	life := agentDoc(t, w, "edge-01").Life
	if life.Copied != nil || life.Instance != "third" || life.Starts != 3 {
		t.Fatalf("after restarts: %+v", life)
	}
	bustest.Eventually(t, func() error { // the gateway answers from its copy
		if work := a.work(t); work.Starts != 3 {
			return fmt.Errorf("the agent hears of %d starts", work.Starts)
		}
		return nil
	})
	a.pollAs(t, "copy", 3, clock.Wall()) // started from the state before the third start
	bustest.Eventually(t, func() error {
		var page api.Page[api.AgentView]
		w.get(t, api.PathAgents, &page)
		if c := page.Items[0].Life.Copied; c == nil || c.How != fleet.CopiedOlder {
			return fmt.Errorf("shown: %+v", page.Items[0].Life)
		}
		return nil
	})
	replaced := w.newAgent(t)
	if err := replaced.enrol(t.Context(), "edge-01", w.joinToken(t, "edge-01", true)); err != nil {
		t.Fatal(err)
	}
	if life := agentDoc(t, w, "edge-01").Life; life.Copied != nil || life.Instance != "" {
		t.Errorf("the new agent inherits %+v", life)
	}
}

// Clock skew: an agent whose clock is wrong is noticed, and when it is right
// again.
func TestClockOfAnAgentIsWatched(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	a := w.enrolled(t, "edge-01")
	for _, c := range []struct {
		off    time.Duration
		skewed bool
	}{{0, false}, {-10 * time.Minute, true}, {-11 * time.Minute, true}, {time.Minute, false}} {
		a.pollAs(t, "one", 1, clock.Wall().Add(c.off))
		bustest.Eventually(t, func() error {
			life := agentDoc(t, w, "edge-01").Life
			if life.Skewed.IsZero() == c.skewed {
				return fmt.Errorf("off by %s: %+v", c.off, life)
			}
			return nil
		})
	}
}

func TestWhatAnAgentDidNotBelieveIsKept(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	a := w.enrolled(t, "edge-01")
	seen := clock.Wall().Add(-48 * time.Hour).Truncate(time.Second)
	report := api.ReportSteps{Refused: &fleet.Refused{At: seen, Server: "https://192.0.2.7:8443", Reason: strings.Repeat("x", 900)}}
	if err := a.Call(t.Context(), http.MethodPost, api.PathSteps, report, nil); err != nil {
		t.Fatal(err)
	}
	r := agentDoc(t, w, "edge-01").Life.Refused
	if r == nil || !r.At.Equal(seen) || clock.Wall().Sub(r.Heard) > time.Hour || len(r.Reason) > 600 {
		t.Errorf("kept: %+v", r)
	}
}
