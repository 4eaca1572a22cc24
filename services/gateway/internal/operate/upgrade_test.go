package operate

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func TestUpgradeRules(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	recorded := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	releases := []fleet.Release{
		{Version: "2026.07", PublishedAt: now.AddDate(0, -4, 0)},
		{Version: "2026.08", PublishedAt: now.AddDate(0, -3, 0)},
		{Version: "2026.09", PublishedAt: now.AddDate(0, -2, 0)},
	}
	life := 90 * fleet.Day
	for name, test := range map[string]struct {
		release string
		at      time.Time
		effect  string
		kind    error
		due     bool
		until   time.Time
	}{
		"newer":               {"2026.09", now.Add(-time.Hour), EffectApplied, nil, false, now.Add(-time.Hour).Add(life)},
		"now, if absent":      {"2026.09", time.Time{}, EffectApplied, nil, false, now.Add(life)},
		"same, absent":        {"2026.08", time.Time{}, EffectApplied, nil, false, now.Add(life)},
		"repeat":              {"2026.08", recorded, EffectRepeat, nil, false, recorded.Add(life)},
		"older":               {"2026.09", recorded.Add(-time.Second), EffectOlder, nil, false, recorded.Add(life)},
		"older and backwards": {"2026.07", recorded.Add(-time.Second), EffectOlder, nil, false, recorded.Add(life)},
		"same moment":         {"2026.09", recorded, "", fleet.ErrConflict, false, time.Time{}},
		"backwards":           {"2026.07", now.Add(-time.Hour), "", fleet.ErrInvalid, false, time.Time{}},
		"unknown release":     {"2031.01", now, "", fleet.ErrInvalid, false, time.Time{}},
		"within the skew":     {"2026.09", now.Add(5 * time.Minute), EffectApplied, nil, false, now.Add(5 * time.Minute).Add(life)},
		"beyond the skew":     {"2026.09", now.Add(5*time.Minute + time.Second), "", fleet.ErrInvalid, false, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := fleet.Cluster{Name: "edge-01", Kind: fleet.Workload, Release: "2026.08", UpgradedAt: recorded}
			reply, want, err := Reported{
				Cluster: cluster, Releases: releases, Request: api.UpgradeRequest{Release: test.release, CompletedAt: test.at}, Now: now,
				Rotated: func(string) bool { return false },
			}.Decide()
			if !errors.Is(err, test.kind) || reply.Effect != test.effect {
				t.Fatalf("%q, %v", reply.Effect, err)
			}
			if test.kind != nil {
				return
			}
			if !reply.ValidUntil.Equal(test.until) || reply.DueNow != test.due || reply.Message == "" {
				t.Errorf("%+v", reply)
			}
			if changed := want.UpgradedAt != recorded; changed != (test.effect == EffectApplied) {
				t.Errorf("stored %+v", want)
			}
		})
	}
}

// Completed long ago is due now, and the answer says so.
func TestUpgradeOfLongAgoIsDueNow(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	cluster := fleet.Cluster{Name: "edge-01", Kind: fleet.Workload}
	releases := []fleet.Release{{Version: "2026.07", PublishedAt: now.AddDate(0, -6, 0)}}
	reply, _, err := Reported{
		Cluster: cluster, Releases: releases, Now: now,
		Request: api.UpgradeRequest{Release: "2026.07", CompletedAt: now.AddDate(0, -5, 0)},
	}.Decide()
	if err != nil || !reply.DueNow || !reply.ValidUntil.Equal(now.Add(90*fleet.Day)) || !strings.Contains(reply.Message, "due now") {
		t.Errorf("%+v, %v", reply, err)
	}
}

// An answer names a rotation only if there is one to wait for: a cluster that was
// declared with its release has none, however often that is reported.
func TestAnUpgradeOfBeforeNamesNoRotationThatNeverWas(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	completed := now.Add(-30 * fleet.Day)
	kms := fleet.ClientKey{Kind: "kms"}
	cluster := fleet.Cluster{Name: "edge-01", Kind: fleet.Workload, Release: "2026.08", UpgradedAt: completed, Clients: []fleet.ClientKey{kms}}
	for name, test := range map[string]struct {
		at     time.Time // of the report
		issued time.Time // when the newest generation was issued, zero for none
		stored bool      // a rotation is on record
		named  bool
	}{
		"declared, enrolled since": {at: completed, issued: now.Add(-time.Hour)},
		"declared, never enrolled": {at: completed},
		"older than declared":      {at: completed.Add(-fleet.Day), issued: now.Add(-time.Hour)},
		"about to be planned":      {at: completed, issued: completed.Add(-time.Second), named: true},
		"rotated":                  {at: completed, issued: now.Add(-time.Hour), stored: true, named: true},
		"new":                      {at: now, issued: now.Add(-time.Hour), named: true},
	} {
		t.Run(name, func(t *testing.T) {
			records := &fleet.Credentials{}
			if !test.issued.IsZero() {
				records.Clients = map[fleet.ClientKey]*fleet.Record{kms: {Generations: []fleet.Generation{{Number: 1, At: test.issued}}}}
			}
			reply, _, err := Reported{
				Cluster: cluster, Records: records, Now: now, Releases: []fleet.Release{{Version: "2026.08", PublishedAt: completed.Add(-fleet.Day)}},
				Request: api.UpgradeRequest{Release: "2026.08", CompletedAt: test.at}, Rotated: func(string) bool { return test.stored },
			}.Decide()
			if err != nil || (reply.Rotation != "") != test.named {
				t.Errorf("%+v, %v", reply, err)
			}
		})
	}
}
