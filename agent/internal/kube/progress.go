package kube

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// progress returns what a rollout still waits for, empty when it is complete.
// The error says that Kubernetes has given up. It looks at what `kubectl rollout
// status` looks at.
func progress(kind WorkloadKind, u *unstructured.Unstructured) (missing string, err error) {
	number := func(path ...string) int64 {
		n, _, _ := unstructured.NestedInt64(u.Object, path...)
		return n
	}
	if number("status", "observedGeneration") < u.GetGeneration() {
		return "not noticed by its controller yet", nil
	}
	want := int64(1) // the default of spec.replicas
	if n, found, _ := unstructured.NestedInt64(u.Object, "spec", "replicas"); found {
		want = n
	}
	all, updated, available := number("status", "replicas"), number("status", "updatedReplicas"), number("status", "availableReplicas")
	strategy, _, _ := unstructured.NestedString(u.Object, "spec", "updateStrategy", "type")
	if kind != Deployment && strategy == "OnDelete" {
		return "", fmt.Errorf("%s %s replaces its pods only when they are deleted (updateStrategy OnDelete)", kind, u.GetName())
	}
	switch kind {
	case DaemonSet:
		want, all = number("status", "desiredNumberScheduled"), number("status", "updatedNumberScheduled")
		updated, available = all, number("status", "numberAvailable")
	case StatefulSet:
		// Pods below the partition keep their template, as its owner wants it.
		if kept := number("spec", "updateStrategy", "rollingUpdate", "partition"); kept > 0 {
			updated += min(kept, want)
			all = min(all, want)
		}
	case Deployment:
		if late(u) {
			return "", fmt.Errorf("%s %s has exceeded its progress deadline: %d of %d pods are updated and %d available", kind, u.GetName(), updated, want, available)
		}
	}
	switch {
	case updated < want:
		return fmt.Sprintf("%d of %d pods are updated", updated, want), nil
	case all > updated:
		return fmt.Sprintf("%d old pods are still there", all-updated), nil
	case available < want:
		return fmt.Sprintf("%d of %d pods are available", available, want), nil
	}
	return "", nil
}

// late reports whether a Deployment has given up.
func late(u *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range conditions {
		condition, _ := c.(map[string]any)
		if condition["type"] == "Progressing" && condition["reason"] == "ProgressDeadlineExceeded" {
			return true
		}
	}
	return false
}
