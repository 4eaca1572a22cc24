// Package kubetest stands in for a kube-apiserver in tests: objects with uid,
// resource version and compare-and-set over HTTP, as far as an agent uses them.
// The tests under the build tag kube run against a real one.
package kubetest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// Namespace is the namespace of the kubeconfig's context.
const Namespace = "rotor"

// Server is a stand-in for a kube-apiserver.
type Server struct {
	*httptest.Server
	Kubeconfig string // path of a file that leads here

	mu      sync.Mutex
	number  int // of the newest version
	objects map[string]map[string]any
	calls   []string
	refuse  func(method, path string) int // HTTP status to answer with, 0 to go on
	before  func(method, path string)     // called before a write is looked at
}

// New starts a server, and stops it at the end of the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{objects: map[string]map[string]any{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	s.Kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(s.Kubeconfig, []byte(Kubeconfig(s.URL, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// Kubeconfig returns a kubeconfig with one context, named test.
func Kubeconfig(url, token string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: %q}}]
users: [{name: test, user: {token: %q}}]
contexts: [{name: test, context: {cluster: test, user: test, namespace: %s}}]
current-context: test
`, url, token, Namespace)
}

// Refuse makes the server answer calls with a status; nil ends it.
func (s *Server) Refuse(f func(method, path string) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = f
}

// Before calls f before each write, as when somebody else is quicker; nil ends it.
func (s *Server) Before(f func(method, path string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = f
}

// Get returns an object, nil if there is none. Path is resource/name, in Namespace.
func (s *Server) Get(path string) *unstructured.Unstructured {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.objects[path]
	if o == nil {
		return nil
	}
	return (&unstructured.Unstructured{Object: o}).DeepCopy()
}

// Data returns a part of a Secret, decoded.
func (s *Server) Data(path, part string) string {
	o := s.Get(path)
	if o == nil {
		return ""
	}
	text, _, _ := unstructured.NestedString(o.Object, "data", part)
	b, _ := base64.StdEncoding.DecodeString(text)
	return string(b)
}

// Edit changes an object as somebody else would; a nil result of f deletes it.
// F gets an empty object if there is none.
func (s *Server) Edit(path string, f func(o map[string]any) map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := (&unstructured.Unstructured{Object: s.objects[path]}).DeepCopy().Object
	if o == nil {
		_, name, _ := strings.Cut(path, "/")
		o = map[string]any{"metadata": map[string]any{"name": name}}
	}
	if o = f(o); o == nil {
		delete(s.objects, path)
		return
	}
	s.store(path, o)
}

// Calls returns the methods and paths of all calls so far.
func (s *Server) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Names returns the paths of all objects.
func (s *Server) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.objects))
}

// kinds are the kinds by the names in the paths.
var kinds = map[string][2]string{
	"secrets": {"v1", "Secret"}, "configmaps": {"v1", "ConfigMap"},
	"deployments": {"apps/v1", "Deployment"}, "daemonsets": {"apps/v1", "DaemonSet"}, "statefulsets": {"apps/v1", "StatefulSet"},
}

func (s *Server) store(path string, o map[string]any) {
	u := unstructured.Unstructured{Object: o}
	resource, _, _ := strings.Cut(path, "/")
	o["apiVersion"], o["kind"] = kinds[resource][0], kinds[resource][1]
	s.number++
	u.SetResourceVersion(strconv.Itoa(s.number))
	if before := s.objects[path]; before != nil {
		u.SetUID((&unstructured.Unstructured{Object: before}).GetUID())
	} else {
		u.SetUID(types.UID("uid-" + strconv.Itoa(s.number)))
	}
	s.objects[path] = o
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	_, path, ok := strings.Cut(r.URL.Path, "/namespaces/"+Namespace+"/")
	s.mu.Lock()
	s.calls = append(s.calls, r.Method+" "+path)
	refuse, before := s.refuse, s.before
	s.mu.Unlock()
	if refuse != nil {
		if status := refuse(r.Method, path); status != 0 {
			fail(w, status)
			return
		}
	}
	if !ok {
		fail(w, http.StatusNotFound)
		return
	}
	if before != nil && r.Method != http.MethodGet {
		before(r.Method, path)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	status, o := s.answer(r, path)
	if o == nil {
		fail(w, status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(o)
}

func (s *Server) answer(r *http.Request, path string) (int, map[string]any) {
	if r.Method == http.MethodGet {
		return found(s.objects[path])
	}
	var sent map[string]any
	if err := json.NewDecoder(r.Body).Decode(&sent); err != nil {
		return http.StatusBadRequest, nil
	}
	u := unstructured.Unstructured{Object: sent}
	switch r.Method {
	case http.MethodPost:
		path += "/" + u.GetName()
		if s.objects[path] != nil {
			return http.StatusConflict, nil
		}
	case http.MethodPut:
		have := s.objects[path]
		if have == nil {
			return http.StatusNotFound, nil
		}
		if u.GetResourceVersion() != (&unstructured.Unstructured{Object: have}).GetResourceVersion() {
			return http.StatusConflict, nil
		}
	case http.MethodPatch:
		have := s.objects[path]
		if have == nil {
			return http.StatusNotFound, nil
		}
		merged := (&unstructured.Unstructured{Object: have}).DeepCopy().Object
		merge(merged, sent)
		sent = merged
	default:
		return http.StatusMethodNotAllowed, nil
	}
	s.store(path, sent)
	return found(s.objects[path])
}

func found(o map[string]any) (int, map[string]any) {
	if o == nil {
		return http.StatusNotFound, nil
	}
	return http.StatusOK, o
}

// merge is a JSON merge patch (RFC 7396) without deletion.
func merge(into, patch map[string]any) {
	for key, value := range patch {
		inner, isMap := value.(map[string]any)
		have, haveMap := into[key].(map[string]any)
		if isMap && haveMap {
			merge(have, inner)
			continue
		}
		into[key] = value
	}
}

var reasons = map[int]string{
	http.StatusUnauthorized: "Unauthorized", http.StatusForbidden: "Forbidden", http.StatusNotFound: "NotFound",
	http.StatusConflict: "Conflict", http.StatusUnprocessableEntity: "Invalid", http.StatusInternalServerError: "InternalError",
}

func fail(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "reason": reasons[status], "message": "refused by the test",
	})
}
