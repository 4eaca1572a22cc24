package gateway_test

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// What lies signed in the buckets is the same in pages of any size.
func TestSignedInPages(t *testing.T) {
	w := start(t)
	bundles := open[fleet.Bundles](t, w, bus.Bundles)
	for _, cluster := range []string{"edge-01", "edge-01-b", "edge"} {
		_, err := bundles.Edit(t.Context(), cluster, func(b *fleet.Bundles) error {
			b.Clients = map[fleet.ClientKey]fleet.Pickup{}
			for _, kind := range []string{"kms", "csi", "caph"} {
				b.Clients[fleet.ClientKey{Kind: kind}] = fleet.Pickup{Generation: 1, Chain: w.issuer.doc.CAs[0].Certificate}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	all := func(limit string) map[string]int {
		found := map[string]int{}
		query := url.Values{"limit": {limit}}
		for {
			var page api.Page[api.SignedView]
			if err := w.client.Call(t.Context(), http.MethodGet, api.PathSigned+"?"+query.Encode(), nil, &page); err != nil {
				t.Fatal(err)
			}
			for _, v := range page.Items {
				if found[v.Place]++; found[v.Place] > 1 {
					t.Fatalf("%s in two pages of %s", v.Place, limit)
				}
			}
			if page.Next == "" {
				return found
			}
			query.Set("cursor", page.Next)
		}
	}
	bustest.Eventually(t, func() error {
		if n := len(all("1000")); n < 12 {
			return fmt.Errorf("%d places", n)
		}
		return nil
	})
	whole := all("1000")
	for _, limit := range []string{"1", "2", "5"} {
		pages := all(limit)
		for place := range whole {
			if pages[place] != 1 || len(pages) != len(whole) {
				t.Errorf("in pages of %s: %s %d times, %d of %d places", limit, place, pages[place], len(pages), len(whole))
			}
		}
	}
}
