package kube

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rotor-fleet/rotor/agent/internal/install"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

var (
	secretKind = schema.GroupVersionKind{Version: "v1", Kind: "Secret"}
	secrets    = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
)

// tlsType is the type whose tls.crt and tls.key common controllers know.
const tlsType = "kubernetes.io/tls"

// Secret keeps the set of one client in a Secret of type kubernetes.io/tls with
// the five parts of a set.
//
// What the Secret should hold lies in a folder of the agent's state. The folder
// is written first, and the Secret follows it: so a crash between the two, an
// API server that is away, and a change by somebody else are all made up for
// in the same way, and without another certificate. The folder also holds the
// set of before, so that the way back needs no second Secret.
type Secret struct {
	object
	folder install.Folder
	key    fleet.ClientKey
}

// SecretOptions say which Secret.
type SecretOptions struct {
	Client    *Client
	Log       *slog.Logger
	Namespace string // that of the client, if empty
	Name      string
	Cluster   string
	Key       fleet.ClientKey
	Folder    install.Folder // in the agent's state
}

// SecretName returns the name of a client's Secret: no two clients have the
// same, for no client's name holds a '.'.
func SecretName(prefix string, key fleet.ClientKey) string {
	if key.Instance == "" {
		return prefix + key.Kind
	}
	return prefix + key.Kind + "." + key.Instance
}

// NewSecret returns the Secret of one client.
func NewSecret(o SecretOptions) *Secret {
	s := &Secret{folder: o.Folder, key: o.Key}
	s.object = object{
		client: o.Client, log: o.Log.With("client", o.Key.String()), kind: secretKind, resource: secrets,
		namespace: o.Namespace, name: o.Name, cluster: o.Cluster, owned: s.ours, taken: s.another,
	}
	return s
}

// ours reports whether a Secret that has lost its label holds a set that only
// this agent can have put there.
func (s *Secret) ours(u *unstructured.Unstructured) bool {
	m, err := install.ParseMetadata(decode(u)["metadata.json"])
	return err == nil && m.Cluster == s.cluster && m.Client == s.key
}

// another returns the client of this cluster whose set a Secret holds, if it is
// not ours: two that were given one name would overwrite each other for ever.
func (s *Secret) another(u *unstructured.Unstructured) string {
	m, err := install.ParseMetadata(decode(u)["metadata.json"])
	if err != nil || m.Cluster != s.cluster || m.Client == s.key {
		return ""
	}
	return m.Client.String()
}

// Read returns the set that the Secret holds or will hold. Only when nothing is
// known here, as after the agent's state was lost, the Secret itself is asked:
// what it holds is taken over.
func (s *Secret) Read(ctx context.Context) (install.Set, error) {
	set, err := s.folder.Read()
	if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, install.ErrDamaged) {
		return set, err
	}
	have, getErr := s.get(ctx)
	switch {
	case getErr != nil:
		return install.Set{}, getErr
	case have == nil:
		return install.Set{}, err
	}
	if err := s.check(have, content{kind: tlsType}); err != nil {
		return install.Set{}, err
	}
	if set, err = install.Parse(decode(have)); err != nil {
		return install.Set{}, fmt.Errorf("read %s: %w", s, err)
	}
	if set.Metadata.Cluster != s.cluster {
		return install.Set{}, fmt.Errorf("read %s: %w: it holds a set of cluster %s", s, install.ErrDamaged, set.Metadata.Cluster)
	}
	return set, s.folder.Install(set)
}

// Install makes s the set that readers see.
func (s *Secret) Install(ctx context.Context, set install.Set) error {
	if err := s.folder.Install(set); err != nil {
		return err
	}
	return s.push(ctx, set)
}

// Mend puts right what others have changed in the Secret.
func (s *Secret) Mend(ctx context.Context) error {
	set, err := s.folder.Read()
	if err != nil {
		return err
	}
	return s.push(ctx, set)
}

func (s *Secret) push(ctx context.Context, set install.Set) error {
	files, err := set.Files()
	if err != nil {
		return err
	}
	m := set.Metadata
	return s.keep(ctx, content{
		kind: tlsType, field: "data", parts: encode(files),
		// A whole set of another generation, or with another bundle, is one that the
		// Secret has yet to leave behind.
		foreign: func(have *unstructured.Unstructured) bool {
			s, err := install.Parse(decode(have))
			return err != nil || s.Metadata.Generation == m.Generation && s.Metadata.Bundle == m.Bundle
		},
		annotations: map[string]string{
			prefix + "client":        m.Client.String(),
			prefix + "generation":    strconv.Itoa(m.Generation),
			prefix + "serial":        m.Serial,
			prefix + "not-after":     m.NotAfter.UTC().Format(time.RFC3339),
			prefix + "token-expires": m.ExpiresAt.UTC().Format(time.RFC3339),
			prefix + "trust-bundle":  strconv.Itoa(m.Bundle),
		},
	})
}

// Previous returns the set that Back would return to.
func (s *Secret) Previous(context.Context) (install.Set, error) { return s.folder.Previous() }

// Back makes readers see the set of before instead of a generation.
func (s *Secret) Back(ctx context.Context, generation int) error {
	if err := s.folder.Back(generation); err != nil {
		return err
	}
	// Also when the folder had gone back already: the Secret may not have.
	return s.Mend(ctx)
}

// Prune forgets every set but the one that readers see.
func (s *Secret) Prune(context.Context) error { return s.folder.Prune() }

// Clean takes away what a crash has left behind.
func (s *Secret) Clean(context.Context) error { return s.folder.Clean() }
