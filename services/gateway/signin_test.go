package gateway_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/rotor-fleet/rotor/services/gateway/internal/denial"
	"github.com/rotor-fleet/rotor/services/gateway/internal/rest"
	"github.com/rotor-fleet/rotor/services/gateway/internal/signin"
	"github.com/rotor-fleet/rotor/services/gateway/internal/state"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func postWith(t *testing.T, client *http.Client, url, body string, headers http.Header) (*http.Response, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header = headers.Clone()
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(response.Body)
	response.Body = io.NopCloser(strings.NewReader(string(raw)))
	return response, err
}

func TestLogin(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	p := w.signedIn(t, order{})
	next := newKey(t)
	first, err := p.Login(t.Context(), p.with, next)
	if err != nil {
		t.Fatal(err)
	}
	g := w.recordOf(t).Newest()
	if first.Cluster != "edge-01" || first.Client != kms || first.Generation != 2 || !strings.Contains(first.CA, "BEGIN CERTIFICATE") ||
		!first.NotAfter.Equal(g.Certificate.NotAfter) || !first.ExpiresAt.Equal(g.Token.ExpiresAt) || !first.RenewAt.Equal(g.RenewAt) {
		t.Errorf("reply %+v, record %+v", first, g)
	}
	if all := bustest.Stored(t, w.bus, event.CredentialDelivered); len(all) != 1 || all[0].Clients[0].Generation != 2 || all[0].Operation != g.Operation {
		t.Errorf("told %+v", all)
	}
	// The new pair is good: for the proof, and for the next sign-in, which tells
	// of the generation as proven.
	pair := tls.Certificate{Certificate: [][]byte{derOf(t, first.Certificate)}, PrivateKey: next}
	prover := w.agentClient(t, pair)
	prover.Token = secret.New(first.Token)
	if err := prover.Call(t.Context(), http.MethodPost, api.PathProve, nil, nil); err != nil {
		t.Error(err)
	}
	w.stepTo(t, 2, fleet.StepDelivered)
	third, err := p.Login(t.Context(), api.Credential{Token: secret.New(first.Token), Key: next}, newKey(t))
	if err != nil || third.Generation != 3 {
		t.Fatalf("%+v, %v", third, err)
	}
	if n := told(t, w, event.CredentialProven); n != 1 { // the two are one fact
		t.Errorf("told %d times of the proof", n)
	}
}

// The reply was lost: the same token and key give the same again, another key is
// refused; also after the gateway was killed.
func TestF28_LoginCanBeRepeatedByTheSameKeyOnly(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	p := w.signedIn(t, order{})
	next := newKey(t)
	first, err := p.Login(t.Context(), p.with, next)
	if err != nil {
		t.Fatal(err)
	}
	again, err := p.Login(t.Context(), p.with, next)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "again", first, again)
	w.env = w.bus.Env(t, "gateway", clock.Real())
	w.run(t) // another gateway
	other := &api.Client{URL: w.url}
	if again, err = other.Login(t.Context(), p.with, next); err != nil {
		t.Fatal(err)
	}
	same(t, "at another gateway", first, again)
	for range 2 {
		if _, err := other.Login(t.Context(), p.with, newKey(t)); status(err) != http.StatusConflict {
			t.Errorf("another key: %v", err)
		}
	}
	all := bustest.Stored(t, w.bus, event.SigninRefused)
	if len(all) != 2 || all[0].What != event.RefusedLogin || *all[0].Client != kms || all[0].Generation != 2 || all[0].Agent == all[1].Agent {
		t.Errorf("told %+v", all)
	}
	w.stepTo(t, 2, fleet.StepProven)
	w.stepTo(t, 1, fleet.StepSuperseded)
	if _, err := other.Login(t.Context(), p.with, next); status(err) != http.StatusUnauthorized {
		t.Errorf("once the new one is proven: %v", err)
	}
}

// Killed before or after each message that it sends, the gateway leaves nothing
// that a repeat at another one does not bring to its end.
func TestF28_GatewayKilledAnywhere(t *testing.T) {
	for name, call := range map[string]func(*testing.T, *world, *api.Client, program) (api.SignInReply, error){
		"login": func(t *testing.T, _ *world, c *api.Client, p program) (api.SignInReply, error) {
			return c.Login(t.Context(), p.with, p.next)
		},
		"recover": func(t *testing.T, _ *world, c *api.Client, p program) (api.SignInReply, error) {
			return c.Redeem(t.Context(), secret.New("recover me"), p.next)
		},
	} {
		t.Run(name, func(t *testing.T) {
			for at := 1; at <= 3; at++ {
				for _, after := range []bool{false, true} {
					w := start(t)
					w.apply(t, fleetFile)
					p := w.signedIn(t, order{cluster: "edge-01", client: kms, number: 1, step: fleet.StepDelivered})
					p.next = newKey(t)
					w.recovery(t, "recover me", 2, clock.Wall().Add(time.Hour))
					k := &mortal{bus: w.bus.Bus, at: at, after: after}
					_, _ = call(t, w, w.direct(t, k), p) // nobody hears the reply
					reply, err := call(t, w, p.Client, p)
					if err != nil || reply.Generation != 2 {
						t.Fatalf("message %d, after %v: %+v, %v", at, after, reply, err)
					}
					if n := len(w.recordOf(t).Generations); n != 2 {
						t.Errorf("message %d, after %v: %d generations", at, after, n)
					}
					again, err := call(t, w, p.Client, p)
					if err != nil {
						t.Fatal(err)
					}
					same(t, fmt.Sprintf("message %d, after %v", at, after), reply, again)
				}
			}
		})
	}
}

// mortal is a bus that ends at its n-th message.
type mortal struct {
	bus   *bus.Bus
	sent  int
	at    int
	after bool
}

var errKilled = errors.New("killed here")

func (m *mortal) Publish(ctx context.Context, e event.Event) error {
	m.sent++
	switch {
	case m.sent > m.at:
		return errKilled
	case m.sent < m.at:
		return m.bus.Publish(ctx, e)
	case m.after:
		if err := m.bus.Publish(ctx, e); err != nil {
			return err
		}
	}
	return errKilled
}

// direct serves sign-ins in the process of the test, over a bus of its own.
func (w *world) direct(t *testing.T, k *mortal) *api.Client {
	t.Helper()
	env := w.bus.Env(t, "gateway", clock.Real())
	s, err := state.Open(t.Context(), env.NATS, env.Health)
	if err != nil {
		t.Fatal(err)
	}
	bustest.Run(t, s.Run)
	bustest.Eventually(t, func() error {
		_, settled := s.TheAuthority()
		if _, err := s.Cluster("edge-01"); err != nil || !settled || s.Agent("edge-01") == nil {
			return errors.New("the mirrors are empty")
		}
		return nil
	})
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	service := signin.New(signin.Env{
		State: s, Bus: k, Clock: clock.Real(), Log: bustest.Quiet(), URLs: []string{server.URL}, Patience: 3 * time.Second,
		Refusals: denial.Teller{Bus: w.bus.Bus, Clock: clock.Real(), Log: bustest.Quiet()},
		Ledger:   audit.New("gateway", w.bus.Bus.Ledger("gateway"), clock.Wall),
	})
	service.Register(humago.New(mux, rest.Describe("Test", "", server.URL)))
	return &api.Client{URL: server.URL}
}

func (w *world) recordOf(t *testing.T) *fleet.Record {
	t.Helper()
	e, err := open[fleet.Credentials](t, w, bus.Credentials).Get(t.Context(), "edge-01")
	if err != nil {
		t.Fatal(err)
	}
	return e.Value.Record(kms)
}

// What is wrong with a call is told with the status and the challenge of RFC
// 9449, 7.1, and leads to nothing.
func TestLoginRefuses(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	p := w.signedIn(t, order{})
	csr, err := api.NewRequest(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	body := mustJSON(t, api.LoginRequest{CSR: csr})
	url := w.url + api.PathLogin
	proof := func(c api.Credential) string {
		text, err := c.Prove(http.MethodPost, url, clock.Wall())
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	used := proof(p.with)
	if response, err := post(t, url, `{"csr":"AAAA"}`, headers(p.with, used)); err != nil || response.StatusCode != http.StatusUnprocessableEntity {
		t.Fatal(response, err)
	}
	stranger := api.Credential{Token: p.with.Token, Key: newKey(t)}
	expired := w.issuer.sign(t, order{cluster: "edge-01", client: kms, claims: func(c map[string]any) { c["exp"] = clock.Wall().Add(-time.Hour).Unix() }})
	elsewhere := w.issuer.sign(t, order{cluster: "edge-01", client: kms, claims: func(c map[string]any) { c["aud"] = "another" }})
	gone := w.issuer.sign(t, order{cluster: "edge-09", client: kms})
	unknown := w.issuer.sign(t, order{cluster: "edge-01", client: kms})
	of := func(g issued) api.Credential { return api.Credential{Token: secret.New(g.token), Key: signerOf(t, g)} }
	twice := headers(p.with, proof(p.with))
	twice.Add(api.HeaderProof, proof(p.with))
	bearer := headers(p.with, proof(p.with))
	bearer.Set("Authorization", "Bearer "+p.with.Token.Reveal())
	for name, tt := range map[string]struct {
		body      string
		headers   http.Header
		status    int
		challenge string
		says      string
	}{
		"nothing":                  {body, http.Header{}, 401, "DPoP algs=", "Authorization"},
		"a bearer":                 {body, bearer, 401, "DPoP algs=", "Authorization"},
		"no proof":                 {body, headers(p.with, ""), 401, `error="invalid_dpop_proof"`, "DPoP"},
		"two proofs":               {body, twice, 401, `error="invalid_dpop_proof"`, "several"},
		"a proof that was used":    {body, headers(p.with, used), 401, `error="invalid_dpop_proof"`, "jti"},
		"a stolen token":           {body, headers(stranger, proof(stranger)), 401, `error="invalid_dpop_proof"`, "cnf.jkt"},
		"a token that has expired": {body, headers(of(expired), proof(of(expired))), 401, `error="invalid_token"`, "rotor recover edge-01 --client kms --token"},
		"a token for others":       {body, headers(of(elsewhere), proof(of(elsewhere))), 401, `error="invalid_token"`, "aud"},
		"not on record":            {body, headers(of(unknown), proof(of(unknown))), 401, `error="invalid_token"`, "record"},
		"a client that is gone":    {body, headers(of(gone), proof(of(gone))), 403, "", "not in the fleet"},
		"no request":               {`{}`, headers(p.with, proof(p.with)), 422, "", "csr"},
		"a broken request":         {`{"csr":"-----BEGIN CERTIFICATE REQUEST-----"}`, headers(p.with, proof(p.with)), 422, "", "PKCS #10"},
		"its own key":              {mustJSON(t, api.LoginRequest{CSR: base64.StdEncoding.EncodeToString(csrOf(t, p.with.Key))}), headers(p.with, proof(p.with)), 422, "", "make a new one"},
		"too long a life":          {mustJSON(t, api.LoginRequest{CSR: csr, Life: fleet.Duration(91 * fleet.Day)}), headers(p.with, proof(p.with)), 422, "", "91d"},
		"an endless body":          {`{"csr":"` + strings.Repeat("A", 40<<10) + `"}`, headers(p.with, proof(p.with)), 413, "", ""},
	} {
		response, err := post(t, url, tt.body, tt.headers)
		if err != nil {
			t.Fatal(name, err)
		}
		text, _ := io.ReadAll(response.Body)
		if response.StatusCode != tt.status || !strings.HasPrefix(response.Header.Get("Content-Type"), "application/problem+json") {
			t.Errorf("%s: %s %s, want %d", name, response.Status, text, tt.status)
		}
		if challenge := response.Header.Get("WWW-Authenticate"); !strings.Contains(challenge, tt.challenge) || (tt.challenge == "") != (challenge == "") {
			t.Errorf("%s: challenge %q", name, challenge)
		}
		contains(t, string(text), tt.says)
		if strings.Contains(string(text), p.with.Token.Reveal()) {
			t.Errorf("%s: the token is in the answer", name)
		}
	}
	if n := len(w.recordOf(t).Generations); n != 1 {
		t.Errorf("%d generations", n)
	}
	w.change(t, func(r *fleet.Record) { r.Revoked = &fleet.Revocation{At: clock.Wall(), Reason: "keyCompromise"} })
	if _, err := p.Login(t.Context(), p.with, newKey(t)); status(err) != http.StatusForbidden || !strings.Contains(err.Error(), "keyCompromise") {
		t.Errorf("revoked: %v", err)
	}
}

func headers(c api.Credential, proof string) http.Header {
	h := http.Header{}
	h.Set("Authorization", "DPoP "+c.Token.Reveal())
	if proof != "" {
		h.Set(api.HeaderProof, proof)
	}
	return h
}

// One client cannot keep the gateway busy.
func TestLoginIsLimited(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	p := w.signedIn(t, order{})
	for range 100 {
		_, err := p.Login(t.Context(), p.with, newKey(t))
		if status(err) == http.StatusTooManyRequests {
			return
		}
	}
	t.Error("a hundred sign-ins in a row")
}

// Without the issuer the program is told to come again, and gets with the same
// key what was made meanwhile.
func TestLoginWaitsForTheIssuer(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	p := w.signedIn(t, order{})
	next := newKey(t)
	w.issuer.programs.hush(true)
	_, err := p.Login(t.Context(), p.with, next)
	if status(err) != http.StatusServiceUnavailable {
		t.Fatalf("got %v", err)
	}
	contains(t, err.Error(), "same request again")
	w.issuer.programs.hush(false)
	if reply, err := p.Login(t.Context(), p.with, next); err != nil || reply.Generation != 2 {
		t.Errorf("%+v, %v", reply, err)
	}
}

// Where an agent renews a client, its program does not; where the certificate
// has expired, it may help itself.
func TestLoginLeavesClientsToTheirAgents(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	a := w.enrolled(t, "edge-01")
	p := w.signedIn(t, order{cluster: "edge-01", client: kms, number: 1, step: fleet.StepProven, agent: a.id})
	next := newKey(t)
	if _, err := p.Login(t.Context(), p.with, next); status(err) != http.StatusConflict || !strings.Contains(err.Error(), "its agent renews it") {
		t.Fatalf("got %v", err)
	}
	w.change(t, func(r *fleet.Record) { r.Generations[0].Certificate.NotAfter = clock.Wall().Add(-time.Minute) })
	reply, err := p.Login(t.Context(), p.with, next)
	if err != nil || reply.Generation != 2 {
		t.Fatalf("recoverable: %+v, %v", reply, err)
	}
}

func TestF28_RecoveryTokensAreRedeemedOnce(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	const text = "a recovery token"
	w.recovery(t, text, 1, clock.Wall().Add(time.Hour))
	c, next := &api.Client{URL: w.url}, newKey(t)
	if _, err := c.Redeem(t.Context(), secret.New("a wrong one"), next); status(err) != http.StatusForbidden {
		t.Errorf("an unknown token: %v", err)
	}
	first, err := c.Redeem(t.Context(), secret.New(text), next)
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.Redeem(t.Context(), secret.New(" "+text+"\n"), next)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "again", first, again)
	g := w.recordOf(t).Newest()
	if first.Generation != 1 || g.Reason != fleet.ReasonRecovery || g.Rotation != "op-1" {
		t.Errorf("%+v, %+v", first, g)
	}
	if _, err := c.Redeem(t.Context(), secret.New(text), newKey(t)); status(err) != http.StatusForbidden || !strings.Contains(err.Error(), "another key") {
		t.Errorf("another key: %v", err)
	}
	if all := bustest.Stored(t, w.bus, event.SigninRefused); len(all) != 1 || all[0].What != event.RefusedRecovery || *all[0].Client != kms || all[0].Generation != 1 {
		t.Errorf("told %+v", all)
	}
	if doc := agentDoc(t, w, "edge-01"); doc.Recoveries[kms].UsedBy != g.Key || strings.Contains(mustJSON(t, doc), text) {
		t.Errorf("on record: %+v", doc)
	}
	if _, err := c.Login(t.Context(), api.Credential{Token: secret.New(first.Token), Key: next}, newKey(t)); err != nil {
		t.Errorf("the new token: %v", err)
	}

	w.recovery(t, "late", 3, clock.Wall().Add(-time.Second))
	if _, err := c.Redeem(t.Context(), secret.New("late"), newKey(t)); status(err) != http.StatusForbidden || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired: %v", err)
	}
	w.recovery(t, "past", 2, clock.Wall().Add(time.Hour))
	if _, err := c.Redeem(t.Context(), secret.New("past"), newKey(t)); status(err) != http.StatusConflict {
		t.Errorf("of a generation that was made since: %v", err)
	}
	w.recovery(t, "revoked", 3, clock.Wall().Add(time.Hour))
	w.change(t, func(r *fleet.Record) { r.Revoked = &fleet.Revocation{At: clock.Wall(), Reason: "keyCompromise"} })
	if _, err := c.Redeem(t.Context(), secret.New("revoked"), newKey(t)); status(err) != http.StatusForbidden || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("revoked: %v", err)
	}
	if used := agentDoc(t, w, "edge-01").Recoveries[kms].UsedBy; used != "" {
		t.Error("a token was spent on a client that is revoked")
	}
}

// What came before a recovery is of no use any more: neither to sign in nor as a
// proof.
func TestRecoveryEndsOlderGenerations(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	p := w.signedIn(t, order{})
	w.recovery(t, "recover me", 2, clock.Wall().Add(time.Hour))
	if _, err := p.Redeem(t.Context(), secret.New("recover me"), newKey(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Login(t.Context(), p.with, newKey(t)); status(err) != http.StatusUnauthorized || !strings.Contains(err.Error(), "recovered") {
		t.Errorf("sign-in with the one before: %v", err)
	}
	prover := w.agentClient(t, p.pair)
	prover.Token = p.with.Token
	if err := prover.Call(t.Context(), http.MethodPost, api.PathProve, nil, nil); status(err) != http.StatusForbidden {
		t.Errorf("proof with the one before: %v", err)
	}
}

// Programs in clusters reach the agents' listener only.
func TestLoginOnTheAgentsListener(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	p := w.signedIn(t, order{})
	c := w.agentClient(t, tls.Certificate{})
	if reply, err := c.Login(t.Context(), p.with, newKey(t)); err != nil || reply.Generation != 2 {
		t.Errorf("%+v, %v", reply, err)
	}
}
