//go:build kube

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/ports"
	"github.com/rotor-fleet/rotor/shared/clock"
)

// kubernetes is a real kube-apiserver with etcd, without nodes and controllers.
type kubernetes struct {
	t        *testing.T // of the part that runs
	whole    *testing.T // its end is that of the programs
	dir      string
	address  string
	etcd     string
	clientCA string // the file of --client-ca-file
	jwt      string // the file of --authentication-config; without it no token of an issuer is known
	programs string // folder of kube-apiserver, etcd and kubectl
	server   *exec.Cmd
	log      *output
	readyAt  time.Time // since when the API server knows the roles
	ports    ports.Ports
	admin    dynamic.Interface
	config   *rest.Config // of the administrator
}

// kubernetesPrograms returns the folder with kube-apiserver, etcd and kubectl,
// built on demand into the user's cache: it takes some ten minutes.
func kubernetesPrograms(t *testing.T) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), "../../tools/kube/build.sh")
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("build kube-apiserver: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// startKubernetes starts both, with an administrator whose CA is the only one
// that the API server trusts at first.
func startKubernetes(t *testing.T) *kubernetes {
	t.Helper()
	k := startEtcd(t)
	k.startServer()
	return k
}

// startEtcd prepares all but the API server itself.
func startEtcd(t *testing.T) *kubernetes {
	t.Helper()
	k := &kubernetes{t: t, whole: t, dir: t.TempDir(), log: &output{}, programs: kubernetesPrograms(t)}
	t.Cleanup(k.ports.Close)
	k.address, k.etcd = k.free(), k.free()
	peers := k.free()
	k.clientCA = filepath.Join(k.dir, "client-ca.crt")
	k.writeKeys()
	k.start(filepath.Join(k.programs, "etcd"), "--data-dir", filepath.Join(k.dir, "etcd"), "--log-level", "error", "--unsafe-no-fsync",
		"--listen-client-urls", "http://"+k.etcd, "--advertise-client-urls", "http://"+k.etcd,
		"--listen-peer-urls", "http://"+peers, "--initial-advertise-peer-urls", "http://"+peers, "--initial-cluster", "default=http://"+peers)
	return k
}

func (k *kubernetes) free() string {
	k.t.Helper()
	address, err := k.ports.Free()
	if err != nil {
		k.t.Fatal(err)
	}
	return address
}

func (k *kubernetes) path(name string) string { return filepath.Join(k.dir, name) }

// startServer starts the API server and waits until it is ready.
func (k *kubernetes) startServer() {
	k.t.Helper()
	k.write("audit-policy.yaml", []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n"))
	host, port, _ := net.SplitHostPort(k.address)
	args := []string{
		"--etcd-servers", "http://" + k.etcd, "--bind-address", host, "--secure-port", port, "--cert-dir", k.path("serving"),
		"--endpoint-reconciler-type=none", "--service-cluster-ip-range", "10.0.0.0/24",
		"--service-account-issuer", "https://kubernetes.test", "--service-account-key-file", k.path("accounts.pub"), "--service-account-signing-key-file", k.path("accounts.key"),
		"--client-ca-file", k.clientCA, "--authorization-mode", "RBAC", "--shutdown-delay-duration=0",
		"--audit-policy-file", k.path("audit-policy.yaml"), "--audit-log-path", k.path("audit.log"),
	}
	if k.jwt != "" {
		args = append(args, "--authentication-config", k.jwt)
	}
	k.server = k.start(filepath.Join(k.programs, "kube-apiserver"), args...)
	client, err := rest.HTTPClientFor(k.config)
	if err != nil {
		k.t.Fatal(err)
	}
	k.eventually("the API server is ready", func() error {
		response, err := client.Get("https://" + k.address + "/readyz")
		if err != nil {
			return fmt.Errorf("%w\n%s", err, k.log)
		}
		defer func() { _ = response.Body.Close() }()
		if body, _ := io.ReadAll(response.Body); response.StatusCode != 200 {
			return fmt.Errorf("%s: %s", response.Status, body)
		}
		return nil
	})
	k.readyAt = clock.Wall()
}

func (k *kubernetes) stopServer() {
	_ = k.server.Process.Kill()
	_ = k.server.Wait()
}

func (k *kubernetes) start(program string, args ...string) *exec.Cmd {
	k.t.Helper()
	c := exec.Command(program, args...)
	c.Stdout, c.Stderr = k.log, k.log
	if err := c.Start(); err != nil {
		k.t.Fatal(err)
	}
	k.whole.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		if k.whole.Failed() {
			k.whole.Logf("last lines of kube-apiserver and etcd:\n%s", lastLines(k.log))
		}
	})
	return c
}

func lastLines(o *output) string {
	lines := strings.Split(o.String(), "\n")
	return strings.Join(lines[max(0, len(lines)-25):], "\n")
}

func (k *kubernetes) write(name string, text []byte) {
	k.t.Helper()
	if err := os.WriteFile(k.path(name), text, 0o600); err != nil {
		k.t.Fatal(err)
	}
}

// writeKeys makes the keys of service accounts, and the administrator.
func (k *kubernetes) writeKeys() {
	accounts := newKey()
	k.write("accounts.key", encodeECKey(accounts))
	public, _ := x509.MarshalPKIXPublicKey(accounts.Public())
	k.write("accounts.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))

	caKey, key := newKey(), newKey()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, NotAfter: time.Now().Add(24 * time.Hour), //nolint:forbidigo // of the machine
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}}, NotAfter: ca.NotAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		k.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		k.t.Fatal(err)
	}
	encoded := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	k.write("kubernetes-ca.crt", encoded)
	k.write("client-ca.crt", encoded)
	k.config = k.as(rest.TLSClientConfig{CertData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), KeyData: encodeECKey(key)}, "")
	if k.admin, err = dynamic.NewForConfig(k.config); err != nil {
		k.t.Fatal(err)
	}
}

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

func encodeECKey(key *ecdsa.PrivateKey) []byte {
	der, _ := x509.MarshalECPrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

// as returns how somebody calls the API server: with a certificate or a token.
func (k *kubernetes) as(tls rest.TLSClientConfig, token string) *rest.Config {
	tls.Insecure = true // it makes its own serving certificate
	return &rest.Config{Host: "https://" + k.address, TLSClientConfig: tls, BearerToken: token, QPS: -1}
}

// kubeconfig writes a kubeconfig with a token.
func (k *kubernetes) kubeconfig(path, token string) {
	k.t.Helper()
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://%s", insecure-skip-tls-verify: true}}]
users: [{name: test, user: {token: %q}}]
contexts: [{name: test, context: {cluster: test, user: test, namespace: rotor}}]
current-context: test
`, k.address, token)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		k.t.Fatal(err)
	}
}

// resources are the kinds in the manifests and where they are.
var resources = map[string]schema.GroupVersionResource{
	"Namespace":      {Version: "v1", Resource: "namespaces"},
	"ServiceAccount": {Version: "v1", Resource: "serviceaccounts"},
	"ConfigMap":      {Version: "v1", Resource: "configmaps"},
	"Secret":         {Version: "v1", Resource: "secrets"},
	"Role":           {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"},
	"RoleBinding":    {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "rolebindings"},
	"StatefulSet":    {Group: "apps", Version: "v1", Resource: "statefulsets"},
	"Deployment":     {Group: "apps", Version: "v1", Resource: "deployments"},
}

// decodeAll reads the objects of a manifest.
func decodeAll(t *testing.T, text []byte) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		u := &unstructured.Unstructured{}
		err := documents.Decode(&u.Object)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if u.Object != nil {
			all = append(all, u)
		}
	}
}

// apply makes objects, as strictly as kubectl apply does.
func (k *kubernetes) apply(objects ...*unstructured.Unstructured) {
	k.t.Helper()
	for _, u := range objects {
		resource, known := resources[u.GetKind()]
		if !known {
			k.t.Fatalf("a %s is not expected", u.GetKind())
		}
		_, err := k.admin.Resource(resource).Namespace(u.GetNamespace()).Create(k.t.Context(), u, metav1.CreateOptions{FieldValidation: "Strict"})
		if err != nil {
			k.t.Fatalf("%s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
}

// get returns an object in namespace rotor, nil if there is none.
func (k *kubernetes) get(kind, name string) *unstructured.Unstructured {
	u, err := k.admin.Resource(resources[kind]).Namespace("rotor").Get(k.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return u
}

// edit changes an object as somebody else would.
func (k *kubernetes) edit(kind, name string, change func(*unstructured.Unstructured)) {
	k.t.Helper()
	u := k.get(kind, name)
	change(u)
	if _, err := k.admin.Resource(resources[kind]).Namespace("rotor").Update(k.t.Context(), u, metav1.UpdateOptions{}); err != nil {
		k.t.Fatal(err)
	}
}

// post sends an object that is only a question, and returns its status.
func post(ctx context.Context, c *rest.Config, path string, in map[string]any) (map[string]any, error) {
	client, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	response, err := client.Post(c.Host+path, "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	var out struct {
		Status map[string]any `json:"status"`
	}
	raw, err := io.ReadAll(response.Body)
	if response.StatusCode >= 300 || err != nil {
		return nil, &apierrors.StatusError{ErrStatus: metav1.Status{Reason: reasonOf(response.StatusCode), Message: string(raw)}}
	}
	err = errors.Join(json.Unmarshal(raw, &out), ctx.Err())
	return out.Status, err
}

func reasonOf(status int) metav1.StatusReason {
	return map[int]metav1.StatusReason{401: metav1.StatusReasonUnauthorized, 403: metav1.StatusReasonForbidden}[status]
}

// controller stands in for the controllers, of which there are none here: it says
// of a Deployment that its pods are of the newest template.
func (k *kubernetes) controller(ctx context.Context, name string) {
	api := k.admin.Resource(resources["Deployment"]).Namespace("rotor")
	for ctx.Err() == nil {
		if u, err := api.Get(ctx, name, metav1.GetOptions{}); err == nil {
			u.Object["status"] = map[string]any{
				"observedGeneration": u.GetGeneration(), "replicas": int64(1), "updatedReplicas": int64(1), "readyReplicas": int64(1), "availableReplicas": int64(1),
			}
			_, _ = api.UpdateStatus(ctx, u, metav1.UpdateOptions{})
		}
		_ = clock.Sleep(ctx, 200*time.Millisecond)
	}
}

// remove deletes an object in namespace rotor as somebody else would.
func (k *kubernetes) remove(kind, name string) {
	k.t.Helper()
	if err := k.admin.Resource(resources[kind]).Namespace("rotor").Delete(k.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		k.t.Fatal(err)
	}
}

// tokenOf returns a token of a service account, as its pod has one.
func (k *kubernetes) tokenOf(account string) string {
	k.t.Helper()
	token, err := k.askToken(k.config, account)
	if err != nil {
		k.t.Fatal(err)
	}
	return token
}

func (k *kubernetes) askToken(as *rest.Config, account string) (string, error) {
	status, err := post(k.t.Context(), as, "/api/v1/namespaces/rotor/serviceaccounts/"+account+"/token",
		map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": map[string]any{}})
	token, _ := status["token"].(string)
	return token, err
}

func (k *kubernetes) eventually(what string, f func() error) {
	k.t.Helper()
	deadline := time.After(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			k.t.Fatalf("not within %s: %s: %v", patience, what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
