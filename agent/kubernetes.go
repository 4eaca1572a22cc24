package agent

import (
	"cmp"
	"path/filepath"

	"github.com/rotor-fleet/rotor/agent/internal/config"
	"github.com/rotor-fleet/rotor/agent/internal/install"
	"github.com/rotor-fleet/rotor/agent/internal/kube"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// InKubernetes returns settings that install every client in a Secret.
func InKubernetes(d fleet.KubernetesDelivery) Settings {
	return Settings{
		Kubernetes: config.Connection{Kubeconfig: d.Kubeconfig, Context: d.Context, Namespace: d.Namespace, SecretPrefix: d.SecretPrefix},
		Clients:    config.Clients{Default: config.Entry{Kubernetes: &config.Kubernetes{}}},
	}
}

// connectKubernetes returns the client of the API server that the settings
// name. It connects when it is first used.
func connectKubernetes(c config.Connection) *kube.Client {
	return kube.New(kube.Options{Kubeconfig: c.Kubeconfig, Context: c.Context, Namespace: c.Namespace})
}

// secret returns the Secret of a client.
func (a *agent) secret(key fleet.ClientKey, k config.Kubernetes) target {
	prefix := cmp.Or(a.config.Settings.Kubernetes.SecretPrefix, fleet.DefaultSecretPrefix)
	folder := filepath.Join(a.config.StateDir, secretsFolder, filepath.FromSlash(key.String()))
	return kube.NewSecret(kube.SecretOptions{
		Client: a.kube, Log: a.env.Log, Namespace: k.Namespace, Name: cmp.Or(k.Secret, kube.SecretName(prefix, key)),
		Cluster: a.config.Cluster, Key: key, Folder: install.Folder{Path: folder, Ops: a.ops},
	})
}

// secretsFolder holds, in the agent's state, what the Secrets should hold.
const secretsFolder = "secrets"
