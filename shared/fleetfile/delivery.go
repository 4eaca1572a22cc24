package fleetfile

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/strictyaml"
)

// delivery reads where a hosted agent installs: in a folder or in Secrets.
func (r *reader) delivery(n node, d *declared) fleet.Delivery {
	var out fleet.Delivery
	f := r.Mapping(n, "delivery", "directory", "kubernetes")
	if directory, ok := f["directory"]; ok {
		out.Directory, d.directoryAt = r.folder(directory, "directory"), directory.Place
	}
	if secrets, ok := f["kubernetes"]; ok {
		out.Kubernetes, d.secretsAt = r.kubernetes(secrets), secrets.Place
		if len(f) > 1 {
			r.Fail(secrets.Place, "delivery has a directory and kubernetes: choose one")
		}
	}
	d.secrets = out.Kubernetes
	return out
}

// objectName is the form of a namespace (RFC 1123, label).
var objectName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func (r *reader) kubernetes(n node) *fleet.KubernetesDelivery {
	f := r.Mapping(n, "kubernetes", "kubeconfig", "context", "namespace", "secretPrefix")
	if f == nil {
		return nil
	}
	var k fleet.KubernetesDelivery
	if file, ok := f["kubeconfig"]; ok {
		k.Kubeconfig = r.folder(file, "kubeconfig")
	}
	k.Context, _ = r.optional(f, "context")
	if namespace, ok := r.Required(n, f, "namespace", "the namespace of the Secrets, such as kube-system"); ok {
		k.Namespace = namespace.Text
		if !objectName.MatchString(k.Namespace) {
			r.Fail(namespace.Place, "namespace %q: use 1-63 lower-case letters, digits and '-', as Kubernetes does", strictyaml.Clip(k.Namespace))
		}
	}
	if prefix, ok := f["secretPrefix"]; ok {
		if text, ok := r.Text(prefix, "secretPrefix"); ok {
			k.SecretPrefix = text
			if err := fleet.CheckSecretPrefix(text); err != nil {
				r.Reject(prefix.Place, err)
			}
		}
	}
	return &k
}

// checkSecrets makes sure that no two agents write the same Secrets.
func (r *reader) checkSecrets() {
	first := map[fleet.KubernetesDelivery]string{}
	for _, name := range r.order {
		d := r.clusters[name]
		if d.secrets == nil {
			continue
		}
		key := *d.secrets
		if key.SecretPrefix == "" {
			key.SecretPrefix = fleet.DefaultSecretPrefix
		}
		if other, taken := first[key]; taken {
			r.Fail(d.secretsAt, "clusters %s and %s would write the same Secrets: give one of them another namespace or secretPrefix", other, name)
			continue
		}
		first[key] = name
	}
}

// folder reads the path of a delivery folder or of a file beside it. Whoever
// writes the fleet file must not reach out of the folder that the operator of
// the process meant.
func (r *reader) folder(n node, key string) string {
	text, ok := r.Text(n, key)
	if !ok {
		return ""
	}
	clean := path.Clean(text)
	switch {
	case slices.Contains(strings.Split(strings.ReplaceAll(text, "\\", "/"), "/"), ".."):
		r.Fail(n.Place, "%s %q: must not contain \"..\"", key, strictyaml.Clip(text))
	case clean == "." || clean == "/":
		r.Fail(n.Place, "%s %q: name a folder of its own, such as clusters/edge-01", key, strictyaml.Clip(text))
	case strings.HasPrefix(text, "~"):
		r.Fail(n.Place, "%s %q: write the whole path, '~' is not expanded", key, strictyaml.Clip(text))
	}
	return text
}
