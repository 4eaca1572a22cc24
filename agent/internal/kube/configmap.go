package kube

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/trust"
)

var (
	configMapKind = schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}
	configMaps    = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
)

// ConfigMap keeps the trust bundle in one key of a ConfigMap, for those who
// verify what the fleet's clients show.
type ConfigMap struct {
	object
	key string
}

// ConfigMapOptions say which ConfigMap.
type ConfigMapOptions struct {
	Client    *Client
	Log       *slog.Logger
	Namespace string // that of the client, if empty
	Name      string
	Key       string // ca.crt, if empty
	Cluster   string
}

// NewConfigMap returns the ConfigMap.
func NewConfigMap(o ConfigMapOptions) *ConfigMap {
	if o.Key == "" {
		o.Key = "ca.crt"
	}
	return &ConfigMap{key: o.Key, object: object{
		client: o.Client, log: o.Log, kind: configMapKind, resource: configMaps,
		namespace: o.Namespace, name: o.Name, cluster: o.Cluster,
	}}
}

// Keep makes the ConfigMap hold the bundle.
func (c *ConfigMap) Keep(ctx context.Context, b trust.Bundle) error {
	// An empty or unreadable bundle would leave its readers trusting nobody.
	if _, err := b.Pool(); err != nil {
		return err
	}
	return c.keep(ctx, content{
		field: "data", parts: map[string]any{c.key: string(b.PEM())},
		annotations: map[string]string{prefix + "trust-bundle": strconv.Itoa(b.Version)},
		foreign: func(have *unstructured.Unstructured) bool {
			return have.GetAnnotations()[prefix+"trust-bundle"] == strconv.Itoa(b.Version)
		},
	})
}

// Read returns what verifiers find.
func (c *ConfigMap) Read(ctx context.Context) ([]byte, error) {
	have, err := c.get(ctx)
	if err != nil {
		return nil, err
	}
	if have == nil {
		return nil, fmt.Errorf("read %s: %w", c, fleet.ErrNotFound)
	}
	text, _, _ := unstructured.NestedString(have.Object, "data", c.key)
	return []byte(text), nil
}
