package gateway_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
)

// authority changes the document of the authority.
func (w *world) authority(t *testing.T, change func(*fleet.Authority)) {
	t.Helper()
	_, err := open[fleet.Authority](t, w, bus.Authority).Edit(t.Context(), fleet.AuthorityKey, func(a *fleet.Authority) error {
		change(a)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// prepare makes a CA incoming, from trust bundle 2 on.
func (w *world) prepare(t *testing.T, id string) *testCA {
	t.Helper()
	c := &testCA{id: id}
	c.cert, c.key = newCA(t)
	w.authority(t, func(a *fleet.Authority) {
		a.CAs = append(a.CAs, fleet.CA{ID: id, Number: len(a.CAs) + 1, Phase: fleet.PhaseIncoming, Certificate: pemOf(c.cert.Raw), Bundle: a.Bundle.Version + 1})
		a.Bundle.Version, a.Bundle.Certificates = a.Bundle.Version+1, append(a.Bundle.Certificates, string(pemOf(c.cert.Raw)))
		a.Bundle.Signed = fmt.Sprintf("signed-%d", a.Bundle.Version)
	})
	return c
}

// phases puts CAs into other phases.
func (w *world) phases(t *testing.T, phases map[string]fleet.Phase) {
	t.Helper()
	w.authority(t, func(a *fleet.Authority) {
		for id, phase := range phases {
			a.FindCA(id).Phase = phase
		}
	})
}

// greet makes a handshake under a name, empty for none, and trusts one CA.
func (w *world) greet(name string, ca *x509.Certificate) (*tls.Conn, error) {
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	c := &tls.Config{ServerName: name, RootCAs: pool, MinVersion: tls.VersionTLS13}
	if name == "" {
		c.ServerName = "127.0.0.1" // not sent: it is no name (RFC 6066, 3)
	}
	return tls.Dial("tcp", w.agents, c)
}

// shows waits until a handshake under a name ends as it shall; why is part of the
// error, empty for none.
func (w *world) showsCanary(t *testing.T, name string, ca *x509.Certificate, why string) {
	t.Helper()
	bustest.Eventually(t, func() error {
		conn, err := w.greet(name, ca)
		if err == nil {
			_ = conn.Close()
		}
		if (err == nil) != (why == "") || err != nil && !strings.Contains(err.Error(), why) {
			return fmt.Errorf("%q: got %w, want %q", name, errors.Join(errors.New("handshake"), err), why)
		}
		return nil
	})
}

const noCanary = "tls: internal error"

// While a CA is incoming, the gateway serves a canary of it, and nothing but the
// handshake; its own certificate stays with the CA that signs, there and back.
func TestCanaryIsServedWhileACAIsIncoming(t *testing.T) {
	w := start(t)
	name := identity.CanaryName("ca-2")
	w.showsCanary(t, name, w.issuer.ca, noCanary)
	if strings.Contains(w.metrics(t), "rotor_canary_ready") {
		t.Error("a canary is told of, and no CA is incoming")
	}
	next := w.prepare(t, "ca-2")
	w.showsCanary(t, name, next.cert, noCanary) // the issuer does not answer
	w.measured(t, "rotor_canary_ready 0")
	for _, path := range []string{"/readyz", "/livez"} {
		if r, err := http.Get(w.url + path); err != nil || r.StatusCode != http.StatusOK || r.Body.Close() != nil {
			t.Fatalf("%s while there is no canary: %v, %v", path, r, err)
		}
	}
	w.phases(t, map[string]fleet.Phase{"ca-2": fleet.PhaseRetired})
	third := w.prepare(t, "ca-3") // what was asked for ca-2 holds nobody up
	w.issuer.incoming.Store(&testCA{"ca-3", third.cert, third.key})
	name = identity.CanaryName("ca-3")
	w.showsCanary(t, name, third.cert, "")
	w.showsCanary(t, strings.ToUpper(name), third.cert, "")
	w.measured(t, "rotor_canary_ready 1")
	w.showsCanary(t, name, w.issuer.ca, "unknown authority")
	w.showsCanary(t, identity.CanaryName("ca-2"), next.cert, noCanary)
	w.showsCanary(t, identity.CanaryName("ca-1"), w.issuer.ca, noCanary)
	w.showsCanary(t, "", w.issuer.ca, "")
	w.misdirected(t, name, third.cert)

	w.issuer.signer.Store(third)
	w.phases(t, map[string]fleet.Phase{"ca-1": fleet.PhaseOutgoing, "ca-3": fleet.PhaseActive})
	w.showsCanary(t, "", third.cert, "")
	w.showsCanary(t, name, third.cert, noCanary)
	w.issuer.signer.Store(nil)
	w.phases(t, map[string]fleet.Phase{"ca-1": fleet.PhaseActive, "ca-3": fleet.PhaseOutgoing})
	w.showsCanary(t, "", w.issuer.ca, "")
}

// measured waits for a line of the metrics.
func (w *world) measured(t *testing.T, line string) {
	t.Helper()
	bustest.Eventually(t, func() error {
		if !strings.Contains(w.metrics(t), line) {
			return fmt.Errorf("no %q", line)
		}
		return nil
	})
}

// misdirected demands that no request is answered on a connection to a canary.
func (w *world) misdirected(t *testing.T, name string, ca *x509.Certificate) {
	t.Helper()
	for _, line := range []string{"GET /", "GET " + api.PathWork, "GET " + api.PathTrustSigned, "POST " + api.PathEnrol, "POST " + api.PathProve, "GET /livez", "GET " + api.PathJWKS} {
		conn, err := w.greet(name, ca)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.WriteString(conn, line+" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		if _ = conn.Close(); response.StatusCode != http.StatusMisdirectedRequest || !strings.Contains(string(body), "a handshake and nothing else") {
			t.Errorf("%s: %d %s", line, response.StatusCode, body)
		}
	}
}

// Agents hear of the CA to come at once, and of what is on record of their trust.
func TestWorkNamesTheCAThatIsToCome(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	a := w.enrolled(t, "edge-01")
	first := a.work(t)
	if first.Canary != "" || first.Trust != nil {
		t.Fatalf("before: %+v", first)
	}
	polled := make(chan api.Work, 1)
	go func() {
		work, _, _ := a.WorkAfter(t.Context(), first.Tag, 50*time.Second)
		polled <- work
	}()
	bustest.Eventually(t, func() error {
		if !strings.Contains(w.metrics(t), "rotor_agents_connected 1") {
			return errors.New("nobody waits")
		}
		return nil
	})
	w.prepare(t, "ca-2")
	work := <-polled
	if work.Canary != "ca-2" || work.Bundle != 2 || work.Trust == nil || *work.Trust != (api.TrustNoted{}) {
		t.Fatalf("woken with %+v", work)
	}
	hash := (&fleet.TrustBundle{Signed: "signed-2"}).Hash()
	a.trusts(t, api.ReportSteps{Bundle: 2, BundleHash: hash, Canary: &api.CanaryReport{CA: "ca-2"}})
	bustest.Eventually(t, func() error {
		if got := a.work(t); got.Trust == nil || *got.Trust != (api.TrustNoted{Bundle: 2, Hash: hash, CA: "ca-2"}) || got.Tag == work.Tag {
			return fmt.Errorf("noted: %+v", got.Trust)
		}
		return nil
	})
	w.phases(t, map[string]fleet.Phase{"ca-2": fleet.PhaseRetired})
	bustest.Eventually(t, func() error {
		if got := a.work(t); got.Canary != "" || got.Trust != nil {
			return fmt.Errorf("after: %+v", got)
		}
		return nil
	})
}

func (a *agent) trusts(t *testing.T, r api.ReportSteps) {
	t.Helper()
	if r.Steps == nil {
		r.Steps = []api.StepReport{}
	}
	if err := a.Call(t.Context(), http.MethodPost, api.PathSteps, r, nil); err != nil {
		t.Fatal(err)
	}
}

// What the authority does not have is ignored, and since when something is so stays
// for as long as it is.
func TestWordOfTrustIsKept(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	a := w.enrolled(t, "edge-01")
	w.prepare(t, "ca-2")
	bustest.Eventually(t, func() error {
		if a.work(t).Canary == "" {
			return errors.New("the gateway has not heard")
		}
		return nil
	})
	right, old := (&fleet.TrustBundle{Signed: "signed-2"}).Hash(), strings.Repeat("ab", 32)
	for _, step := range []struct {
		name   string
		report api.ReportSteps
		bundle int
		hash   string
		ca     string
		why    string
		again  bool // since stays
	}{
		{name: "a bundle of the future", report: api.ReportSteps{Bundle: 3, BundleHash: "x"}},
		{name: "another bundle", report: api.ReportSteps{Bundle: 2, BundleHash: "x"}},
		{name: "an unknown CA", report: api.ReportSteps{Canary: &api.CanaryReport{CA: "ca-9"}}},
		{name: "the CA that signs", report: api.ReportSteps{Canary: &api.CanaryReport{CA: "ca-1"}}},
		{name: "the bundle before", report: api.ReportSteps{Bundle: 1, BundleHash: old}, bundle: 1, hash: old},
		{name: "no hash", report: api.ReportSteps{Bundle: 1, BundleHash: "old"}, bundle: 1, hash: old},
		{name: "a proof with another bundle", report: api.ReportSteps{Bundle: 2, BundleHash: old, Canary: &api.CanaryReport{CA: "ca-2"}}, bundle: 1, hash: old},
		{name: "a proof with none", report: api.ReportSteps{Canary: &api.CanaryReport{CA: "ca-2"}}, bundle: 1, hash: old},
		{name: "an agent of before", report: api.ReportSteps{Bundle: 2, Canary: &api.CanaryReport{CA: "ca-2"}}, bundle: 2},
		{name: "a failure", report: api.ReportSteps{Bundle: 2, BundleHash: right, Canary: &api.CanaryReport{CA: "ca-2", Error: "no"}}, bundle: 2, hash: right, ca: "ca-2", why: "no"},
		{name: "another", report: api.ReportSteps{Bundle: 2, BundleHash: right, Canary: &api.CanaryReport{CA: "ca-2", Error: "still"}}, bundle: 2, hash: right, ca: "ca-2", why: "still", again: true},
		{name: "a proof", report: api.ReportSteps{Bundle: 2, BundleHash: right, Canary: &api.CanaryReport{CA: "ca-2"}}, bundle: 2, hash: right, ca: "ca-2"},
		{name: "again", report: api.ReportSteps{Bundle: 2, BundleHash: right, Canary: &api.CanaryReport{CA: "ca-2"}}, bundle: 2, hash: right, ca: "ca-2", again: true},
		{name: "nothing of it", report: api.ReportSteps{Bundle: 2, BundleHash: right}, bundle: 2, hash: right, ca: "ca-2", again: true},
		{name: "nothing at all", report: api.ReportSteps{}, bundle: 2, hash: right, ca: "ca-2", again: true},
		{name: "back to the bundle before", report: api.ReportSteps{Bundle: 1, BundleHash: old}, bundle: 1, hash: old},
		{name: "the proof is made anew", report: api.ReportSteps{Bundle: 2, BundleHash: right, Canary: &api.CanaryReport{CA: "ca-2"}}, bundle: 2, hash: right, ca: "ca-2"},
	} {
		past := fleet.CanaryProof{}
		if _, err := open[fleet.Agent](t, w, bus.Agents).Edit(t.Context(), "edge-01", func(doc *fleet.Agent) error {
			if doc.Canary != nil {
				doc.Canary.Since = doc.Canary.Since.Add(-time.Hour)
				past = *doc.Canary
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		a.trusts(t, step.report)
		doc, proof := agentDoc(t, w, "edge-01"), fleet.CanaryProof{}
		if doc.Canary != nil {
			proof = *doc.Canary
		}
		if doc.Bundle != step.bundle || doc.BundleHash != step.hash || proof.CA != step.ca || proof.Error != step.why {
			t.Errorf("%s: bundle %d, hash %q, %+v", step.name, doc.Bundle, doc.BundleHash, proof)
		}
		if step.ca != "" && proof.Since.Equal(past.Since) != step.again {
			t.Errorf("%s: since %s, before %s", step.name, proof.Since, past.Since)
		}
	}
	e, err := open[fleet.Authority](t, w, bus.Authority).Get(t.Context(), fleet.AuthorityKey)
	if err != nil {
		t.Fatal(err)
	}
	doc := agentDoc(t, w, "edge-01")
	if why, _, ok := doc.Proves(&e.Value, "ca-2"); !ok {
		t.Errorf("not proven: %s", why)
	}
	var page api.Page[api.AgentView]
	bustest.Eventually(t, func() error {
		w.get(t, api.PathAgents, &page)
		if v := page.Items[0]; v.BundleHash != right || v.Canary == nil || v.Canary.CA != "ca-2" || v.Bundle != 2 || v.NextCA == nil || !v.NextCA.Ready || v.NextCA.CA != "ca-2" {
			return fmt.Errorf("shown: %+v", v)
		}
		return nil
	})
}
