// Package operate carries out what operators ask for: upgrades, rotations and
// join tokens.
package operate

import (
	"fmt"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// The effects of a reported upgrade.
const (
	EffectApplied = "applied"
	EffectRepeat  = "repeat"
	EffectOlder   = "older"
)

// Reported is all that decides about a reported upgrade.
type Reported struct {
	Cluster  fleet.Cluster
	Settings fleet.Settings
	Releases []fleet.Release
	Records  *fleet.Credentials
	Rotated  func(id string) bool // whether a rotation is on record
	Request  api.UpgradeRequest
	Now      time.Time
}

// Decide returns the answer to a report and the cluster as it shall be stored.
// Repeats and older reports have no effect; a moment in the future beyond the
// allowed skew, an unknown release and a step back are refused.
func (r Reported) Decide() (api.UpgradeReply, fleet.Cluster, error) {
	policy := fleet.PolicyOf(r.Settings, &r.Cluster)
	completed := r.Request.CompletedAt.UTC()
	if r.Request.CompletedAt.IsZero() {
		completed = r.Now.UTC().Truncate(time.Second)
	}
	release, ok := find(r.Releases, r.Request.Release)
	if !ok {
		return api.UpgradeReply{}, r.Cluster, fmt.Errorf("%w: release %q is not known: declare it in the fleet file, or use one of %s",
			fleet.ErrInvalid, r.Request.Release, versions(r.Releases))
	}
	if completed.After(r.Now.Add(policy.ClockSkew.Std())) {
		return api.UpgradeReply{}, r.Cluster, fmt.Errorf("%w: completedAt %s lies in the future: it is %s now",
			fleet.ErrInvalid, completed.Format(time.RFC3339), r.Now.UTC().Format(time.RFC3339))
	}
	effect, err := r.effect(release, completed)
	if err != nil {
		return api.UpgradeReply{}, r.Cluster, err
	}
	want := r.Cluster
	if effect == EffectApplied {
		want.Release, want.UpgradedAt = release.Version, completed
	}
	return r.reply(want, policy, effect), want, nil
}

func (r Reported) effect(release fleet.Release, completed time.Time) (string, error) {
	recorded := r.Cluster.UpgradedAt
	switch {
	case completed.Equal(recorded) && release.Version == r.Cluster.Release:
		return EffectRepeat, nil
	case completed.Equal(recorded) && !recorded.IsZero():
		return "", fmt.Errorf("%w: cluster %s: an upgrade to %s is recorded for the same moment", fleet.ErrConflict, r.Cluster.Name, r.Cluster.Release)
	case completed.Before(recorded):
		return EffectOlder, nil
	}
	if current, ok := find(r.Releases, r.Cluster.Release); ok && release.PublishedAt.Before(current.PublishedAt) {
		return "", fmt.Errorf("%w: cluster %s runs %s, which is newer than %s: an upgrade does not go back",
			fleet.ErrInvalid, r.Cluster.Name, current.Version, release.Version)
	}
	return EffectApplied, nil
}

// reply says what follows. The validity of each client counts from the moment
// of completion, or from now where the renewal drawn from that is already past.
func (r Reported) reply(c fleet.Cluster, policy fleet.Policy, effect string) api.UpgradeReply {
	life := min(policy.CertificateLife.Std(), policy.TokenLife.Std())
	reply := api.UpgradeReply{
		Cluster: c.Name, Release: c.Release, CompletedAt: c.UpgradedAt, Effect: effect,
		Window: fleet.WindowOf(&c, r.Releases, policy, r.Now),
	}
	if id := event.UpgradeRotationID(c.Name, c.Release, c.UpgradedAt); effect == EffectApplied || r.follows(id) {
		reply.Rotation = id
	}
	reply.ValidUntil = c.UpgradedAt.Add(life)
	late, keys := 0, c.ClientKeys()
	for _, key := range keys {
		drawn := fleet.DrawRenewal(c.Name, key, r.Records.Record(key).Number()+1, policy, c.UpgradedAt, c.UpgradedAt.Add(life))
		if !drawn.After(r.Now) {
			late++
		}
	}
	reply.DueNow = late > 0
	if late == len(keys) && late > 0 {
		reply.ValidUntil = r.Now.UTC().Truncate(time.Second).Add(life)
	}
	reply.Message = message(reply, c)
	return reply
}

// follows reports whether an upgrade that was recorded before has a rotation, or
// will have one when the scheduler sees it. A cluster that was declared with its
// release was not upgraded under Rotor's eyes: nobody should wait for a rotation.
func (r Reported) follows(id string) bool {
	if r.Rotated(id) {
		return true
	}
	for _, key := range r.Cluster.ClientKeys() {
		if g := r.Records.Record(key).Newest(); g != nil && g.At.Before(r.Cluster.UpgradedAt) {
			return true
		}
	}
	return false
}

func message(reply api.UpgradeReply, c fleet.Cluster) string {
	date := reply.CompletedAt.Format(time.RFC3339)
	switch {
	case reply.Effect == EffectRepeat:
		return fmt.Sprintf("the upgrade of %s to %s at %s was recorded before; nothing changes", c.Name, c.Release, date)
	case reply.Effect == EffectOlder:
		return fmt.Sprintf("an upgrade of %s to %s at %s is recorded, after the one reported; nothing changes", c.Name, c.Release, date)
	case reply.DueNow:
		return fmt.Sprintf("the upgrade of %s to %s was completed so long ago (%s) that its clients are due now; their validity counts from now, at least until %s",
			c.Name, c.Release, date, reply.ValidUntil.Format(time.RFC3339))
	default:
		return fmt.Sprintf("%s runs %s since %s; its clients become valid until %s at least",
			c.Name, c.Release, date, reply.ValidUntil.Format(time.RFC3339))
	}
}

func find(releases []fleet.Release, version string) (fleet.Release, bool) {
	for _, r := range releases {
		if r.Version == version {
			return r, true
		}
	}
	return fleet.Release{}, false
}

func versions(releases []fleet.Release) string {
	names := make([]string, len(releases))
	for i, r := range releases {
		names[i] = r.Version
	}
	return strings.Join(names, ", ")
}
