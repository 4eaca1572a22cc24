package agent

import (
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/config"
	"github.com/rotor-fleet/rotor/agent/internal/kube/kubetest"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// newKubeRig is an agent that installs in Secrets.
func newKubeRig(t *testing.T, g *gateway) (*rig, *kubetest.Server) {
	t.Helper()
	k := kubetest.New(t)
	r := newRig(t, g)
	r.config.Directory = ""
	r.config.Settings = InKubernetes(fleet.KubernetesDelivery{Kubeconfig: k.Kubeconfig, Namespace: kubetest.Namespace})
	r.config.PollWait = 300 * time.Millisecond
	return r, k
}

func (g *gateway) token(name string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.clients[must(fleet.ParseClientKey(name))].token
}

func TestSecretsFollowTheGenerations(t *testing.T) {
	g := newGateway(t, "kms", "node-agent/host-1")
	r, k := newKubeRig(t, g)
	r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	uid := k.Get("secrets/rotor-kms").GetUID()
	g.issue("kms")
	g.issue("node-agent/host-1")
	eventually(t, "generation 2 proven", func() bool { return g.proven(2) })
	if names := strings.Join(k.Names(), " "); names != "secrets/rotor-kms secrets/rotor-node-agent.host-1" {
		t.Errorf("objects %s", names)
	}
	if k.Get("secrets/rotor-kms").GetUID() != uid || k.Data("secrets/rotor-kms", "token") != g.token("kms") {
		t.Error("the Secret was not updated in place")
	}
	eventually(t, "ready", func() bool { return r.board.Status().Ready })

	k.Edit("secrets/rotor-kms", func(o map[string]any) map[string]any {
		o["data"].(map[string]any)["token"] = base64.StdEncoding.EncodeToString([]byte("theirs"))
		return o
	})
	k.Edit("secrets/rotor-node-agent.host-1", func(map[string]any) map[string]any { return nil })
	eventually(t, "foreign changes are put right", func() bool {
		return k.Data("secrets/rotor-kms", "token") == g.token("kms") && k.Data("secrets/rotor-node-agent.host-1", "token") == g.token("node-agent/host-1")
	})
	if !g.proven(2) {
		t.Error("it took another certificate")
	}
}

// TestForeignChangesArePutRightWithoutTheServer: an agent whose server is away
// serves what it has, and keeps it as it is.
func TestForeignChangesArePutRightWithoutTheServer(t *testing.T) {
	g := newGateway(t, "kms")
	r, k := newKubeRig(t, g)
	stop := r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	g.mu.Lock()
	g.fault = func(w http.ResponseWriter, _ *http.Request) bool { refuse(w, 503, "away"); return true }
	g.mu.Unlock()
	remove := func(map[string]any) map[string]any { return nil }
	k.Edit("secrets/rotor-kms", remove)
	eventually(t, "the Secret is back", func() bool { return k.Data("secrets/rotor-kms", "token") == g.token("kms") })
	stop()
	k.Edit("secrets/rotor-kms", remove)
	r.start() // knows nothing of its clients but what lies here
	eventually(t, "the Secret is back after a restart", func() bool { return k.Data("secrets/rotor-kms", "token") == g.token("kms") })
}

// TestF6_RecoveryNeedsNoAPIServer: while the API server of the cluster is away
// the agent takes what was issued, says what it waits for, and delivers when
// the API server is back.
func TestF6_RecoveryNeedsNoAPIServer(t *testing.T) {
	g := newGateway(t, "kms", "csi")
	r, k := newKubeRig(t, g)
	r.config.Settings.Clients.Kinds = map[string]config.Entry{"kms": {Directory: config.Directory{Path: filepath.Join(t.TempDir(), "kms")}}}
	r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	k.Refuse(func(string, string) int { return http.StatusServiceUnavailable })
	before := k.Data("secrets/rotor-csi", "token")
	g.issue("csi")
	g.issue("kms")
	eventually(t, "the client in a folder is proven", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		c := g.clients[fleet.ClientKey{Kind: "kms"}]
		return c.number == 2 && c.step == fleet.StepProven
	})
	eventually(t, "the server is told", func() bool { return strings.Contains(g.failure("csi"), "Secret rotor/rotor-csi") })
	if k.Data("secrets/rotor-csi", "token") != before {
		t.Error("the old set was touched")
	}
	k.Refuse(nil)
	eventually(t, "generation 2 proven", func() bool { return g.proven(2) })
	if k.Data("secrets/rotor-csi", "token") != g.token("csi") {
		t.Error("the Secret holds another set")
	}
}

func TestAForeignSecretIsReported(t *testing.T) {
	g := newGateway(t, "kms")
	r, k := newKubeRig(t, g)
	k.Edit("secrets/rotor-kms", func(o map[string]any) map[string]any { o["type"] = "kubernetes.io/tls"; return o })
	r.start()
	eventually(t, "the health says so", func() bool { return strings.Contains(r.waiting(), "is not Rotor's") })
	if u := k.Get("secrets/rotor-kms"); u.Object["data"] != nil {
		t.Error("it was written")
	}
	k.Edit("secrets/rotor-kms", func(o map[string]any) map[string]any {
		o["metadata"].(map[string]any)["labels"] = map[string]any{"app.kubernetes.io/managed-by": "rotor"}
		return o
	})
	eventually(t, "handed over", func() bool { return g.proven(1) })
}

// TestF13_TheBundleIsAcknowledgedOnceVerifiersHaveIt: the next CA begins to sign on
// that word.
func TestF13_TheBundleIsAcknowledgedOnceVerifiersHaveIt(t *testing.T) {
	g := newGateway(t, "kms")
	r, k := newKubeRig(t, g)
	file := filepath.Join(t.TempDir(), "client-ca.crt")
	r.config.Settings.TrustBundles = []config.TrustBundle{
		{File: &config.BundleFile{Path: file}}, {ConfigMap: &config.BundleMap{Name: "rotor-ca"}},
	}
	k.Refuse(func(_, path string) int {
		if strings.HasPrefix(path, "configmaps") {
			return http.StatusForbidden
		}
		return 0
	})
	r.start()
	eventually(t, "the client is proven all the same", func() bool { return g.proven(1) })
	eventually(t, "the health says so", func() bool { return strings.Contains(r.waiting(), "ConfigMap rotor/rotor-ca") })
	eventually(t, "the server is told", func() bool { return strings.Contains(g.unspread(), "ConfigMap rotor/rotor-ca") })
	if g.acknowledged() != 0 {
		t.Error("the bundle is acknowledged, and one verifier does not have it")
	}
	k.Refuse(nil)
	eventually(t, "acknowledged", func() bool { return g.acknowledged() == 1 })
	second := newAuthority()
	g.change(func() { g.bundle.Version, g.bundle.Certificates = 2, append(g.bundle.Certificates, second.pem) })
	eventually(t, "the second is acknowledged", func() bool { return g.acknowledged() == 2 && g.unspread() == "" })
	text, err := os.ReadFile(file)
	data, _ := k.Get("configmaps/rotor-ca").Object["data"].(map[string]any)
	inMap, _ := data["ca.crt"].(string)
	for _, certificate := range g.bundle.Certificates {
		if err != nil || !strings.Contains(string(text), certificate) || !strings.Contains(inMap, certificate) {
			t.Fatalf("verifiers lack a CA that is trusted: %v\n%s\n%s", err, text, inMap)
		}
	}
}

// unspread returns why the bundle is not loaded, as it was reported last.
func (g *gateway) unspread() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.bundleError
}

func (g *gateway) acknowledged() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.loaded
}
