//go:build kube

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

const agentUser = "system:serviceaccount:rotor:rotor-agent"

// granted returns what the manifests grant, as "verb resource/name", where name
// is * when it is not limited.
func granted(t *testing.T) []string {
	t.Helper()
	all := map[string]bool{}
	for _, u := range manifests(t) {
		if u.GetKind() != "Role" {
			continue
		}
		rules, _, _ := unstructured.NestedSlice(u.Object, "rules")
		for _, r := range rules {
			rule := r.(map[string]any)
			names := texts(rule["resourceNames"])
			if len(names) == 0 {
				names = []string{"*"}
			}
			for _, verb := range texts(rule["verbs"]) {
				for _, resource := range texts(rule["resources"]) {
					for _, name := range names {
						all[verb+" "+resource+"/"+name] = true
					}
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(all))
}

func texts(list any) []string {
	var out []string
	items, _ := list.([]any)
	for _, item := range items {
		out = append(out, item.(string))
	}
	return out
}

// leastRights reads in the API server's own audit log what the agent has done
// in all of this test: it was refused nothing, and used all that it is granted.
func (w *kubeWorld) leastRights(t *testing.T) {
	text, err := os.ReadFile(w.path("audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Verb      string `json:"verb"`
			User      struct{ Username string }
			UserAgent string
			ObjectRef struct{ Resource, Namespace, Name string }
			Response  struct{ Code int } `json:"responseStatus"`
			At        time.Time          `json:"requestReceivedTimestamp"`
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.User.Username != agentUser || e.UserAgent != "rotor-agent" {
			continue
		}
		did := e.Verb + " " + e.ObjectRef.Resource + "/" + e.ObjectRef.Name
		if e.Verb == "create" {
			did = e.Verb + " " + e.ObjectRef.Resource + "/*"
		}
		// An API server that has just started knows no roles yet and refuses all.
		if e.Response.Code == 403 && e.At.Before(w.readyAt) || e.Response.Code == 0 {
			continue
		}
		if e.Response.Code == 403 || e.ObjectRef.Namespace != "rotor" {
			t.Errorf("refused, or elsewhere: %s", lines.Text())
		}
		used[did] = true
	}
	have, want := slices.Sorted(maps.Keys(used)), granted(t)
	if !slices.Equal(have, want) {
		t.Errorf("the agent used\n%s\nand is granted\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
}

// refusals calls the API server with the agent's own token for what it must not
// be able to do.
func (w *kubeWorld) refusals(t *testing.T) {
	account := w.as(rest.TLSClientConfig{}, w.tokenOf("rotor-agent"))
	own, err := dynamic.NewForConfig(account)
	if err != nil {
		t.Fatal(err)
	}
	w.apply(decodeAll(t, []byte("apiVersion: v1\nkind: Secret\nmetadata: {name: theirs, namespace: rotor}\n"))...)
	ctx := t.Context()
	secrets, roles := resources["Secret"], resources["RoleBinding"]
	pods := schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	object := func(kind, namespace string) *unstructured.Unstructured {
		text := fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: x, namespace: %s}\n", map[string]string{"RoleBinding": "rbac.authorization.k8s.io/v1"}[kind], kind, namespace)
		return decodeAll(t, []byte(strings.Replace(text, "apiVersion: \n", "apiVersion: v1\n", 1)))[0]
	}
	in := own.Resource(secrets).Namespace("rotor")
	patch := []byte(`{"metadata":{"annotations":{"a":"b"}}}`)
	for name, call := range map[string]func() error{
		"read another Secret": func() error { _, err := in.Get(ctx, "theirs", metav1.GetOptions{}); return err },
		"read a Secret elsewhere": func() error {
			_, err := own.Resource(secrets).Namespace("kube-system").Get(ctx, "rotor-kms", metav1.GetOptions{})
			return err
		},
		"list Secrets": func() error { _, err := in.List(ctx, metav1.ListOptions{}); return err },
		"list its own Secret": func() error {
			_, err := in.List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=rotor-kms"})
			return err
		},
		"list Secrets of all":   func() error { _, err := own.Resource(secrets).List(ctx, metav1.ListOptions{}); return err },
		"watch Secrets":         func() error { _, err := in.Watch(ctx, metav1.ListOptions{}); return err },
		"delete its own Secret": func() error { return in.Delete(ctx, "rotor-kms", metav1.DeleteOptions{}) },
		"delete Secrets":        func() error { return in.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}) },
		"patch its own Secret": func() error {
			_, err := in.Patch(ctx, "rotor-kms", types.MergePatchType, patch, metav1.PatchOptions{})
			return err
		},
		"make a Secret elsewhere": func() error {
			_, err := own.Resource(secrets).Namespace("kube-system").Create(ctx, object("Secret", "kube-system"), metav1.CreateOptions{})
			return err
		},
		"read another ConfigMap": func() error {
			_, err := own.Resource(resources["ConfigMap"]).Namespace("rotor").Get(ctx, "rotor-agent", metav1.GetOptions{})
			return err
		},
		"restart another workload": func() error {
			_, err := own.Resource(resources["StatefulSet"]).Namespace("rotor").Patch(ctx, "rotor-agent", types.MergePatchType, patch, metav1.PatchOptions{})
			return err
		},
		"replace the workload": func() error {
			_, err := own.Resource(resources["Deployment"]).Namespace("rotor").Update(ctx, w.get("Deployment", "kms-plugin"), metav1.UpdateOptions{})
			return err
		},
		"run a pod": func() error {
			_, err := own.Resource(pods).Namespace("rotor").Create(ctx, object("Pod", "rotor"), metav1.CreateOptions{})
			return err
		},
		"list pods": func() error {
			_, err := own.Resource(pods).Namespace("rotor").List(ctx, metav1.ListOptions{})
			return err
		},
		"grant itself more": func() error {
			_, err := own.Resource(roles).Namespace("rotor").Create(ctx, object("RoleBinding", "rotor"), metav1.CreateOptions{})
			return err
		},
		"change its own role": func() error {
			_, err := own.Resource(resources["Role"]).Namespace("rotor").Update(ctx, w.get("Role", "rotor-agent"), metav1.UpdateOptions{})
			return err
		},
		"make a token of another account": func() error { _, err := w.askToken(account, "rotor-host"); return err },
		"list namespaces": func() error {
			_, err := own.Resource(resources["Namespace"]).List(ctx, metav1.ListOptions{})
			return err
		},
	} {
		if err := call(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v; want it forbidden", name, err)
		}
	}
}
