package agents

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

var declared = fleet.Cluster{Name: "edge-01", Kind: fleet.Workload}

// Whatever an agent sends as requests: nothing unchecked gets on file, and no
// request that waits changes.
func FuzzRequests(f *testing.F) {
	f.Add([]byte(`{"requests":[{"client":"kms","generation":1,"csr":"MIIB"}]}`))
	f.Add([]byte(`{"requests":[{"client":"csi","generation":-1,"lost":true}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var in api.FileRequests
		if json.Unmarshal(raw, &in) != nil {
			return
		}
		kms := fleet.ClientKey{Kind: "kms"}
		a := fleet.Agent{Requests: map[fleet.ClientKey]fleet.Request{kms: {Generation: 1, Key: "settled"}}}
		for _, r := range in.Requests {
			one, err := check(r, declared, nil)
			if err != nil {
				continue
			}
			if one.Generation != 1 || one.Key == "" {
				t.Errorf("passed the check: %+v", one)
			}
			_, _ = place(&a, one)
		}
		if a.Requests[kms].Key != "settled" {
			t.Errorf("replaced: %+v", a.Requests[kms])
		}
	})
}

// Whatever an agent reports: what is kept stays bounded.
func FuzzSteps(f *testing.F) {
	f.Add([]byte(`{"steps":[{"client":"kms","generation":1,"step":"installed","error":"disk full"}]}`))
	f.Add([]byte(`{"bundle":3,"steps":[{"client":"kms","generation":1,"step":"proven"}]}`))
	f.Add([]byte(`{"bundle":2,"bundleHash":"` + (&fleet.TrustBundle{Signed: "signed"}).Hash() + `","canary":{"ca":"new"}}`))
	f.Add([]byte(`{"bundle":1,"bundleHash":"00","bundleError":"disk full","canary":{"ca":"new","error":"unknown authority"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var in api.ReportSteps
		if json.Unmarshal(raw, &in) != nil {
			return
		}
		var a fleet.Agent
		note(&a, in.Steps, time.Unix(0, 0))
		if note(&a, nil, time.Unix(1, 0)) {
			t.Error("an empty report has changed something")
		}
		for key, failure := range a.Failures {
			if len([]rune(failure.Error)) > maxError+3 {
				t.Errorf("%s: %d characters", key, len(failure.Error))
			}
		}
		_ = reached(in.Steps, nil, fleet.StepDelivered)
		doc := &fleet.Authority{
			CAs: []fleet.CA{{ID: "old", Phase: fleet.PhaseActive}, {ID: "new", Phase: fleet.PhaseIncoming}}, Bundle: fleet.TrustBundle{Version: 2, Signed: "signed"},
		}
		noteBundle(&a, in.BundleError, time.Unix(0, 0))
		noteTrust(&a, doc, in, time.Unix(0, 0))
		if noteTrust(&a, doc, in, time.Unix(1, 0)) {
			t.Errorf("a repeat has changed something: %+v", a)
		}
		if a.Bundle < 0 || a.Bundle > 2 || len(a.BundleHash) > 64 || a.Canary != nil && (a.Canary.CA != "new" || len([]rune(a.Canary.Error)) > maxError+3) {
			t.Errorf("kept: %+v %+v", a, a.Canary)
		}
		if _, _, ok := a.Proves(doc, "new"); ok && (in.BundleHash != doc.Bundle.Hash() && in.Bundle == 2 || in.BundleHash == "" || in.Canary == nil || in.Canary.Error != "") {
			t.Errorf("%+v proves that it trusts the CA to come", in)
		}
	})
}
