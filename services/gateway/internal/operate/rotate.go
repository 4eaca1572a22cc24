package operate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/rotor-fleet/rotor/services/gateway/internal/ledger"
	"github.com/rotor-fleet/rotor/services/gateway/internal/view"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// maxClusters bounds one rotation, so that its command stays a message.
const maxClusters = 20_000

// planned is how long the answer waits for the scheduler to plan.
const planned = 2 * time.Second

// Rotate asks the scheduler for a rotation. With a key, a repeat returns the
// rotation that the first has made.
func (o *Operator) Rotate(ctx context.Context, request api.RotateRequest, key string) (api.RotationView, error) {
	o.State.Declared.Fresh(ctx)
	clusters, err := o.resolve(request)
	if err != nil {
		return api.RotationView{}, err
	}
	rotation := fleet.Rotation{
		ID: uuid.NewString(), Reason: fleet.ReasonRotation, State: fleet.RotationAccepted, Force: request.Force,
		Clusters: clusters, Clients: request.Clients, By: "admin", CreatedAt: o.Clock.Now(),
	}
	waves := request.Waves()
	if waves != nil {
		if err := o.inWaves(ctx, &rotation, waves); err != nil {
			return api.RotationView{}, err
		}
	}
	if key != "" {
		rotation.ID = event.ID("rotation", key)
		have, err := o.Rotation(ctx, rotation.ID)
		if err == nil {
			return have, sameRequest(have.Rotation, rotation)
		}
		if !errors.Is(err, fleet.ErrNotFound) {
			return api.RotationView{}, err
		}
	}
	if request.DryRun {
		return o.preview(ctx, rotation)
	}
	if err := o.writeDown(ctx, rotation); err != nil {
		return api.RotationView{}, err
	}
	return o.begin(ctx, rotation, waves)
}

// inWaves plans a rotation in waves, and chooses the canary if none is named.
func (o *Operator) inWaves(ctx context.Context, r *fleet.Rotation, waves *fleet.WaveOptions) error {
	if err := waves.Validate(); err != nil {
		return err
	}
	if waves.Canary == "" {
		o.State.Credentials.Fresh(ctx)
		o.State.Agents.Fresh(ctx)
		var clusters []fleet.Cluster
		for _, name := range r.Clusters {
			c, err := o.State.Cluster(name)
			if err != nil {
				return err
			}
			clusters = append(clusters, c)
		}
		fleet.CanaryOrder(clusters)
		heard := time.Duration(float64(fleet.AgentHeard) * o.Clock.Rate())
		var err error
		waves.Canary, err = fleet.ChooseCanary(r, clusters, func(c *fleet.Cluster) (fleet.Candidate, error) {
			v, err := o.Cluster(c.Name)
			return fleet.Candidate{Cluster: c, Records: v.Records, Agent: v.Agent, Heard: heard, Now: r.CreatedAt}, err
		})
		if err != nil {
			return err
		}
	}
	if !slices.Contains(r.Clusters, waves.Canary) {
		return fmt.Errorf("%w: canary %q: it is none of the clusters that are rotated, %s", fleet.ErrInvalid, waves.Canary, ledger.Names(r.Clusters))
	}
	r.Clusters, r.Waves = waves.Plan(r.Clusters)
	return nil
}

// writeDown puts a rotation into the ledger, by its id: the same rotation makes
// no second entry.
func (o *Operator) writeDown(ctx context.Context, r fleet.Rotation) error {
	e := audit.Entry{Action: "cluster.rotate", Request: "rotation " + r.ID, Details: map[string]string{"rotation": r.ID}}
	if r.Reason == fleet.ReasonRecovery {
		e.Action = "cluster.recover"
	}
	if r.Force {
		e.Details["force"] = "true"
	}
	if r.Waves != nil {
		e.Details["canary"], e.Details["maxFailures"] = r.Clusters[0], string(r.Waves.MaxFailures)
		e.Details["maxParallel"] = strconv.Itoa(r.Waves.MaxParallel)
		if r.Waves.IgnoreMaintenance {
			e.Details["ignoreMaintenance"] = "true"
		}
	}
	if len(r.Clusters) == 1 {
		e.Cluster = r.Clusters[0]
	} else {
		e.Details["clusters"] = ledger.Names(r.Clusters)
	}
	if len(r.Clients) == 1 {
		e.Client = r.Clients[0].String()
	} else if len(r.Clients) > 1 {
		names := make([]string, len(r.Clients))
		for i, key := range r.Clients {
			names[i] = key.String()
		}
		e.Details["clients"] = ledger.Names(names)
	}
	return ledger.Record(ctx, o.Ledger, e)
}

// begin asks the scheduler for a rotation, and waits a moment for its plan.
func (o *Operator) begin(ctx context.Context, rotation fleet.Rotation, waves *fleet.WaveOptions) (api.RotationView, error) {
	token := event.FleetWide
	if len(rotation.Clusters) == 1 {
		token = rotation.Clusters[0]
	}
	m := event.Meta{Source: "gateway", Cluster: token, Key: []string{rotation.ID}, Time: rotation.CreatedAt}
	if err := bus.Publish(ctx, o.Bus, event.Rotate, m, event.RotateCommand{
		Rotation: rotation.ID, Clusters: rotation.Clusters, Clients: rotation.Clients,
		Force: rotation.Force, Reason: rotation.Reason, By: rotation.By, Waves: waves,
	}); err != nil {
		return api.RotationView{}, err
	}
	o.State.Rotations.Until(ctx, planned, func() bool {
		_, ok := o.State.Rotations.Get(rotation.ID)
		return ok
	})
	have, err := o.Rotation(ctx, rotation.ID)
	if errors.Is(err, fleet.ErrNotFound) {
		return api.RotationView{Rotation: rotation, Results: []fleet.ClusterRotation{}}, nil
	}
	return have, err
}

func sameRequest(have, want fleet.Rotation) error {
	same := have.Force == want.Force && (have.Waves == nil) == (want.Waves == nil) &&
		slices.Equal(slices.Sorted(slices.Values(have.Clusters)), slices.Sorted(slices.Values(want.Clusters)))
	if same {
		return nil
	}
	return fmt.Errorf("%w: the idempotency key was used for another rotation, %s", fleet.ErrConflict, have.ID)
}

// resolve returns the clusters that are meant, in their order.
func (o *Operator) resolve(r api.RotateRequest) ([]string, error) {
	ways := 0
	for _, given := range []bool{len(r.Clusters) > 0, r.All, len(r.Selector) > 0} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return nil, fmt.Errorf("%w: name clusters, or all, or a selector: one of the three", fleet.ErrInvalid)
	}
	var meant []fleet.Cluster
	for _, name := range slices.Compact(slices.Sorted(slices.Values(r.Clusters))) {
		c, err := o.State.Cluster(name)
		if err != nil {
			return nil, err
		}
		meant = append(meant, c)
	}
	if len(r.Clusters) == 0 {
		for _, e := range o.State.Declared.All() {
			if e.Key != fleet.SettingsKey && e.Value.Matches(r.Selector) {
				meant = append(meant, e.Value.Cluster)
			}
		}
	}
	switch {
	case len(meant) == 0 && r.All:
		return nil, fmt.Errorf("%w: there is no cluster", fleet.ErrInvalid)
	case len(meant) == 0:
		return nil, fmt.Errorf("%w: no cluster carries the labels %s", fleet.ErrInvalid, labels(r.Selector))
	case len(meant) > maxClusters:
		return nil, fmt.Errorf("%w: %d clusters at once, the limit is %d: rotate them in parts", fleet.ErrInvalid, len(meant), maxClusters)
	}
	if err := checkClients(meant, r.Clients); err != nil {
		return nil, err
	}
	names := make([]string, len(meant))
	for i, c := range meant {
		names[i] = c.Name
	}
	slices.Sort(names)
	return names, nil
}

// checkClients demands that each client exists in one of the clusters at least.
func checkClients(clusters []fleet.Cluster, clients []fleet.ClientKey) error {
	for _, named := range clients {
		if !slices.ContainsFunc(clusters, func(c fleet.Cluster) bool {
			return slices.ContainsFunc(c.ClientKeys(), func(key fleet.ClientKey) bool { return view.Selects(named, key) })
		}) {
			return fmt.Errorf("client %s: %w in the clusters named; %s has %s", named, fleet.ErrNotFound, clusters[0].Name, keys(clusters[0]))
		}
	}
	return nil
}

func keys(c fleet.Cluster) string {
	var names []string
	for _, key := range c.ClientKeys() {
		names = append(names, key.String())
	}
	return strings.Join(names, ", ")
}

func labels(m map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, k+"="+m[k])
	}
	return strings.Join(parts, ",")
}

func (o *Operator) preview(ctx context.Context, r fleet.Rotation) (api.RotationView, error) {
	o.State.Credentials.Fresh(ctx)
	v := api.RotationView{Rotation: r, Results: []fleet.ClusterRotation{}, DryRun: true}
	for _, name := range r.Clusters {
		c, err := o.Cluster(name)
		if err != nil {
			return v, err
		}
		result := c.Rotate(r)
		v.Total += len(result.Clients)
		v.Results = append(v.Results, result)
	}
	if r.Waves != nil {
		v.Progress = view.Waves(r, nil) // nothing has begun
	}
	return v, nil
}

// Rotation returns a rotation as it stands, or fleet.ErrNotFound.
func (o *Operator) Rotation(ctx context.Context, id string) (api.RotationView, error) {
	if uuid.Validate(id) != nil {
		return api.RotationView{}, fmt.Errorf("rotation %q: %w", id, fleet.ErrNotFound)
	}
	e, err := o.State.Rotations.Bucket.Get(ctx, id)
	switch {
	case errors.Is(err, fleet.ErrNotFound):
		return api.RotationView{}, fmt.Errorf("rotation %q: %w", id, fleet.ErrNotFound)
	case err != nil:
		return api.RotationView{}, err
	}
	v := api.RotationView{Results: []fleet.ClusterRotation{}}
	if err := json.Unmarshal(e.Value, &v.Rotation); err != nil {
		return v, fmt.Errorf("rotation %s: %w", id, err)
	}
	// The clusters were written before the rotation that was just read.
	o.State.Rotations.Await(ctx, e.Revision)
	for _, name := range v.Clusters {
		part, ok := o.State.Rotations.Get(id + "." + name)
		if !ok {
			continue // not planned yet
		}
		var result fleet.ClusterRotation
		if err := json.Unmarshal(part.Value, &result); err != nil {
			return v, fmt.Errorf("rotation %s: cluster %s: %w", id, name, err)
		}
		v.Results = append(v.Results, result)
	}
	v.Progress = view.Waves(v.Rotation, v.Results)
	return v, nil
}

// Rotations returns every rotation that is kept, newest first, without results.
func (o *Operator) Rotations(ctx context.Context) []fleet.Rotation {
	o.State.Rotations.Fresh(ctx)
	all := []fleet.Rotation{}
	for _, e := range o.State.Rotations.All() {
		if strings.Contains(e.Key, ".") || fleet.IsRollout(e.Key) {
			continue
		}
		var r fleet.Rotation
		if err := json.Unmarshal(e.Value, &r); err == nil {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b fleet.Rotation) int {
		if c := b.CreatedAt.Compare(a.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all
}
