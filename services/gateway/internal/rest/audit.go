package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Audited is what is needed of a bus.Bus to read the ledger.
type Audited interface {
	Audited(ctx context.Context, service string, after uint64, limit int) ([]audit.Message, error)
	AuditEnd(ctx context.Context) (uint64, error)
}

// registerAudit adds the ledger. Entries are shown as they are stored, to the
// byte: whoever reads them can check the chains.
func (a *API) registerAudit(h huma.API) {
	route(a, h, huma.Operation{
		OperationID: "listAudit", Method: http.MethodGet, Path: api.PathAudit, Tags: []string{"views"}, Errors: []int{422},
		Summary: "What was done, at whose request: the ledger, oldest first",
		Description: "Each chain counts its entries from 1. The hash of an entry is the SHA-256, in hexadecimal, of its other members in the form of RFC 8785; " +
			"previous is the hash of the entry before it in its chain, and behind its position.",
	}, func(ctx context.Context, in *struct {
		Paging
		Chain string `query:"chain" maxLength:"63" doc:"only the chain of this service, such as gateway or issuer"`
	},
	) (api.AuditPage, error) {
		page := api.AuditPage{Page: api.Page[json.RawMessage]{Items: []json.RawMessage{}}, Positions: []uint64{}}
		if in.Chain != "" {
			if err := fleet.CheckName("chain", in.Chain); err != nil {
				return page, err
			}
		}
		after, err := position(in.Paging)
		if err != nil {
			return page, err
		}
		messages, err := a.Ledger.Audited(ctx, in.Chain, after, in.Limit)
		if err != nil {
			return page, err
		}
		for _, m := range messages {
			if !json.Valid(m.Data) {
				m.Data, _ = json.Marshal(string(m.Data)) // an entry that is none; a string always marshals
			}
			page.Items, page.Positions = append(page.Items, m.Data), append(page.Positions, m.Position)
		}
		// After the entries, so that it lies behind all of them.
		if page.End, err = a.Ledger.AuditEnd(ctx); err != nil {
			return page, err
		}
		if n := len(messages); n > 0 && (n == in.Limit || messages[n-1].Position < page.End) {
			page.Next = cursor(strconv.FormatUint(messages[len(messages)-1].Position, 10))
		}
		return page, nil
	})
}

// registerRecords adds what is on record, to be held against the ledger.
func (a *API) registerRecords(h huma.API) {
	route(a, h, huma.Operation{
		OperationID: "listRecords", Method: http.MethodGet, Path: api.PathRecords, Tags: []string{"views"}, Errors: []int{422},
		Summary:     "Every generation on record, by client",
		Description: "Also of clusters that are not in the fleet any more. Each was written into the ledger before it was signed.",
	}, func(ctx context.Context, in *struct {
		Paging
		Cluster string `query:"cluster" maxLength:"63" doc:"only clients of this cluster"`
	},
	) (api.Page[api.RecordView], error) {
		a.Operate.State.Credentials.Fresh(ctx)
		return a.records(in.Cluster, in.Paging)
	})
}

// records walks the clusters from the cursor on until the page is full.
func (a *API) records(only string, p Paging) (api.Page[api.RecordView], error) {
	page := api.Page[api.RecordView]{Items: []api.RecordView{}}
	after, err := p.after()
	if err != nil {
		return page, err
	}
	first, key, _ := strings.Cut(after, "/")
	documents := a.Operate.State.Credentials
	for _, name := range slices.Sorted(slices.Values(documents.Keys())) {
		e, ok := documents.Get(name)
		if !ok || name < first || only != "" && name != only {
			continue
		}
		names := map[string]*fleet.Record{}
		for client, record := range e.Value.Clients {
			if record != nil && (e.Key != first || client.String() > key) {
				names[client.String()] = record
			}
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if len(page.Items) == p.Limit {
				last := page.Items[p.Limit-1]
				page.Next = cursor(last.Cluster + "/" + last.Client.String())
				return page, nil
			}
			client, err := fleet.ParseClientKey(name)
			if err != nil {
				return page, fmt.Errorf("record of %s: %w", e.Key, err)
			}
			page.Items = append(page.Items, api.RecordOf(e.Key, client, names[name]))
		}
	}
	return page, nil
}

// position returns the position in the store behind which a page begins.
func position(p Paging) (uint64, error) {
	text, err := p.after()
	if err != nil || text == "" {
		return 0, err
	}
	after, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%w: cursor %q: use the next of the page before", fleet.ErrInvalid, p.Cursor)
	}
	return after, nil
}
