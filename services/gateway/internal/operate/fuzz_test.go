package operate

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Whatever is sent as a request for a rotation of the authority: it is refused,
// or one command with one meaning comes of it.
func FuzzRolloutRequest(f *testing.F) {
	for _, body := range []string{
		`{}`, `{"kind":"token"}`, `{"canary":"hq","maxParallel":3}`, `{"taint":true}`, `{"certificate":"x","root":"y"}`,
		`{"kind":"token","taint":true}`, `{"taint":true,"certificate":"x"}`, `{"maxParallel":-1}`, `{"kind":"root"}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var r api.RolloutRequest
		if json.Unmarshal(body, &r) != nil {
			return
		}
		c, err := command(r)
		if err != nil {
			if !errors.Is(err, fleet.ErrInvalid) {
				t.Errorf("%s: %v", body, err)
			}
			return
		}
		imported := len(c.Certificate) > 0 && len(c.Anchor) > 0
		if imported != (c.Reason == fleet.RolloutImported) || r.Taint != (c.Reason == fleet.RolloutTainted) || (len(c.Certificate) > 0) != (len(c.Anchor) > 0) {
			t.Errorf("%s: %+v", body, c)
		}
		if c.Kind != fleet.RolloutCA && (c.Kind != fleet.RolloutToken || c.Reason != fleet.RolloutAsked || c.Canary != "" || c.MaxParallel != 0) {
			t.Errorf("%s: %+v", body, c)
		}
		if c.MaxParallel < 0 || c.MaxParallel > maxClusters {
			t.Errorf("%s: %d at once", body, c.MaxParallel)
		}
	})
}
