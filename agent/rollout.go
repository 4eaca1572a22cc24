package agent

import (
	"cmp"
	"context"

	"github.com/rotor-fleet/rotor/agent/internal/config"
	"github.com/rotor-fleet/rotor/agent/internal/install"
	"github.com/rotor-fleet/rotor/agent/internal/kube"
)

// rollout restarts the workloads of a client, all of them, then waits until each
// runs with what was installed.
func (a *agent) rollout(ctx context.Context, how config.Client, m install.Metadata) error {
	namespace := ""
	if how.Kubernetes != nil {
		namespace = how.Kubernetes.Namespace
	}
	var workloads []kube.Workload
	for _, w := range how.Reload.Rollout {
		workloads = append(workloads, kube.Workload{
			Client: a.kube, Namespace: cmp.Or(w.Namespace, namespace), Name: kube.WorkloadName{Kind: kube.WorkloadKind(w.Kind), Name: w.Name},
		})
	}
	for _, w := range workloads {
		if err := w.Restart(ctx, m.InstalledAt); err != nil {
			return err
		}
	}
	for _, w := range workloads {
		if err := w.Wait(ctx); err != nil {
			return err
		}
	}
	return nil
}
