package gateway_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// stand carries out commands about the standing of clients, as the issuer does.
func (i *issuer) stand(ctx context.Context, e event.Event, records *kv.Bucket[fleet.Credentials], lists *kv.Bucket[fleet.RevocationList]) error {
	var barred []fleet.Former
	_, err := records.Edit(ctx, e.Subject(), func(doc *fleet.Credentials) error {
		if c, err := event.Reinstate.Decode(e); err == nil {
			doc.Clients[c.Client].Reinstate(fleet.Reinstatement{At: c.At, By: c.By, Operation: e.ID()})
			return nil
		}
		c, err := event.Revoke.Decode(e)
		if err != nil {
			return err
		}
		record := doc.Clients[c.Client]
		record.Revoked = &fleet.Revocation{At: c.At, Reason: c.Reason, By: c.By, Operation: e.ID()}
		barred = record.Barred(clock.Wall())
		return nil
	})
	if err != nil || len(barred) == 0 {
		return err
	}
	template := &x509.RevocationList{Number: big.NewInt(clock.Wall().UnixNano()), ThisUpdate: clock.Wall(), NextUpdate: clock.Wall().Add(fleet.Day)}
	for _, f := range barred {
		serial, _ := new(big.Int).SetString(f.Serial, 16)
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: clock.Wall()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, i.ca, i.caKey)
	if err != nil {
		return err
	}
	_, err = lists.Edit(ctx, fleet.ListKey("ca-1"), func(doc *fleet.RevocationList) error {
		*doc = fleet.RevocationList{CA: "ca-1", Number: template.Number.Int64(), DER: der}
		return nil
	})
	return err
}

func (w *world) post(t *testing.T, path string, in any) (v api.ClientView, err error) {
	t.Helper()
	err = w.client.Call(t.Context(), http.MethodPost, path, in, &v)
	return v, err
}

// introspect asks about a token as a verifier does.
func (w *world) introspect(t *testing.T, body string) (answer api.Introspection, status int, raw string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+api.PathIntrospect, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+w.client.Token.Reveal())
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode == http.StatusOK {
		if err := json.Unmarshal(text, &answer); err != nil {
			t.Fatal(err)
		}
	}
	return answer, response.StatusCode, strings.TrimSpace(string(text))
}

func formOf(token string) string { return url.Values{"token": {token}}.Encode() }

// F21: what was given out can be taken back: by client, for every generation of
// it, and whoever asks hears of it at once.
func TestF21_WhatWasGivenOutCanBeTakenBack(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	a := w.enrolled(t, "edge-01")
	sign := func(number int, step fleet.Step) issued {
		return w.issuer.sign(t, order{cluster: "edge-01", client: kms, number: number, step: step, agent: a.id})
	}
	old, g := sign(1, fleet.StepProven), sign(2, fleet.StepInstalled)
	w.record(t, "edge-01", kms, old, g)
	for _, one := range []issued{old, g} {
		answer, _, _ := w.introspect(t, formOf(one.token))
		want := api.Introspection{
			Active: true, Issuer: w.issuer.doc.TokenIssuer, Subject: "edge-01/kms", Audience: []string{"rotor"}, ID: one.Token.ID,
			ExpiresAt: one.Token.ExpiresAt.Unix(), NotBefore: one.Token.NotBefore.Unix(), Confirm: &api.Confirmation{Thumbprint: one.Key},
			TokenType: "DPoP", ClientID: "edge-01/kms", Cluster: "edge-01", Client: &kms, Generation: one.Number,
		}
		if mustJSON(t, answer) != mustJSON(t, want) {
			t.Errorf("%s\nwant %s", mustJSON(t, answer), mustJSON(t, want))
		}
	}
	path := api.PathClusters + "/edge-01/revocations"
	revoke := api.RevokeRequest{Client: kms, Reason: fleet.KeyCompromise}
	for range 2 { // the second is a repeat
		v, err := w.post(t, path, revoke)
		if err != nil || v.State != fleet.StateRevoked || v.Remedy != "rotor reinstate edge-01/kms" {
			t.Fatalf("%+v, %v", v, err)
		}
	}
	if _, err := w.post(t, path, api.RevokeRequest{Client: kms, Reason: fleet.Superseded}); status(err) != http.StatusConflict {
		t.Errorf("another reason: %v", err)
	}
	refused := func(when string) {
		t.Helper()
		for _, one := range []issued{old, g} {
			if _, err := w.prove(t, one.pair, one.token); status(err) != http.StatusForbidden || !strings.Contains(err.Error(), "revoked") {
				t.Errorf("%s: generation %d proves: %v", when, one.Number, err)
			}
			if _, _, raw := w.introspect(t, formOf(one.token)); raw != `{"active":false}` {
				t.Errorf("%s: generation %d: %s", when, one.Number, raw)
			}
		}
	}
	refused("revoked")
	for _, base := range []string{w.url + api.PathCRL, w.url + api.PathCRL + "/ca-1"} {
		response, err := http.Get(base)
		if err != nil {
			t.Fatal(err)
		}
		der, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.Header.Get("Content-Type") != "application/pkix-crl" {
			t.Fatalf("%s: %v %v", base, response.Header, err)
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil || list.CheckSignatureFrom(w.issuer.ca) != nil || len(list.RevokedCertificateEntries) != 2 {
			t.Fatalf("%s: %+v, %v", base, list, err)
		}
	}
	at := func(work api.Work) api.ClientWork {
		return work.Clients[slices.IndexFunc(work.Clients, func(c api.ClientWork) bool { return c.Client == kms })]
	}
	if c := at(a.work(t)); c.Revoked == nil || c.Revoked.Reason != fleet.KeyCompromise || c.Pickup != nil {
		t.Errorf("the agent is told %+v", c)
	}
	v, err := w.post(t, api.PathClusters+"/edge-01/reinstatements", api.ReinstateRequest{Client: kms})
	if err != nil || v.State != fleet.StatePending {
		t.Fatalf("%+v, %v", v, err)
	}
	refused("reinstated")
	if c := at(a.work(t)); c.Revoked != nil || !c.Barred || c.Next != 4 || c.Pickup != nil {
		t.Errorf("the agent is told %+v", c)
	}
	if v, err := w.post(t, api.PathClusters+"/edge-01/reinstatements", api.ReinstateRequest{Client: kms}); err != nil {
		t.Errorf("again: %+v, %v", v, err)
	}
}

func TestStandingsOfNobody(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	for path, want := range map[string]int{"/edge-01/": 404, "/edge-09/": 404} {
		for what, body := range map[string]any{
			"revocations":    api.RevokeRequest{Client: fleet.ClientKey{Kind: "nix"}, Reason: fleet.Superseded},
			"reinstatements": api.ReinstateRequest{Client: fleet.ClientKey{Kind: "nix"}},
		} {
			if _, err := w.post(t, api.PathClusters+path+what, body); status(err) != want {
				t.Errorf("%s%s: %v", path, what, err)
			}
		}
	}
	_, err := w.post(t, api.PathClusters+"/edge-01/revocations", map[string]string{"client": "kms", "reason": "because"})
	if status(err) != http.StatusUnprocessableEntity {
		t.Fatal(err)
	}
	contains(t, err.Error(), "key-compromise", "cessation-of-operation")
}

// A client that has left the fleet file can still be revoked, one with an
// instance too.
func TestRevokeANodeAgent(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	key := fleet.ClientKey{Kind: "node-agent", Instance: "host-9"}
	w.record(t, "hq", key, w.issuer.sign(t, order{cluster: "hq", client: key, number: 1, step: fleet.StepProven}))
	v, err := w.post(t, api.PathClusters+"/hq/revocations", api.RevokeRequest{Client: key, Reason: fleet.CessationOfOperation})
	if err != nil || v.State != fleet.StateRevoked || v.Instance != "host-9" {
		t.Fatalf("%+v, %v", v, err)
	}
}

func TestIntrospection(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	sign := func(number int, step fleet.Step, proven time.Time) issued {
		g := w.issuer.sign(t, order{cluster: "edge-01", client: kms, number: number, step: step})
		g.ProvenAt = proven
		return g
	}
	now := clock.Wall()
	oldest, skipped := sign(1, fleet.StepSuperseded, now.Add(-2*fleet.Day)), sign(2, fleet.StepSuperseded, time.Time{})
	last, used := sign(3, fleet.StepSuperseded, now.Add(-fleet.Day)), sign(4, fleet.StepProven, now)
	next, never := sign(5, fleet.StepIssued, time.Time{}), sign(6, fleet.StepIssued, time.Time{})
	w.record(t, "edge-01", kms, oldest, skipped, last, used, next)
	expired := w.issuer.sign(t, order{cluster: "edge-01", client: kms, claims: func(c map[string]any) { c["exp"] = now.Add(-time.Second).Unix() }})
	for name, test := range map[string]struct {
		body   string
		status int
		active bool
	}{
		"in use":                    {formOf(used.token), 200, true},
		"with a hint":               {formOf(used.token) + "&token_type_hint=access_token", 200, true},
		"on its way":                {formOf(next.token), 200, true},
		"the one before":            {formOf(last.token), 200, true},
		"replaced twice":            {formOf(oldest.token), 200, false},
		"replaced and never proven": {formOf(skipped.token), 200, false},
		"not on record":             {formOf(never.token), 200, false},
		"expired":                   {formOf(expired.token), 200, false},
		"of another signer":         {formOf("eyJhbGciOiJub25lIn0.e30."), 200, false},
		"no JWT":                    {formOf("x"), 200, false},
		"no token":                  {"token_type_hint=access_token", 400, false},
		"empty":                     {"token=", 400, false},
		"empty body":                {"", 400, false},
		"twice":                     {formOf(used.token) + "&" + formOf(used.token), 400, false},
		"not a form":                {"token=%zz", 400, false},
		"too large":                 {"token=" + strings.Repeat("x", 64<<10), 413, false},
	} {
		answer, status, raw := w.introspect(t, test.body)
		if status != test.status || answer.Active != test.active || status == 200 && !test.active && raw != `{"active":false}` {
			t.Errorf("%s: %d %s", name, status, raw)
		}
		for _, g := range []issued{used, oldest} {
			if strings.Contains(raw, g.token) {
				t.Errorf("%s: the answer shows the token", name)
			}
		}
	}
}

func TestListsAreServed(t *testing.T) {
	w := start(t)
	get := func(path, etag string) *http.Response {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if etag != "" {
			request.Header.Set("If-None-Match", etag)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		return response
	}
	if r := get(api.PathCRL, ""); r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" {
		t.Errorf("before the first: %s", r.Status)
	}
	if r := get(api.PathCRL+"/ca-9", ""); r.StatusCode != http.StatusNotFound {
		t.Errorf("of no CA: %s", r.Status)
	}
	lists := open[fleet.RevocationList](t, w, bus.Authority)
	if _, err := lists.Create(t.Context(), fleet.ListKey("ca-1"), fleet.RevocationList{CA: "ca-1", Number: 7, DER: []byte("der")}); err != nil {
		t.Fatal(err)
	}
	bustest.Eventually(t, func() error {
		_, err := w.call(t, http.MethodGet, api.PathCRL, "")
		if err != "der" {
			return io.ErrUnexpectedEOF
		}
		return nil
	})
	r := get(api.PathCRL, "")
	if again := get(api.PathCRL, r.Header.Get("ETag")); again.StatusCode != http.StatusNotModified || r.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("asked again: %s, %v", again.Status, r.Header)
	}
	// Agents and what runs beside them need no token either, and no certificate.
	pair, _ := selfSigned(t)
	c := w.agentClient(t, pair)
	response, err := c.HTTP.Get(c.URL + api.PathCRL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if body, _ := io.ReadAll(response.Body); !bytes.Equal(body, []byte("der")) {
		t.Errorf("on the agents' listener: %s %s", response.Status, body)
	}
}

// What operators do is in the ledger, each request once, and can be read in
// pages that fit together.
func TestTheLedgerSaysWhatOperatorsDid(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	w.apply(t, fleetFile) // changes nothing
	w.joinToken(t, "edge-01", true)
	key := *w.client
	key.Key = "once"
	for range 2 {
		if _, err := key.Rotate(t.Context(), api.RotateRequest{Clusters: []string{"edge-01"}, Force: true}); err != nil {
			t.Fatal(err)
		}
	}
	var reply api.UpgradeReply
	for range 2 {
		request := api.UpgradeRequest{Release: "2026.08", CompletedAt: day("2026-08-10")}
		if err := w.client.Call(t.Context(), http.MethodPost, api.PathClusters+"/edge-01/upgrades", request, &reply); err != nil {
			t.Fatal(err)
		}
	}
	w.record(t, "edge-01", kms, w.issuer.sign(t, order{cluster: "edge-01", client: kms, number: 1, step: fleet.StepProven}))
	for range 2 {
		if _, err := w.post(t, api.PathClusters+"/edge-01/revocations", api.RevokeRequest{Client: kms, Reason: fleet.Superseded}); err != nil {
			t.Fatal(err)
		}
	}
	var chains audit.Chains
	var actions []string
	raws, err := api.List[json.RawMessage](t.Context(), w.client, api.PathAudit, url.Values{"limit": {"2"}, "chain": {"gateway"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range raws {
		e, err := chains.Add(raw)
		if err != nil {
			t.Fatal(err)
		}
		if e.Actor != "admin" || e.Chain != "gateway" {
			t.Errorf("%+v", e)
		}
		actions = append(actions, e.Action)
	}
	want := []string{"fleet.apply", "agent.join-token", "cluster.rotate", "cluster.upgrade", "client.revoke"}
	if !slices.Equal(actions, want) {
		t.Errorf("%q, want %q", actions, want)
	}
	if err := w.client.Call(t.Context(), http.MethodGet, api.PathAudit+"?cursor=eA", nil, nil); status(err) != http.StatusUnprocessableEntity {
		t.Errorf("a cursor of nothing: %v", err)
	}
}

// Where the ledger cannot be written nothing is done, whatever it is.
func TestNothingIsDoneThatCannotBeWrittenDown(t *testing.T) {
	w := startOn(t, bustest.NewDenying(t, "rotor.v1.audit.>"))
	if _, err := w.client.Apply(t.Context(), []byte(fleetFile), false, false); status(err) < 500 {
		t.Errorf("apply: %v", err)
	}
	if n := len(bustest.Stored(t, w.bus, event.ClusterRegistered)); n > 0 {
		t.Fatalf("%d clusters were added", n)
	}
	clusters := open[fleet.Cluster](t, w, bus.Clusters)
	if _, err := clusters.Create(t.Context(), "edge-01", fleet.Cluster{Name: "edge-01", Kind: fleet.Workload, Clients: []fleet.ClientKey{kms}, Release: "2026.07"}); err != nil {
		t.Fatal(err)
	}
	if _, err := open[fleet.Release](t, w, bus.Releases).Create(t.Context(), "2026.08", fleet.Release{Version: "2026.08", PublishedAt: day("2026-08-01")}); err != nil {
		t.Fatal(err)
	}
	w.record(t, "edge-01", kms, w.issuer.sign(t, order{cluster: "edge-01", client: kms, number: 1, step: fleet.StepProven}))
	for what, body := range map[string]any{
		"revocations": api.RevokeRequest{Client: kms, Reason: fleet.Superseded},
		"rotations":   api.RotateRequest{Force: true},
		"upgrades":    api.UpgradeRequest{Release: "2026.08"},
		"join-tokens": api.JoinRequest{},
		"recoveries":  api.RecoveryRequest{},
	} {
		err := w.client.Call(t.Context(), http.MethodPost, api.PathClusters+"/edge-01/"+what, body, nil)
		if status(err) < 500 {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, n := range []int{
		len(bustest.Stored(t, w.bus, event.Rotate)), len(bustest.Stored(t, w.bus, event.Revoke)), len(bustest.Stored(t, w.bus, event.ClusterUpgraded)),
	} {
		if n > 0 {
			t.Error("a command or a fact went out")
		}
	}
	agents := open[fleet.Agent](t, w, bus.Agents)
	if e, err := agents.Get(t.Context(), "edge-01"); err == nil && (e.Value.Join != nil || len(e.Value.Permits) > 0) {
		t.Errorf("%+v", e.Value)
	}
}

// A key of a request is for that request: for another client it is refused, and a
// repeat after the reinstatement does not revoke again.
func TestRevocationKeys(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	csi := fleet.ClientKey{Kind: "csi"}
	for _, key := range []fleet.ClientKey{kms, csi} {
		w.record(t, "edge-01", key, w.issuer.sign(t, order{cluster: "edge-01", client: key, number: 1, step: fleet.StepProven}))
	}
	keyed := *w.client
	keyed.Key = "ticket-1"
	revoke := func(key fleet.ClientKey) error {
		return keyed.Call(t.Context(), http.MethodPost, api.PathClusters+"/edge-01/revocations", api.RevokeRequest{Client: key, Reason: fleet.Superseded}, nil)
	}
	if err := revoke(kms); err != nil {
		t.Fatal(err)
	}
	if err := revoke(csi); status(err) != http.StatusConflict {
		t.Errorf("the key of another request: %v", err)
	}
	if _, err := w.post(t, api.PathClusters+"/edge-01/reinstatements", api.ReinstateRequest{Client: kms}); err != nil {
		t.Fatal(err)
	}
	if err := revoke(kms); err != nil {
		t.Errorf("the repeat: %v", err)
	}
	if v := bustest.Stored(t, w.bus, event.Revoke); len(v) > 0 {
		t.Errorf("commands wait: %+v", v)
	}
	var v api.Page[api.ClientView]
	w.get(t, api.PathClusters+"/edge-01/clients?state=revoked", &v)
	if len(v.Items) > 0 {
		t.Errorf("revoked: %+v", v.Items)
	}
}

// A token that is asked about is in no log, whatever the answer.
func TestIntrospectionLogsNoToken(t *testing.T) {
	var log safeBuffer
	w := &world{bus: bustest.New(t), dir: t.TempDir()}
	w.env = w.bus.Env(t, "gateway", clock.Real())
	w.env.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.issuer = newIssuer(t, w.bus)
	w.run(t)
	w.apply(t, fleetFile)
	g := w.issuer.sign(t, order{cluster: "edge-01", client: kms, number: 1, step: fleet.StepProven})
	w.record(t, "edge-01", kms, g)
	for _, body := range []string{formOf(g.token), formOf(g.token + "x"), formOf(g.token) + "&" + formOf(g.token), "token=%zz" + g.token} {
		if _, _, raw := w.introspect(t, body); strings.Contains(raw, g.token) {
			t.Errorf("the answer shows the token: %s", raw)
		}
	}
	if text := log.String(); !strings.Contains(text, "gateway listens") || strings.Contains(text, g.token) {
		t.Error("the log shows the token, or nothing")
	}
}

// safeBuffer is a log that may be read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
