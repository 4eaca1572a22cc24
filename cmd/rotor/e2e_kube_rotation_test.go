//go:build kube

package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// TestKubernetesRotation replaces the token key and then the CA, while a real
// kube-apiserver lets all clients of two clusters in: by the trust bundle that an
// agent keeps in the file of --client-ca-file, and by the JWT authenticator at
// Rotor's issuer. No call fails, and in the end what is of the old CA is refused.
func TestKubernetesRotation(t *testing.T) {
	w := startVerifier(t)
	dirs := w.folders()
	before := w.sets(dirs)
	w.eventually("the API server lets all in", func() error { return w.allIn(before) })
	kept := newCaller(w, "edge-01/csi", dirs["edge-01/csi"])
	if err := kept.withCertificate(t.Context(), before["edge-01/csi"]); err != nil {
		t.Fatal(err)
	}

	calls := w.callAll(dirs)
	asked := w.keySets.Load()
	w.authority("rotate", "--token-key", "--wait", "--yes")
	w.authority("rotate", "--wait", "--yes")
	after := w.sets(dirs)
	w.eventually("the API server knows the key of the new tokens", func() error {
		if w.keySets.Load() == asked {
			return fmt.Errorf("it has not asked for the key set again")
		}
		return w.allIn(after)
	})
	calls.stop()
	status := w.authorityStatus()
	calls.check(t, status)

	w.onlyNewCA(t, status.CA.To)
	w.eventually("a kept connection with a certificate of the old CA is refused", func() error {
		return unauthorized(kept.withCertificate(t.Context(), before["edge-01/csi"]))
	})
	for user, old := range before {
		c, now := newCaller(w, user, dirs[user]), after[user]
		if hex.EncodeToString(now.leaf.AuthorityKeyId) != status.CA.To || keyID(t, now.token) != status.Token.To || keyID(t, old.token) != status.Token.From {
			t.Errorf("%s: its certificate or its token is not of the new generation", user)
		}
		if err := unauthorized(c.fresh().withCertificate(t.Context(), old)); err != nil {
			t.Errorf("%s with the certificate of the old CA: %v", user, err)
		}
		// The old token key stays in the key set until its last token has ended.
		if err := c.fresh().withToken(t.Context(), old.token); err != nil {
			t.Errorf("%s with a token of before, which is still good: %v", user, err)
		}
	}
	if now := status.Now; now.After(clock.Wall()) {
		t.Errorf("the clock of the fleet has overtaken that of the API server: %s", now)
	}
}

// verifier is a world whose API server knows Rotor's issuer.
type verifier struct {
	*kubeWorld
	clock   clock.Clock  // of the fleet
	keySets atomic.Int64 // how often the key set was asked for
}

const verifierFleet = `
clusters:
  - {name: edge-01, kind: workload}
  - {name: edge-02, kind: workload, delivery: {directory: clusters/edge-02}}
`

const verifierConfig = `
gateway: {publicURL: %q}
issuer: {tokenAlgorithm: ES256}
`

const verifierAgent = `
server: https://%s
caHash: %s
cluster: edge-01
directory: %s
stateDirectory: %s
pollWait: 1s
trustBundle:
  - file: {path: %s, include: [%s]}
`

const authentication = `
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous: {enabled: false} # else a certificate that is not trusted is answered with 403
jwt:
  - issuer: {url: %q, audiences: [rotor], certificateAuthority: %q}
    claimMappings: {username: {claim: sub, prefix: ""}}
`

// fastPace lets the ten minutes for which the next token key is published pass in
// twenty seconds. The API server lives on the machine's time and refuses what is
// of the future: so the clock of the fleet begins some hours in the past, and is
// still behind in the end.
const fastPace, behind = 30, 4 * time.Hour

// startVerifier runs Rotor behind a proxy that ends TLS, an agent that keeps the
// file of --client-ca-file, and the API server.
func startVerifier(t *testing.T) *verifier {
	t.Helper()
	w := &verifier{kubeWorld: &kubeWorld{kubernetes: startEtcd(t)}}
	listen := w.free()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: listen})
	door := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == api.PathJWKS {
			w.keySets.Add(1)
		}
		proxy.ServeHTTP(rw, r)
	}))
	t.Cleanup(door.Close)

	now := clock.Wall()
	w.clock = clock.Fast(now, now.Add(-behind), fastPace)
	text, err := json.Marshal(map[string]any{"origin": now, "start": now.Add(-behind), "rate": fastPace})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(w.path("var"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.write("var/clock.json", text)
	w.write("rotor.yaml", fmt.Appendf(nil, verifierConfig, door.URL))
	w.up(verifierFleet, "--config", w.path("rotor.yaml"), "--listen-api", listen)

	trusted := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: door.Certificate().Raw})
	w.jwt = w.path("authentication.yaml")
	w.write("authentication.yaml", fmt.Appendf(nil, authentication, door.URL, trusted))
	w.startServer()
	w.runAgent(func(fleetKey string) []byte {
		return fmt.Appendf(nil, verifierAgent, w.agentsAddress(), fleetKey, w.path("credentials"), w.path("state"), w.clientCA, w.path("kubernetes-ca.crt"))
	})
	w.apply(manifests(t)[:1]...) // the namespace
	return w
}

// folders returns where the set of each client is, by user, once all are proven,
// and lets each user read one ConfigMap of its own.
func (w *verifier) folders() map[string]string {
	w.t.Helper()
	dirs := map[string]string{}
	for cluster, root := range map[string]string{"edge-01": w.path("credentials"), "edge-02": w.path("var/clusters/edge-02")} {
		for _, c := range w.clients(cluster, 1) {
			user := cluster + "/" + c.Kind
			dirs[user] = filepath.Join(root, c.Kind)
			w.apply(decodeAll(w.t, []byte(strings.NewReplacer("NAME", objectOf(user), "USER", user).Replace(userRights)))...)
		}
	}
	return dirs
}

// userRights let a user read what is its own, and nobody else.
const userRights = `
apiVersion: v1
kind: ConfigMap
metadata: {name: NAME, namespace: rotor}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: NAME, namespace: rotor}
rules: [{apiGroups: [""], resources: [configmaps], resourceNames: [NAME], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: NAME, namespace: rotor}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: NAME}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: USER}]
`

func objectOf(user string) string { return strings.ReplaceAll(user, "/", ".") }

// sets returns what is installed for each user.
func (w *verifier) sets(dirs map[string]string) map[string]set {
	w.t.Helper()
	all := map[string]set{}
	for user, dir := range dirs {
		s, err := readTwice(dir)
		if err != nil {
			w.t.Fatal(err)
		}
		all[user] = s
	}
	return all
}

// allIn reports whether the API server lets each user in, by both ways.
func (w *verifier) allIn(sets map[string]set) error {
	for user, s := range sets {
		c := newCaller(w, user, "")
		if err := c.fresh().withCertificate(w.t.Context(), s); err != nil {
			return fmt.Errorf("%s by certificate: %w", user, err)
		}
		if err := c.fresh().withToken(w.t.Context(), s.token); err != nil {
			return fmt.Errorf("%s by token: %w", user, err)
		}
	}
	return nil
}

func (w *verifier) authority(args ...string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*patience)
	defer cancel()
	args = append([]string{"authority"}, append(args, "--data", w.path("var"))...)
	if out, err := exec.CommandContext(ctx, filepath.Join(binaries, "rotor"), args...).CombinedOutput(); err != nil {
		w.t.Fatalf("rotor %v: %v\n%s", args, err, out)
	}
}

func (w *verifier) authorityStatus() api.AuthorityStatus {
	w.t.Helper()
	var status api.AuthorityStatus
	if err := w.client.Call(w.t.Context(), http.MethodGet, api.PathAuthority, nil, &status); err != nil {
		w.t.Fatal(err)
	}
	for _, r := range []*fleet.Rollout{status.CA, status.Token} {
		if r == nil || r.Phase != fleet.RolloutCompleted {
			w.t.Fatalf("a rotation has not ended: %+v", r)
		}
	}
	return status
}

// onlyNewCA: --client-ca-file holds the new CA and the cluster's own, no other.
func (w *verifier) onlyNewCA(t *testing.T, id string) {
	t.Helper()
	text, err := os.ReadFile(w.clientCA)
	if err != nil {
		t.Fatal(err)
	}
	cluster, _ := os.ReadFile(w.path("kubernetes-ca.crt"))
	own, _ := pem.Decode(cluster)
	var others []string
	found := false
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(c.Raw, own.Bytes) {
			found = true
			continue
		}
		others = append(others, hex.EncodeToString(c.SubjectKeyId))
	}
	if !found || !slices.Equal(others, []string{id}) {
		t.Errorf("the API server trusts the CAs %v (its own: %v), want %s alone", others, found, id)
	}
}

// keyID returns the kid of a token (RFC 7515, 4.1.4).
func keyID(t *testing.T, token string) string {
	t.Helper()
	header, _, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(header)
	var h struct{ Alg, Kid string }
	if err == nil {
		err = json.Unmarshal(raw, &h)
	}
	if err != nil || h.Alg != "ES256" {
		t.Errorf("header of a token %q: %v", raw, err)
	}
	return h.Kid
}
