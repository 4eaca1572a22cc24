package kube

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/rotor-fleet/rotor/agent/internal/kube/kubetest"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/trust"
)

func TestConfigMapFollowsTheBundle(t *testing.T) {
	w := newWorld(t)
	ca := string(newSet(t, 1).CA)
	m := NewConfigMap(ConfigMapOptions{Client: w.client(), Log: w.log, Name: "rotor-ca", Cluster: testCluster})
	text := func() string {
		data, _ := w.Get("configmaps/rotor-ca").Object["data"].(map[string]any)
		text, _ := data["ca.crt"].(string)
		return text
	}
	if err := m.Keep(t.Context(), trust.Bundle{Version: 1, Certificates: []string{ca}}); err != nil || text() != ca {
		t.Fatalf("%v, %q", err, text())
	}
	uid := w.Get("configmaps/rotor-ca").GetUID()
	if err := m.Keep(t.Context(), trust.Bundle{Version: 2, Certificates: []string{ca, ca}}); err != nil || text() != ca+ca {
		t.Errorf("%v, %q", err, text())
	}
	if now := w.Get("configmaps/rotor-ca"); now.GetUID() != uid || now.GetAnnotations()[prefix+"trust-bundle"] != "2" {
		t.Errorf("uid %s then %s, annotations %v", uid, now.GetUID(), now.GetAnnotations())
	}
	// An empty trust store trusts nobody: that is never written.
	if err := m.Keep(t.Context(), trust.Bundle{Version: 3}); err == nil || text() != ca+ca {
		t.Errorf("an empty bundle: %v, %q", err, text())
	}
	w.Edit("configmaps/rotor-ca", func(o map[string]any) map[string]any { o["data"] = map[string]any{}; return o })
	if err := m.Keep(t.Context(), trust.Bundle{Version: 2, Certificates: []string{ca, ca}}); err != nil || text() != ca+ca {
		t.Errorf("emptied by another: %v, %q", err, text())
	}
	w.Edit("configmaps/theirs", func(o map[string]any) map[string]any { return o })
	theirs := NewConfigMap(ConfigMapOptions{Client: w.client(), Log: w.log, Name: "theirs", Cluster: testCluster})
	if err := theirs.Keep(t.Context(), trust.Bundle{Version: 2, Certificates: []string{ca}}); !errors.Is(err, fleet.ErrConflict) {
		t.Errorf("somebody else's ConfigMap: %v", err)
	}
}

func TestRestartOnce(t *testing.T) {
	w := newWorld(t)
	name, err := ParseWorkload("deployment/kms-plugin")
	if err != nil {
		t.Fatal(err)
	}
	d := Workload{Client: w.client(), Name: name}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	if err := d.Restart(t.Context(), at); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("a workload that is not there: %v", err)
	}
	w.Edit("deployments/kms-plugin", func(o map[string]any) map[string]any {
		o["spec"] = map[string]any{"template": map[string]any{"spec": map[string]any{"x": "y"}}}
		return o
	})
	version := func() string { return w.Get("deployments/kms-plugin").GetResourceVersion() }
	steps := []struct {
		at      time.Time
		changes bool
	}{{at, true}, {at, false}, {at.Add(-time.Hour), false}, {at.Add(time.Minute), true}}
	for i, s := range steps {
		before := version()
		if err := d.Restart(t.Context(), s.at); err != nil {
			t.Fatal(err)
		}
		if changed := version() != before; changed != s.changes {
			t.Errorf("step %d: restarted %v, want %v", i, changed, s.changes)
		}
	}
}

func TestParseWorkload(t *testing.T) {
	for text, good := range map[string]bool{
		"deployment/kms": true, "daemonset/node.agent": true, "statefulset/db-0": true,
		"": false, "deployment": false, "deployment/": false, "pod/x": false, "deployment/../x": false, "deployment/a/b": false, "Deployment/x": false,
	} {
		if w, err := ParseWorkload(text); (err == nil) != good || good && w.String() != text {
			t.Errorf("%q: %v, %v", text, w, err)
		}
	}
}

func TestProgress(t *testing.T) {
	for name, c := range map[string]struct {
		kind         WorkloadKind
		spec, status map[string]any
		missing      string
		fails        bool
	}{
		"complete":          {Deployment, map[string]any{"replicas": int64(2)}, map[string]any{"observedGeneration": int64(3), "replicas": int64(2), "updatedReplicas": int64(2), "availableReplicas": int64(2)}, "", false},
		"not noticed":       {Deployment, nil, map[string]any{"observedGeneration": int64(2)}, "not noticed", false},
		"some are old":      {Deployment, map[string]any{"replicas": int64(2)}, map[string]any{"observedGeneration": int64(3), "replicas": int64(2), "updatedReplicas": int64(1)}, "1 of 2 pods are updated", false},
		"old ones stay":     {Deployment, map[string]any{"replicas": int64(2)}, map[string]any{"observedGeneration": int64(3), "replicas": int64(3), "updatedReplicas": int64(2), "availableReplicas": int64(3)}, "1 old pods", false},
		"not available":     {Deployment, nil, map[string]any{"observedGeneration": int64(3), "replicas": int64(1), "updatedReplicas": int64(1)}, "0 of 1 pods are available", false},
		"scaled to nothing": {Deployment, map[string]any{"replicas": int64(0)}, map[string]any{"observedGeneration": int64(3)}, "", false},
		"given up": {Deployment, nil, map[string]any{"observedGeneration": int64(3), "conditions": []any{
			map[string]any{"type": "Progressing", "reason": "ProgressDeadlineExceeded"},
		}}, "", true},
		"daemon set":          {DaemonSet, nil, map[string]any{"observedGeneration": int64(3), "desiredNumberScheduled": int64(3), "updatedNumberScheduled": int64(3), "numberAvailable": int64(3)}, "", false},
		"daemon set half":     {DaemonSet, nil, map[string]any{"observedGeneration": int64(3), "desiredNumberScheduled": int64(3), "updatedNumberScheduled": int64(2), "numberAvailable": int64(3)}, "2 of 3 pods are updated", false},
		"on delete":           {DaemonSet, map[string]any{"updateStrategy": map[string]any{"type": "OnDelete"}}, map[string]any{"observedGeneration": int64(3)}, "", true},
		"stateful set":        {StatefulSet, map[string]any{"replicas": int64(3)}, map[string]any{"observedGeneration": int64(3), "replicas": int64(3), "updatedReplicas": int64(3), "availableReplicas": int64(3)}, "", false},
		"stateful set behind": {StatefulSet, map[string]any{"replicas": int64(3)}, map[string]any{"observedGeneration": int64(3), "replicas": int64(3), "updatedReplicas": int64(2), "availableReplicas": int64(3)}, "2 of 3", false},
		"partition": {
			StatefulSet,
			map[string]any{"replicas": int64(3), "updateStrategy": map[string]any{"rollingUpdate": map[string]any{"partition": int64(2)}}},
			map[string]any{"observedGeneration": int64(3), "replicas": int64(3), "updatedReplicas": int64(1), "availableReplicas": int64(3)},
			"", false,
		},
	} {
		u := &unstructured.Unstructured{Object: map[string]any{
			"metadata": map[string]any{"name": "x", "generation": int64(3)}, "spec": c.spec, "status": c.status,
		}}
		missing, err := progress(c.kind, u)
		if (err != nil) != c.fails || c.missing == "" && missing != "" || !strings.Contains(missing, c.missing) {
			t.Errorf("%s: %q, %v", name, missing, err)
		}
	}
}

func TestWaitEndsWithWhatIsMissing(t *testing.T) {
	w := newWorld(t)
	w.Edit("daemonsets/csi", func(o map[string]any) map[string]any {
		o["status"] = map[string]any{"desiredNumberScheduled": int64(2), "updatedNumberScheduled": int64(1)}
		return o
	})
	ctx, cancel := context.WithCancel(t.Context())
	w.Refuse(func(string, string) int { cancel(); return 0 }) // the time is over while the first look is under way
	d := Workload{Client: w.client(), Name: WorkloadName{DaemonSet, "csi"}}
	if err := d.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("wait: %v", err)
	}
	w.Refuse(nil)
	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := d.Wait(ctx); err == nil || !strings.Contains(err.Error(), "1 of 2 pods are updated") {
		t.Errorf("wait: %v", err)
	}
	w.Edit("daemonsets/csi", func(o map[string]any) map[string]any {
		o["status"] = map[string]any{"desiredNumberScheduled": int64(2), "updatedNumberScheduled": int64(2), "numberAvailable": int64(2)}
		return o
	})
	if err := d.Wait(t.Context()); err != nil {
		t.Errorf("wait: %v", err)
	}
}

// TestKubeconfigs: a file that is wrong is named, and nothing of it is told, for
// it may hold a token.
func TestKubeconfigs(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := kubetest.Kubeconfig("http://127.0.0.1:1", "the-token")
	for name, c := range map[string]struct {
		options Options
		says    string
	}{
		"absent":          {Options{Kubeconfig: filepath.Join(dir, "none")}, "no such file"},
		"not YAML":        {Options{Kubeconfig: write("a", "root:$6$the-token:19000:0\n\t{")}, "is not a kubeconfig"},
		"another kind":    {Options{Kubeconfig: write("b", "the-token")}, "is not a kubeconfig"},
		"no context":      {Options{Kubeconfig: write("c", strings.Replace(good, "current-context: test", "", 1))}, "no current context"},
		"other context":   {Options{Kubeconfig: write("d", good), Context: "prod"}, `no context "prod"`},
		"no such cluster": {Options{Kubeconfig: write("e", strings.Replace(good, "cluster: test", "cluster: none", 1))}, "is not complete"},
		"bad CA":          {Options{Kubeconfig: write("f", strings.Replace(good, `server: "http:`, `certificate-authority-data: dGhlLXRva2Vu, server: "https:`, 1))}, "cannot be used"},
		"not in a pod":    {Options{}, "name a kubeconfig"},
		"no namespace":    {Options{Kubeconfig: write("g", strings.Replace(good, ", namespace: rotor", "", 1)), Namespace: ""}, ""},
		"with namespace":  {Options{Kubeconfig: write("h", good), Namespace: "other"}, ""},
	} {
		_, namespace, err := New(c.options).in(secrets, "")
		switch {
		case c.says == "" && err != nil, c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)), err != nil && strings.Contains(err.Error(), "the-token"):
			t.Errorf("%s: %v", name, err)
		case name == "no namespace" && namespace != "default", name == "with namespace" && namespace != "other":
			t.Errorf("%s: namespace %q", name, namespace)
		}
	}
}

// TestARenewedKubeconfigIsReadAgain: it is a credential, and somebody renews it.
func TestARenewedKubeconfigIsReadAgain(t *testing.T) {
	old, fresh := kubetest.New(t), kubetest.New(t)
	w := newWorld(t)
	w.Kubeconfig = old.Kubeconfig
	s := w.secret()
	if err := s.Install(t.Context(), newSet(t, 1)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(old.Kubeconfig, []byte(kubetest.Kubeconfig(fresh.URL, "renewed")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Mend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if fresh.Get(secretPath) == nil {
		t.Error("the new kubeconfig was not used")
	}
}
