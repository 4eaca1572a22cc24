package agents

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// steps takes an agent's report: reached steps become facts, failures are kept
// where operators see them. Reports are repeated; what is known has no effect.
func (s *Service) steps(ctx context.Context, c *caller, in api.ReportSteps) error {
	id, cluster, err := s.who(ctx, c)
	if err != nil {
		return err
	}
	declared, err := s.State.Cluster(cluster)
	if err != nil {
		return err
	}
	for _, r := range in.Steps {
		if !slices.Contains(declared.ClientKeys(), r.Client) {
			return fmt.Errorf("%w: cluster %s has no client %s", fleet.ErrInvalid, cluster, r.Client)
		}
	}
	records, err := s.records(ctx, cluster)
	if err != nil {
		return err
	}
	in.Steps = slices.DeleteFunc(in.Steps, func(r api.StepReport) bool {
		record := records.Record(r.Client)
		if r.Error != "" && record.Newest() == nil {
			return false // it cannot even ask for the first
		}
		g := record.Find(r.Generation)
		return g == nil || g.Agent != id // forgotten since, or of another agent
	})
	for _, step := range []struct {
		name fleet.Step
		kind event.Kind[event.Credentials]
	}{{fleet.StepDelivered, event.CredentialDelivered}, {fleet.StepInstalled, event.CredentialInstalled}} {
		if reached := reached(in.Steps, records, step.name); len(reached) > 0 {
			if err := tell(ctx, s, step.kind, cluster, reached); err != nil {
				return err
			}
		}
	}
	authority, _ := s.State.TheAuthority()
	return s.edit(ctx, cluster, id, func(a *fleet.Agent) error {
		changed := note(a, in.Steps, s.Clock.Now().Truncate(time.Second))
		if noteBundle(a, in.BundleError, s.Clock.Now().Truncate(time.Second)) {
			changed = true
		}
		changed = refused(a, in.Refused, s.Clock.Now().Truncate(time.Millisecond)) || changed
		changed = noteTrust(a, &authority, in, s.Clock.Now().Truncate(time.Second)) || changed
		if !changed {
			return kv.Keep
		}
		return nil
	})
}

// reached returns the clients whose generation has newly reached a step. A proof
// is not reported: it is seen.
func reached(reports []api.StepReport, records *fleet.Credentials, step fleet.Step) []event.Client {
	var clients []event.Client
	for _, r := range reports {
		g := records.Record(r.Client).Find(r.Generation)
		if r.Error != "" || r.Step != step || g == nil || !g.Step.Before(step) {
			continue
		}
		if slices.ContainsFunc(clients, func(c event.Client) bool { return c.Client == r.Client }) {
			continue
		}
		clients = append(clients, described(r.Client, g))
	}
	return clients
}

// maxError bounds what an agent can say about a failure.
const maxError = 500

// noteBundle keeps why the newest trust bundle is not loaded, or forgets it.
func noteBundle(a *fleet.Agent, text string, now time.Time) (changed bool) {
	have := a.BundleFailure
	if text == "" {
		a.BundleFailure = nil
		return have != nil
	}
	failure := fleet.BundleFailure{Error: cut(text, maxError), Since: now}
	if have != nil {
		failure.Since = have.Since
	}
	a.BundleFailure = &failure
	return have == nil || *have != failure
}

// note keeps what failed and forgets what has since been reached.
func note(a *fleet.Agent, reports []api.StepReport, now time.Time) (changed bool) {
	for _, r := range reports {
		have, ok := a.Failures[r.Client]
		if r.Error == "" {
			if ok && (r.Generation > have.Generation || r.Generation == have.Generation && !r.Step.Before(have.Step)) {
				delete(a.Failures, r.Client)
				changed = true
			}
			continue
		}
		failure := fleet.StepFailure{Generation: r.Generation, Step: r.Step, Error: cut(r.Error, maxError), Since: now}
		if ok && have.Generation == r.Generation && have.Step == r.Step {
			failure.Since = have.Since
		}
		if failure == have {
			continue
		}
		if a.Failures == nil {
			a.Failures = map[fleet.ClientKey]fleet.StepFailure{}
		}
		a.Failures[r.Client], changed = failure, true
	}
	return changed
}
