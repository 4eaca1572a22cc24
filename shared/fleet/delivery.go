package fleet

import (
	"fmt"
	"regexp"
)

// Delivery says where an agent hosted by `rotor up` installs credentials. An
// empty Delivery means that the cluster runs an agent of its own.
type Delivery struct {
	Directory  string              `json:"directory,omitempty" doc:"folder, relative to the data folder"`
	Kubernetes *KubernetesDelivery `json:"kubernetes,omitempty" doc:"Secrets in a namespace, instead of a folder"`
}

// Hosted reports whether a hosted agent serves the cluster.
func (d Delivery) Hosted() bool { return d.Directory != "" || d.Kubernetes != nil }

// KubernetesDelivery says in which namespace of which Kubernetes cluster each
// client has a Secret.
type KubernetesDelivery struct {
	Kubeconfig   string `json:"kubeconfig,omitempty" doc:"file, relative to the data folder; the service account of the pod, if empty"`
	Context      string `json:"context,omitempty" doc:"context of the kubeconfig; its current one, if empty"`
	Namespace    string `json:"namespace" doc:"namespace of the Secrets"`
	SecretPrefix string `json:"secretPrefix,omitempty" doc:"begins the names of the Secrets; rotor-, if empty"`
}

// DefaultSecretPrefix begins the names of Secrets, unless another is chosen.
const DefaultSecretPrefix = "rotor-"

// secretPrefixRule leaves room for the longest name of a client: the name of a
// Secret is a DNS subdomain (RFC 1123) of at most 253 characters.
var secretPrefixRule = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9-])?$`)

// CheckSecretPrefix checks what is to begin the names of Secrets.
func CheckSecretPrefix(prefix string) error {
	if secretPrefixRule.MatchString(prefix) {
		return nil
	}
	return fmt.Errorf("%w: secretPrefix %q: use 1-63 lower-case letters, digits and '-', beginning with a letter or digit", ErrInvalid, prefix)
}
