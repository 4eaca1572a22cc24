//go:build kube

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/cli"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// TestKubernetes delivers to a real kube-apiserver with the rights of the
// manifests in deploy/kubernetes, and nothing more: by a remote agent, and by
// one that rotor up hosts. The parts follow each other.
func TestKubernetes(t *testing.T) {
	w := &kubeWorld{kubernetes: startKubernetes(t)}
	w.apply(manifests(t)...)
	w.apply(decodeAll(t, []byte(hostRights))...)
	w.apply(decodeAll(t, []byte(kmsPlugin))...)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { w.controller(ctx, "kms-plugin") })
	t.Cleanup(func() { cancel(); running.Wait() })
	w.startRotor()
	w.startAgent()
	for _, part := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"Secrets appear", w.secretsAppear},
		{"the API server trusts what Rotor issues", w.clientAuthenticates},
		{"the bundle stands in a ConfigMap", w.configMap},
		{"a rotation updates in place", w.rotates},
		{"foreign changes are put right", w.foreignChanges},
		{"an API server that was away", w.comesBack},
		{"a server of Rotor that is away", w.rotorIsAway},
		{"what is not granted is refused", w.refusals},
		{"no more is granted than is used", w.leastRights},
	} {
		passed := t.Run(part.name, func(t *testing.T) {
			w.t = t
			part.run(t)
		})
		if w.t = t; !passed {
			t.FailNow()
		}
	}
}

// kmsPlugin is a workload that reads a Secret.
const kmsPlugin = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: kms-plugin, namespace: rotor}
spec:
  selector: {matchLabels: {app: kms-plugin}}
  template:
    metadata: {labels: {app: kms-plugin}}
    spec:
      containers: [{name: plugin, image: kms-plugin}]
`

// hostRights are those of the agent that rotor up hosts.
const hostRights = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: rotor-host, namespace: rotor}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: rotor-host, namespace: rotor}
rules:
  - {apiGroups: [""], resources: [secrets], resourceNames: [edge-02-kms], verbs: [get, update]}
  - {apiGroups: [""], resources: [secrets], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: rotor-host, namespace: rotor}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: rotor-host}
subjects: [{kind: ServiceAccount, name: rotor-host, namespace: rotor}]
`

const kubeFleet = `
clusters:
  - {name: edge-01, kind: workload}
  - name: edge-02
    kind: workload
    clients: [kms]
    delivery:
      kubernetes: {kubeconfig: edge-02.kubeconfig, namespace: rotor, secretPrefix: edge-02-}
`

// manifests returns the objects in deploy/kubernetes.
func manifests(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	for _, name := range []string{"namespace", "serviceaccount", "role", "config", "statefulset", "rollouts/role"} {
		text, err := os.ReadFile(filepath.Join("../../deploy/kubernetes", filepath.FromSlash(name)+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, decodeAll(t, text)...)
	}
	return all
}

type kubeWorld struct {
	*kubernetes
	agents string // where the server listens for agents
	rotor  *kubeProgram
	agent  *kubeProgram
	client *api.Client
}

// kubeProgram is a program of ours.
type kubeProgram struct {
	command *exec.Cmd
	output  *output
}

func (w *kubeWorld) run(name string, args ...string) *kubeProgram {
	w.t.Helper()
	p := &kubeProgram{command: exec.Command(filepath.Join(binaries, name), args...), output: &output{}}
	p.command.Stdout, p.command.Stderr = p.output, p.output
	if err := p.command.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.whole.Cleanup(func() {
		p.end()
		if w.whole.Failed() {
			w.whole.Logf("last lines of %s:\n%s", name, lastLines(p.output))
		}
	})
	return p
}

func (p *kubeProgram) end() {
	_ = p.command.Process.Signal(syscall.SIGTERM)
	_ = p.command.Wait()
}

// startRotor runs all of Rotor in one process, with a kubeconfig for the agent
// that it hosts.
func (w *kubeWorld) startRotor() {
	w.t.Helper()
	data := w.path("var")
	if err := os.MkdirAll(data, 0o700); err != nil {
		w.t.Fatal(err)
	}
	w.kubeconfig(filepath.Join(data, "edge-02.kubeconfig"), w.tokenOf("rotor-host"))
	w.up(kubeFleet, "--listen-api", w.free())
}

// up runs rotor up with a fleet and further arguments.
func (w *kubeWorld) up(fleetFile string, args ...string) {
	w.t.Helper()
	data := w.path("var")
	w.write("fleet.yaml", []byte(fleetFile))
	_ = os.Remove(filepath.Join(data, "rotor.json"))
	w.rotor = w.run("rotor", append([]string{"up", "--data", data, "--fleet", w.path("fleet.yaml"), "--listen-agents", w.agentsAddress(), "--listen-nats", w.free()}, args...)...)
	w.eventually("rotor up runs", func() error {
		if !strings.Contains(w.rotor.output.String(), "Ctrl-C ends it") {
			return fmt.Errorf("it says\n%s", w.rotor.output)
		}
		return nil
	})
	file, err := cli.ReadServerFile(data)
	if err != nil {
		w.t.Fatal(err)
	}
	token, err := secret.ReadFile(filepath.Join(data, "admin.token"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.client = &api.Client{URL: file.URL, Token: token}
}

// agentsAddress is where agents find the server, also after it was away.
func (w *kubeWorld) agentsAddress() string {
	if w.agents == "" {
		w.agents = w.free()
	}
	return w.agents
}

const agentConfig = `
server: https://%s
caHash: %s
cluster: edge-01
stateDirectory: %s
pollWait: 1s
kubernetes: {kubeconfig: %s}
clients:
  "*":
    kubernetes: {}
  kms:
    reload: {rollout: [deployment/kms-plugin]}
trustBundle:
  - file: {path: %s, include: [%s]}
  - configMap: {name: rotor-trust-bundle}
`

// startAgent runs a remote agent for edge-01 with the rights of its service
// account, and no other.
func (w *kubeWorld) startAgent() {
	w.t.Helper()
	w.kubeconfig(w.path("agent.kubeconfig"), w.tokenOf("rotor-agent"))
	w.runAgent(func(fleetKey string) []byte {
		return fmt.Appendf(nil, agentConfig, w.agentsAddress(), fleetKey, w.path("state"),
			w.path("agent.kubeconfig"), w.clientCA, w.path("kubernetes-ca.crt"))
	})
}

// runAgent runs an agent of edge-01 with the configuration for a fleet key.
func (w *kubeWorld) runAgent(config func(fleetKey string) []byte) {
	w.t.Helper()
	var join api.JoinReply
	if err := w.client.Call(w.t.Context(), http.MethodPost, api.PathClusters+"/edge-01/join-tokens", api.JoinRequest{}, &join); err != nil {
		w.t.Fatal(err)
	}
	w.write("join", []byte(join.Token))
	w.write("agent.yaml", config(join.FleetKey))
	w.agent = w.run("agent", "--config", w.path("agent.yaml"), "--join-file", w.path("join"))
}

// parts returns what a Secret holds.
func parts(u *unstructured.Unstructured) map[string][]byte {
	if u == nil {
		return nil
	}
	data, _, _ := unstructured.NestedStringMap(u.Object, "data")
	out := map[string][]byte{}
	for name, text := range data {
		out[name], _ = base64.StdEncoding.DecodeString(text)
	}
	return out
}

const annotation = "rotor-fleet.github.io/"

// holds reports whether a Secret holds one generation: key and certificate that
// belong together, signed by the CA beside them, a token, and the numbers that
// Rotor's own record has.
func (w *kubeWorld) holds(name string, client api.ClientView) error {
	u := w.get("Secret", name)
	if u == nil {
		return fmt.Errorf("there is no Secret %s", name)
	}
	if u.Object["type"] != "kubernetes.io/tls" {
		return fmt.Errorf("%s has type %v", name, u.Object["type"])
	}
	p := parts(u)
	pair, err := tls.X509KeyPair(p["tls.crt"], p["tls.key"])
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p["ca.crt"])
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if strings.Count(string(p["token"]), ".") != 2 || !bytes.Contains(p["metadata.json"], fmt.Appendf(nil, `"generation": %d`, client.Generation)) {
		return fmt.Errorf("%s: token or metadata are not those of generation %d", name, client.Generation)
	}
	if have := u.GetAnnotations()[annotation+"generation"]; have != fmt.Sprint(client.Generation) {
		return fmt.Errorf("%s: generation %s, want %d", name, have, client.Generation)
	}
	return nil
}

// clients returns the clients of a cluster once all are healthy and proven.
func (w *kubeWorld) clients(cluster string, generation int) []api.ClientView {
	w.t.Helper()
	var all []api.ClientView
	w.eventually(fmt.Sprintf("generation %d of %s is proven", generation, cluster), func() (err error) {
		if all, err = api.List[api.ClientView](w.t.Context(), w.client, api.PathClusters+"/"+cluster+"/clients", nil); err != nil {
			return err
		}
		for _, c := range all {
			if c.State != fleet.StateHealthy || c.Step != fleet.StepProven || c.Generation < generation {
				return fmt.Errorf("%s is %s, generation %d is %s: %s", c.Kind, c.State, c.Generation, c.Step, c.Reason)
			}
		}
		return nil
	})
	return all
}

func (w *kubeWorld) secretsAppear(t *testing.T) {
	all := w.clients("edge-01", 1)
	if len(all) != 4 {
		t.Fatalf("%d clients", len(all))
	}
	for _, c := range all {
		if err := w.holds("rotor-"+c.Kind, c); err != nil {
			t.Error(err)
		}
	}
	if err := w.holds("edge-02-kms", w.clients("edge-02", 1)[0]); err != nil {
		t.Errorf("of the hosted agent: %v", err)
	}
}

// whoAmI asks the API server who it takes the client of a Secret for.
func (w *kubeWorld) whoAmI(name string) (string, error) {
	p := parts(w.get("Secret", name))
	c := w.as(rest.TLSClientConfig{CertData: p["tls.crt"], KeyData: p["tls.key"]}, "")
	status, err := post(w.t.Context(), c, "/apis/authentication.k8s.io/v1/selfsubjectreviews",
		map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})
	if err != nil {
		return "", err
	}
	user, _, _ := unstructured.NestedString(status, "userInfo", "username")
	return user, nil
}

// clientAuthenticates: the agent keeps the file of --client-ca-file.
func (w *kubeWorld) clientAuthenticates(t *testing.T) {
	w.eventually("the API server lets a client of Rotor in", func() error {
		user, err := w.whoAmI("rotor-csi")
		if err == nil && user != "edge-01/csi" {
			err = fmt.Errorf("it is taken for %q", user)
		}
		return err
	})
	text, err := os.ReadFile(w.clientCA)
	kubernetes, _ := os.ReadFile(w.path("kubernetes-ca.crt"))
	if err != nil || !bytes.Contains(text, kubernetes) {
		t.Errorf("the CA of the cluster itself is not trusted any more: %v", err)
	}
}

func (w *kubeWorld) bundle() []byte {
	data, _, _ := unstructured.NestedStringMap(w.get("ConfigMap", "rotor-trust-bundle").Object, "data")
	return []byte(data["ca.crt"])
}

func (w *kubeWorld) configMap(t *testing.T) {
	if p := parts(w.get("Secret", "rotor-kms")); !bytes.Equal(w.bundle(), p["ca.crt"]) || len(p["ca.crt"]) == 0 {
		t.Errorf("the ConfigMap holds %q", w.bundle())
	}
	var agents []api.AgentView
	w.eventually("the bundle is acknowledged", func() (err error) {
		if agents, err = api.List[api.AgentView](t.Context(), w.client, api.PathAgents, nil); err != nil {
			return err
		}
		for _, a := range agents {
			if a.Bundle == 0 {
				return fmt.Errorf("not by the agent of %s", a.Cluster)
			}
		}
		return nil
	})
	if len(agents) != 2 {
		t.Errorf("%d agents", len(agents))
	}
}

// rotate rotates edge-01 by the command line, and waits for it if it is to.
func (w *kubeWorld) rotate(wait bool) {
	w.t.Helper()
	args := []string{"rotate", "edge-01", "--force", "--data", w.path("var")}
	if wait {
		args = append(args, "--wait")
	}
	if out, err := exec.CommandContext(w.t.Context(), filepath.Join(binaries, "rotor"), args...).CombinedOutput(); err != nil {
		w.t.Fatalf("rotor %v: %v\n%s\n%s", args, err, out, w.agent.output)
	}
}

func (w *kubeWorld) restartedAt() string {
	at, _, _ := unstructured.NestedString(w.get("Deployment", "kms-plugin").Object, "spec", "template", "metadata", "annotations", "kubectl.kubernetes.io/restartedAt")
	return at
}

func (w *kubeWorld) rotates(t *testing.T) {
	before := map[string]*unstructured.Unstructured{}
	for _, name := range []string{"rotor-kms", "rotor-csi", "rotor-cert-manager", "rotor-cloud-provider"} {
		before[name] = w.get("Secret", name)
	}
	w.rotate(true)
	for _, c := range w.clients("edge-01", 2) {
		name := "rotor-" + c.Kind
		if err := w.holds(name, c); err != nil {
			t.Error(err)
		}
		if after := w.get("Secret", name); after.GetUID() != before[name].GetUID() || after.GetResourceVersion() == before[name].GetResourceVersion() {
			t.Errorf("%s was not updated in place", name)
		}
	}
	if user, err := w.whoAmI("rotor-csi"); err != nil || user != "edge-01/csi" {
		t.Errorf("with the new certificate: %q, %v", user, err)
	}
	if w.restartedAt() == "" {
		t.Error("the workload that reads the Secret was not restarted")
	}
}

func (w *kubeWorld) foreignChanges(t *testing.T) {
	clients := w.clients("edge-01", 2)
	for name, change := range map[string]func(){
		"a key is deleted": func() {
			w.edit("Secret", "rotor-csi", func(u *unstructured.Unstructured) { unstructured.RemoveNestedField(u.Object, "data", "token") })
		},
		"a key is swapped": func() {
			w.edit("Secret", "rotor-csi", func(u *unstructured.Unstructured) {
				other := w.get("Secret", "rotor-kms")
				text, _, _ := unstructured.NestedString(other.Object, "data", "tls.key")
				_ = unstructured.SetNestedField(u.Object, text, "data", "tls.key")
			})
		},
		"the labels are gone": func() {
			w.edit("Secret", "rotor-csi", func(u *unstructured.Unstructured) { u.SetLabels(nil) })
		},
		"the Secret is deleted": func() { w.remove("Secret", "rotor-csi") },
		"the bundle is emptied": func() {
			w.edit("ConfigMap", "rotor-trust-bundle", func(u *unstructured.Unstructured) { u.Object["data"] = map[string]any{} })
		},
		"the client CA file is emptied": func() {
			if err := os.Truncate(w.clientCA, 0); err != nil {
				t.Error(err)
			}
		},
	} {
		change()
		w.eventually(name+" and put right", func() error {
			for _, c := range clients {
				if err := w.holds("rotor-"+c.Kind, c); err != nil {
					return err
				}
			}
			if u := w.get("Secret", "rotor-csi"); u.GetLabels()["app.kubernetes.io/managed-by"] != "rotor" {
				return fmt.Errorf("labels %v", u.GetLabels())
			}
			if text, err := os.ReadFile(w.clientCA); err != nil || len(text) == 0 || len(w.bundle()) == 0 {
				return fmt.Errorf("no trust bundle: %w", err)
			}
			_, err := w.whoAmI("rotor-csi")
			return err
		})
	}
	for _, c := range w.clients("edge-01", 2) {
		if c.Generation != 2 {
			t.Errorf("%s: it took another generation: %d", c.Kind, c.Generation)
		}
	}
}

// comesBack: what is issued while the API server is away is delivered when it is
// back, and meanwhile readers have the set of before.
func (w *kubeWorld) comesBack(t *testing.T) {
	w.stopServer()
	w.rotate(false)
	w.eventually("the failure is told", func() error {
		all, err := api.List[api.ClientView](t.Context(), w.client, api.PathClusters+"/edge-01/clients", nil)
		if err != nil {
			return err
		}
		for _, c := range all {
			if strings.Contains(c.Reason, "Secret") {
				return nil
			}
		}
		return fmt.Errorf("clients %+v", all)
	})
	w.startServer()
	for _, c := range w.clients("edge-01", 3) {
		if err := w.holds("rotor-"+c.Kind, c); err != nil {
			t.Error(err)
		}
	}
}

// rotorIsAway: an agent whose server is away keeps what it has.
func (w *kubeWorld) rotorIsAway(t *testing.T) {
	clients := w.clients("edge-01", 3)
	w.rotor.end()
	w.remove("Secret", "rotor-kms")
	w.eventually("the Secret is back", func() error {
		for _, c := range clients {
			if err := w.holds("rotor-"+c.Kind, c); err != nil {
				return err
			}
		}
		return nil
	})
	w.startRotor()
	w.clients("edge-01", 3)
	for _, p := range []*kubeProgram{w.rotor, w.agent} {
		for _, c := range clients {
			token := parts(w.get("Secret", "rotor-"+c.Kind))["token"]
			if strings.Contains(p.output.String(), string(token)) {
				t.Errorf("the token of %s stands in a log", c.Kind)
			}
		}
	}
}
