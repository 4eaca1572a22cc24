package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/ledger"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// verifyServer reads what is to be compared in the order in which each is a part
// of what comes after it: the authority, what waits in buckets, the records, the
// ledger.
func (a *app) verifyServer(c *cobra.Command, fleetKey string) (verified, error) {
	s, err := a.look(c.Context())
	if err != nil {
		return verified{}, err
	}
	if fleetKey == "" {
		fleetKey = s.authority.FleetKey
	}
	check := &ledger.Checker{FleetKey: fleetKey, Newest: s.authority.Checkpoint, Held: &ledger.Held{Now: s.now}, Records: &ledger.Records{}}
	if err := eachItem(s, api.PathSigned, nil, check.Held.Put); err != nil {
		return verified{}, err
	}
	clients := 0
	if err := s.eachRecord(nil, func(v api.RecordView) { check.Records.Put(v); clients++ }); err != nil {
		return verified{}, err
	}
	end, err := a.eachEntry(c, check.Add)
	if err != nil {
		return verified{}, err
	}
	if err := check.Finish(end); err != nil {
		return verified{}, err
	}
	if err := s.holds(check.Held, check.Records); err != nil {
		return verified{}, err
	}
	v := report(check)
	v.Records = &recordsView{Clients: clients, Others: check.Held.Matched()}
	v.Records.Certificates, v.Records.Withheld = check.Records.Matched()
	v.Records.Waiting, err = s.compare(check.Records)
	return v, err
}

// grace is how long what was announced may take to get on record, on the machine's
// time: a command that fails comes again with growing pauses.
const grace = time.Hour

// remote is what a server says beside the ledger.
type remote struct {
	*api.Client
	ctx       context.Context
	now       time.Time
	rate      float64
	authority api.AuthorityView
}

func (a *app) look(ctx context.Context) (*remote, error) {
	client, err := a.client()
	if err != nil {
		return nil, err
	}
	s := &remote{Client: client, ctx: ctx}
	var status struct {
		Now       time.Time `json:"now"`
		ClockRate float64   `json:"clockRate"`
	}
	if err := client.Call(ctx, http.MethodGet, api.PathStatus, nil, &status); err != nil {
		return nil, err
	}
	s.now, s.rate = status.Now, max(status.ClockRate, 1)
	return s, client.Call(ctx, http.MethodGet, api.PathAuthority, nil, &s.authority)
}

// eachRecord passes on what is on record of every client.
func (s *remote) eachRecord(query url.Values, f func(api.RecordView)) error {
	return eachItem(s, api.PathRecords, query, f)
}

// eachItem passes on the items of a list that has pages.
func eachItem[T any](s *remote, path string, query url.Values, f func(T)) error {
	values := url.Values{}
	maps.Copy(values, query)
	for {
		var page api.Page[T]
		if err := s.Call(s.ctx, http.MethodGet, path+"?"+values.Encode(), nil, &page); err != nil {
			return err
		}
		for _, v := range page.Items {
			f(v)
		}
		if page.Next == "" {
			return nil
		}
		values.Set("cursor", page.Next)
	}
}

// settled is the moment up to which all that was announced has to be where it
// belongs.
func (s *remote) settled() time.Time {
	return s.now.Add(-time.Duration(float64(grace) * s.rate))
}

// holds says what lies signed in a bucket and was not announced, and the reverse.
func (s *remote) holds(h *ledger.Held, r *ledger.Records) error {
	if err := errors.Join(h.Missing(), r.Agree(h.Waiting), h.PutBack(s.settled())); err != nil {
		return err
	}
	for _, u := range h.Unheld(s.settled()) {
		if u.Kind == audit.KindServer {
			buried, err := s.buried(u.Subject, u.Entry.Chain)
			if err != nil {
				return err
			}
			if buried {
				continue
			}
		}
		return fmt.Errorf("%w: %s: it was made for somebody who does not use Rotor, or was lost", audit.ErrBroken, u)
	}
	return nil
}

// buried reports whether a command of a cluster lies among the dead letters of a
// service.
func (s *remote) buried(cluster, service string) (bool, error) {
	letters, err := api.List[fleet.Letter](s.ctx, s.Client, api.PathDeadLetters, url.Values{"cluster": {cluster}, "state": {"all"}})
	return slices.ContainsFunc(letters, func(l fleet.Letter) bool { return l.Service == service }), err
}

// compare says what is in one of records and ledger and not in the other, and
// returns how many certificates are not on record yet.
func (s *remote) compare(r *ledger.Records) (waiting int, err error) {
	if !r.Complete() {
		var failed error
		missing := r.Missing(func(yield func(api.RecordView) bool) {
			more := true
			failed = s.eachRecord(nil, func(v api.RecordView) { more = more && yield(v) })
		})
		if err := errors.Join(failed, missing); err != nil {
			return 0, err
		}
	}
	for _, u := range r.Ahead(s.settled()) {
		explained, err := s.explained(u)
		if err != nil {
			return 0, err
		}
		if !explained {
			return 0, fmt.Errorf("%w: %s, is on no record, and nothing says why: it was signed for somebody who does not use Rotor, or the record was lost; if nobody knows, revoke the client",
				audit.ErrBroken, u)
		}
	}
	return len(r.Ahead(s.now.Add(fleet.AuthorityLife))), nil
}

// explained looks whether a certificate is on record by now, need not be, or waits
// among the dead letters.
func (s *remote) explained(u ledger.Unrecorded) (bool, error) {
	cluster, client, _ := strings.Cut(u.Subject, "/")
	known := false
	err := s.eachRecord(url.Values{"cluster": {cluster}}, func(v api.RecordView) {
		known = known || v.Client.String() == client && ledger.Explained(u, v)
	})
	if err != nil || known {
		return known, err
	}
	return s.buried(cluster, u.Chain)
}
