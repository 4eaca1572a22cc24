package rest

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rotor-fleet/rotor/services/gateway/internal/view"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// registerSigned adds what lies signed in the buckets, to be held against the
// ledger.
func (a *API) registerSigned(h huma.API) {
	route(a, h, huma.Operation{
		OperationID: "listSigned", Method: http.MethodGet, Path: api.PathSigned, Tags: []string{"views"}, Errors: []int{422},
		Summary: "Everything with a signature that lies in a bucket, beside the generations on record",
		Description: "CA certificates, bridges between them, the request for an offline root, the trust bundle, CRLs; certificates of gateways; " +
			"what waits for agents and programs. Each was written into the ledger before it was signed.",
	}, func(ctx context.Context, in *Paging) (api.Page[api.SignedView], error) {
		a.Operate.State.Authority.Fresh(ctx)
		a.Operate.State.Lists.Fresh(ctx)
		return a.signed(ctx, *in)
	})
}

// signed walks the documents from the cursor on until the page is full: first that
// of the authority with its CRLs, whose key is empty, then those of pick-ups and
// gateways.
func (a *API) signed(ctx context.Context, p Paging) (api.Page[api.SignedView], error) {
	page := api.Page[api.SignedView]{Items: []api.SignedView{}}
	after, err := p.after()
	if err != nil {
		return page, err
	}
	last := ""
	first, place, _ := strings.Cut(after, " ")
	for _, key := range append([]string{""}, a.Operate.State.BundleNames()...) {
		if key < first {
			continue
		}
		all, err := a.signedIn(ctx, key)
		if err != nil {
			return page, err
		}
		for _, v := range all {
			switch {
			case key == first && v.Place <= place:
			case len(page.Items) == p.Limit:
				page.Next = last
				return page, nil
			default:
				page.Items, last = append(page.Items, v), cursor(key+" "+v.Place)
			}
		}
	}
	return page, nil
}

// signedIn returns what lies signed in one document, in the order of the places.
func (a *API) signedIn(ctx context.Context, key string) ([]api.SignedView, error) {
	authority, made := a.Operate.State.TheAuthority()
	var all []api.SignedView
	if key != "" {
		e, err := a.Operate.State.Bundles.Get(ctx, key)
		if err != nil && !errors.Is(err, fleet.ErrNotFound) {
			return nil, err
		}
		all = view.SignedBundles(key, e.Value, authority)
	} else if made {
		all = view.SignedAuthority(authority, a.Operate.State.AllLists())
	}
	slices.SortFunc(all, func(a, b api.SignedView) int { return cmp.Compare(a.Place, b.Place) })
	return all, nil
}
