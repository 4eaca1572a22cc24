package agents

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// maxWait bounds a long poll: proxies cut connections that are silent for a
// minute.
const maxWait = 55 * time.Second

// poll answers with the work of the agent's cluster as soon as it differs from
// what the agent has seen.
func (s *Service) poll(ctx context.Context, in *struct {
	caller
	After string `query:"after" maxLength:"100" doc:"tag of the work seen last; empty for an answer at once"`
	Wait  string `query:"wait" maxLength:"20" doc:"how long to wait for a change, such as 25s; at most 55s"`

	Instance string    `query:"instance" maxLength:"64" doc:"random name of the calling process, made at its start"`
	Starts   int       `query:"starts" minimum:"0" doc:"how often the agent was started, as it counts; 0 if it cannot"`
	Now      time.Time `query:"now" doc:"time on the clock of the agent"`
},
) (*reply[api.Work], error) {
	id, cluster, err := s.who(ctx, &in.caller)
	if err != nil {
		return nil, err
	}
	wait, err := parseWait(in.Wait)
	if err != nil {
		return nil, err
	}
	s.touch(ctx, cluster, id, api.Caller{Heard: fleet.Heard{Instance: in.Instance, Starts: in.Starts}, Now: in.Now})
	s.Waiting.Inc()
	defer s.Waiting.Dec()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for last := false; ; {
		changed := s.State.Work.Wait(cluster)
		if now, ok := s.State.Index.Cluster(id); !ok || now != cluster {
			if _, ok := s.State.Index.Replaced(id); ok {
				return nil, s.replaced(ctx, cluster, id)
			}
			return nil, unauthorized("the cluster of this agent was removed")
		}
		work, err := s.work(ctx, cluster, id)
		if err != nil {
			return nil, err
		}
		if last || work.Tag != in.After {
			return &reply[api.Work]{work}, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			last = true
		case <-s.Stop:
			last = true
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func parseWait(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	wait, err := time.ParseDuration(text)
	if err != nil || wait < 0 {
		return 0, fmt.Errorf("%w: wait %q: write a duration such as 25s", fleet.ErrInvalid, text)
	}
	return min(wait, maxWait), nil
}

// work collects what there is to do for a cluster.
func (s *Service) work(ctx context.Context, cluster, id string) (api.Work, error) {
	declared, err := s.State.Cluster(cluster)
	if err != nil {
		return api.Work{}, err
	}
	in := todo{cluster: declared, records: s.State.Records(cluster), agent: s.State.Agent(cluster), id: id, now: s.Clock.Now()}
	in.policy = fleet.PolicyOf(s.State.FleetSettings(), &declared)
	if in.flying() {
		e, err := s.State.Bundles.Get(ctx, cluster)
		if err != nil && !errors.Is(err, fleet.ErrNotFound) {
			return api.Work{}, err
		}
		in.bundles = e.Value
	}
	authority, _ := s.State.TheAuthority()
	work := in.work(authority)
	work.Now = in.now
	return work, nil
}

// todo is all that decides about the work of a cluster's agent.
type todo struct {
	cluster fleet.Cluster
	records *fleet.Credentials
	agent   *fleet.Agent
	bundles fleet.Bundles
	id      string
	policy  fleet.Policy
	now     time.Time
}

// held reports whether what waits for a client is kept from its agent: a client
// that is revoked gets nothing, and one that only an operator may let back does
// not get what was issued before it was locked out. What has expired is of no
// use to anybody, and shows the agent that it needs the next generation.
func (t todo) held(key fleet.ClientKey, record *fleet.Record, g *fleet.Generation) bool {
	if record.Revoked != nil || g.Revoked != nil {
		return true
	}
	lockout, _ := fleet.LockoutOf(record, key, t.agent, t.policy, t.now)
	return lockout.Bar != "" && t.now.Before(g.Expiry())
}

// flying reports whether a generation waits to be picked up or proven.
func (t todo) flying() bool {
	for _, key := range t.cluster.ClientKeys() {
		if g := t.records.Record(key).Newest(); g != nil && g.Step.Before(fleet.StepProven) {
			return true
		}
	}
	return false
}

func (t todo) work(authority fleet.Authority) api.Work {
	w := api.Work{Cluster: t.cluster.Name, Bundle: authority.Bundle.Version, Restore: authority.Epoch, Clients: []api.ClientWork{}}
	for _, key := range t.cluster.ClientKeys() {
		c := api.ClientWork{Client: key}
		if t.agent != nil && t.agent.ID == t.id {
			c.Request = t.agent.Requests[key].Generation
		}
		record := t.records.Record(key)
		if g := record.Newest(); g != nil {
			c.Generation, c.Step, c.Barred, c.Program = g.Number, g.Step, g.Revoked != nil, g.ByProgram()
			// A pick-up is handed to the one agent that can open it only.
			pickup, ok := t.bundles.Clients[key]
			if ok && g.Step.Before(fleet.StepProven) && pickup.Generation == g.Number && pickup.Agent == t.id && !t.held(key, record, g) {
				c.Pickup = &pickup
			}
		}
		if record != nil && record.Revoked != nil {
			c.Revoked = record.Revoked
		}
		if record.Number() > c.Generation {
			c.Next = record.Number() + 1
		}
		w.Clients = append(w.Clients, c)
	}
	if ca := authority.IncomingCA(); ca != nil {
		w.Canary, w.Trust = ca.ID, t.noted(ca.ID)
	}
	w.Tag = tag(w)
	if t.agent != nil && t.agent.ID == t.id {
		w.Starts = t.agent.Life.Starts
	}
	return w
}

// noted returns what is on record of the agent's trust in a CA that is to come.
func (t todo) noted(ca string) *api.TrustNoted {
	noted := &api.TrustNoted{}
	if a := t.agent; a != nil && a.ID == t.id {
		noted.Bundle, noted.Hash = a.Bundle, a.BundleHash
		if p := a.Canary; p != nil && p.CA == ca && p.Error == "" {
			noted.CA = ca
		}
	}
	return noted
}

// tag names the content of work, all but the moment.
func tag(w api.Work) string {
	w.Tag, w.Now = "", time.Time{}
	raw, err := json.Marshal(w)
	if err != nil {
		return "" // the types that are hashed always marshal
	}
	sum := sha256.Sum256(raw)
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}
