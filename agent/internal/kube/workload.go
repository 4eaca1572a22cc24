package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// WorkloadKind is a kind of workload that Kubernetes replaces pod by pod when
// its template changes.
type WorkloadKind string

// The kinds of workload.
const (
	Deployment  WorkloadKind = "deployment"
	DaemonSet   WorkloadKind = "daemonset"
	StatefulSet WorkloadKind = "statefulset"
)

// WorkloadName names a workload in a namespace: deployment/kms-plugin.
type WorkloadName struct {
	Kind WorkloadKind
	Name string
}

// String is the inverse of ParseWorkload.
func (w WorkloadName) String() string { return string(w.Kind) + "/" + w.Name }

// ParseWorkload reads kind/name. The error is fleet.ErrInvalid.
func ParseWorkload(text string) (WorkloadName, error) {
	kind, name, _ := strings.Cut(text, "/")
	w := WorkloadName{WorkloadKind(kind), name}
	switch w.Kind {
	case Deployment, DaemonSet, StatefulSet:
	default:
		return w, fmt.Errorf("%w: workload %q: write deployment/NAME, daemonset/NAME or statefulset/NAME", fleet.ErrInvalid, text)
	}
	// Names of workloads are DNS subdomains (RFC 1123).
	for label := range strings.SplitSeq(name, ".") {
		if err := fleet.CheckName("workload", label); err != nil {
			return w, err
		}
	}
	return w, nil
}

// Workload is a workload that is restarted when what it reads has changed.
type Workload struct {
	Client    *Client
	Namespace string // that of the client, if empty
	Name      WorkloadName
}

// restartedAt is the annotation by which kubectl rollout restart works.
const restartedAt = "kubectl.kubernetes.io/restartedAt"

func (w Workload) object() (objects, error) {
	resource := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: string(w.Name.Kind) + "s"}
	api, _, err := w.Client.in(resource, w.Namespace)
	return api, err
}

// Restart makes Kubernetes replace the pods one after the other, as `kubectl
// rollout restart` does, unless that was done at or after the moment at which
// the set was installed. So it may be repeated, and two clients of one workload
// that were installed together restart it once.
func (w Workload) Restart(ctx context.Context, installed time.Time) error {
	have, err := w.get(ctx)
	if err != nil {
		return err
	}
	before, _, _ := unstructured.NestedString(have.Object, "spec", "template", "metadata", "annotations", restartedAt)
	if at, err := time.Parse(time.RFC3339, before); err == nil && !at.Before(installed.Truncate(time.Second)) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{
		"annotations": map[string]string{restartedAt: installed.UTC().Format(time.RFC3339)},
	}}}})
	if err != nil {
		return err
	}
	api, err := w.object()
	if err != nil {
		return err
	}
	ctx, cancel := within(ctx)
	defer cancel()
	if _, err = api.Patch(ctx, w.Name.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: manager}); err != nil {
		w.Client.forget(err)
	}
	return explain("restart", w.Name.String(), err)
}

func (w Workload) get(ctx context.Context) (*unstructured.Unstructured, error) {
	api, err := w.object()
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(ctx)
	defer cancel()
	have, err := api.Get(ctx, w.Name.Name, metav1.GetOptions{})
	if err != nil {
		w.Client.forget(err)
	}
	return have, explain("read", w.Name.String(), err)
}

// lookAgain is how long to wait between two looks at a rollout, in real time.
const lookAgain = time.Second

// Wait returns once every pod is of the newest template and available, or with
// an error that says what is missing once ctx ends or Kubernetes gives up.
func (w Workload) Wait(ctx context.Context) error {
	for {
		have, err := w.get(ctx)
		if err != nil {
			return err
		}
		missing, err := progress(w.Name.Kind, have)
		if err != nil || missing == "" {
			return err
		}
		if err := clock.Sleep(ctx, lookAgain); err != nil {
			return fmt.Errorf("%s: rollout: %s: %w", w.Name, missing, err)
		}
	}
}
