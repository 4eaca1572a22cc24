package kube

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// The labels of what is Rotor's. They are Kubernetes' recommended ones, so that
// common tools show them.
const (
	labelManager = "app.kubernetes.io/managed-by"
	labelCluster = "app.kubernetes.io/part-of" // cluster whose credentials these are
	manager      = "rotor"
)

// prefix begins the names of our annotations.
const prefix = "rotor-fleet.github.io/"

// object is a Secret or ConfigMap that is kept as it should be.
type object struct {
	client    *Client
	log       *slog.Logger
	kind      schema.GroupVersionKind
	resource  schema.GroupVersionResource
	namespace string // that of the client, if empty
	name      string
	cluster   string
	owned     func(*unstructured.Unstructured) bool   // ours although it lacks the label; may be nil
	taken     func(*unstructured.Unstructured) string // who else has it, empty if nobody; may be nil
}

// content is what an object should hold.
type content struct {
	kind        string // type of a Secret
	field       string // where the parts stand
	parts       map[string]any
	annotations map[string]string

	// foreign reports whether it was somebody else who has changed the object; it
	// may be nil.
	foreign func(have *unstructured.Unstructured) bool
}

// attempts bounds how often an update is tried at once when others write the
// same object.
const attempts = 5

// String names the object for people.
func (o *object) String() string {
	namespace := o.namespace
	if namespace == "" {
		namespace = o.client.options.Namespace
	}
	if namespace == "" {
		return fmt.Sprintf("%s %s", o.kind.Kind, o.name)
	}
	return fmt.Sprintf("%s %s/%s", o.kind.Kind, namespace, o.name)
}

// get returns the object as it is, nil if there is none.
func (o *object) get(ctx context.Context) (*unstructured.Unstructured, error) {
	api, _, err := o.client.in(o.resource, o.namespace)
	if err != nil {
		return nil, err
	}
	ctx, cancel := within(ctx)
	defer cancel()
	have, err := api.Get(ctx, o.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		o.client.forget(err)
		return nil, explain("read", o.String(), err)
	}
	return have, nil
}

// keep makes the object hold the content, by one update: who reads it sees what
// it held before, or all of this. An object that is not ours is left alone. It
// costs one read when all is well.
func (o *object) keep(ctx context.Context, want content) error {
	for attempt := 1; ; attempt++ {
		have, err := o.get(ctx)
		if err != nil {
			return err
		}
		err = o.write(ctx, have, want)
		switch {
		case err == nil:
			return nil
		case attempt < attempts && meanwhile(err):
			continue
		}
		o.client.forget(err)
		return explain("update", o.String(), err)
	}
}

// meanwhile reports whether a write failed because the object changed after it
// was read.
func meanwhile(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || statusOf(err) == http.StatusNotFound
}

func (o *object) write(ctx context.Context, have *unstructured.Unstructured, want content) error {
	api, namespace, err := o.client.in(o.resource, o.namespace)
	if err != nil {
		return err
	}
	ctx, cancel := within(ctx)
	defer cancel()
	if have == nil {
		fresh := &unstructured.Unstructured{Object: map[string]any{}}
		fresh.SetGroupVersionKind(o.kind)
		fresh.SetName(o.name)
		fresh.SetNamespace(namespace)
		o.fill(fresh, want)
		if _, err = api.Create(ctx, fresh, metav1.CreateOptions{FieldManager: manager}); err == nil {
			o.log.InfoContext(ctx, "made in Kubernetes", "object", o.String())
		}
		return err
	}
	if err := o.check(have, want); err != nil {
		return err
	}
	next := have.DeepCopy()
	o.fill(next, want)
	if reflect.DeepEqual(have.Object, next.Object) {
		return nil
	}
	// The resource version is that of what was read, so that a change by somebody
	// else meanwhile is seen and not overwritten.
	if _, err := api.Update(ctx, next, metav1.UpdateOptions{FieldManager: manager}); err != nil {
		return err
	}
	parts := different(have, next, want.field)
	if want.foreign != nil && want.foreign(have) {
		o.log.WarnContext(ctx, "changed by somebody else and put right", "object", o.String(), "parts", parts)
		return nil
	}
	o.log.InfoContext(ctx, "updated in Kubernetes", "object", o.String(), "parts", parts)
	return nil
}

// check reports whether the object may be written. Without this check a name
// that was mistyped would cost somebody else's Secret.
func (o *object) check(have *unstructured.Unstructured, want content) error {
	labels := have.GetLabels()
	cluster := labels[labelCluster]
	switch {
	case labels[labelManager] != manager && (o.owned == nil || !o.owned(have)):
		return fmt.Errorf("%w: %s exists and is not Rotor's: choose another name, or label it %s=%s to hand it over", fleet.ErrConflict, o, labelManager, manager)
	case cluster != "" && cluster != o.cluster:
		return fmt.Errorf("%w: %s belongs to cluster %s: choose another name or namespace for this one", fleet.ErrConflict, o, cluster)
	case o.taken != nil && o.taken(have) != "":
		return fmt.Errorf("%w: %s is that of client %s: choose another name for this one", fleet.ErrConflict, o, o.taken(have))
	case have.Object["immutable"] == true:
		return fmt.Errorf("%w: %s is immutable: delete it, and it is made anew", fleet.ErrConflict, o)
	}
	if kind, _, _ := unstructured.NestedString(have.Object, "type"); kind != want.kind {
		return fmt.Errorf("%w: %s has type %q, which cannot be changed, and must have %q: delete it, and it is made anew", fleet.ErrConflict, o, kind, want.kind)
	}
	return nil
}

// fill makes an object hold the content. What others have added to it stays.
func (o *object) fill(u *unstructured.Unstructured, want content) {
	if want.kind != "" {
		u.Object["type"] = want.kind
	}
	parts, _ := u.Object[want.field].(map[string]any)
	if parts == nil {
		parts = map[string]any{}
	}
	maps.Copy(parts, want.parts)
	u.Object[want.field] = parts
	labels, annotations := u.GetLabels(), u.GetAnnotations()
	if labels == nil {
		labels = map[string]string{}
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	labels[labelManager], labels[labelCluster] = manager, o.cluster
	maps.Copy(annotations, want.annotations)
	u.SetLabels(labels)
	if len(annotations) > 0 {
		u.SetAnnotations(annotations)
	}
}

// different names the parts that differ, without their values.
func different(a, b *unstructured.Unstructured, field string) []string {
	before, _ := a.Object[field].(map[string]any)
	after, _ := b.Object[field].(map[string]any)
	var names []string
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if before[name] != after[name] {
			names = append(names, name)
		}
	}
	return names
}

// encode writes parts as the data of a Secret.
func encode(files map[string][]byte) map[string]any {
	data := map[string]any{}
	for name, b := range files {
		data[name] = base64.StdEncoding.EncodeToString(b)
	}
	return data
}

// decode reads the data of a Secret. Parts that make no sense are left out.
func decode(u *unstructured.Unstructured) map[string][]byte {
	data, _ := u.Object["data"].(map[string]any)
	files := map[string][]byte{}
	for name, value := range data {
		text, _ := value.(string)
		if b, err := base64.StdEncoding.DecodeString(text); err == nil {
			files[name] = b
		}
	}
	return files
}
