package cli

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
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
// of what comes after it: the authority, the records, the ledger.
func (a *app) verifyServer(c *cobra.Command, fleetKey string) (verified, error) {
	s, err := a.look(c.Context())
	if err != nil {
		return verified{}, err
	}
	if fleetKey == "" {
		fleetKey = s.authority.FleetKey
	}
	check := &ledger.Checker{FleetKey: fleetKey, Newest: s.authority.Checkpoint, Records: &ledger.Records{}}
	clients := 0
	if err := s.eachRecord(nil, func(v api.RecordView) { check.Records.Put(v); clients++ }); err != nil {
		return verified{}, err
	}
	end, err := a.eachEntry(c, func(position uint64, raw []byte) error {
		if err := check.Add(position, raw); err != nil {
			return err
		}
		return s.signed.note(raw)
	})
	if err != nil {
		return verified{}, err
	}
	if err := check.Finish(end); err != nil {
		return verified{}, err
	}
	if err := s.signed.holds(s.authority); err != nil {
		return verified{}, err
	}
	v := report(check)
	v.Records = &recordsView{Clients: clients}
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
	signed    signatures
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
	values := url.Values{}
	maps.Copy(values, query)
	for {
		var page api.Page[api.RecordView]
		if err := s.Call(s.ctx, http.MethodGet, api.PathRecords+"?"+values.Encode(), nil, &page); err != nil {
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
	for _, u := range r.Ahead(s.now.Add(-time.Duration(float64(grace) * s.rate))) {
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
	letters, err := api.List[fleet.Letter](s.ctx, s.Client, api.PathDeadLetters, url.Values{"cluster": {cluster}, "state": {"all"}})
	return slices.ContainsFunc(letters, func(l fleet.Letter) bool { return l.Service == u.Chain }), err
}

// signatures are what the ledger names beside certificates and tokens of clients.
type signatures struct {
	begun   time.Time
	cas     map[string]string // content by serial number
	bundles map[string]bool   // versions
}

func (s *signatures) note(raw []byte) error {
	if !strings.Contains(string(raw), `"signed":`) {
		return nil
	}
	var e audit.Entry
	if err := json.Unmarshal(raw, &e); err != nil {
		return err
	}
	if s.cas == nil {
		s.begun, s.cas, s.bundles = e.Time, map[string]string{}, map[string]bool{}
	}
	for _, signed := range e.Signed {
		switch signed.Kind {
		case audit.KindCA:
			s.cas[signed.ID] = signed.Content
		case audit.KindBundle:
			s.bundles[signed.ID] = true
		default:
		}
	}
	return nil
}

// holds demands that the CAs and the trust bundle of an authority are named. A CA
// that an offline root has signed is not ours to name.
func (s *signatures) holds(a api.AuthorityView) error {
	for i := range a.CAs {
		block, _ := pem.Decode(a.CAs[i].Certificate)
		if block == nil {
			return fmt.Errorf("CA %s: its certificate is not PEM", a.CAs[i].ID)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("CA %s: %w", a.CAs[i].ID, err)
		}
		if string(certificate.RawIssuer) != string(certificate.RawSubject) || a.CAs[i].PreparedAt().Before(s.begun.Add(-fleet.Backdate)) {
			continue
		}
		if content, named := s.cas[certificate.SerialNumber.Text(16)]; !named || content != audit.Content(certificate.RawTBSCertificate) {
			return fmt.Errorf("%w: CA %s is trusted, and no entry of the ledger says that its certificate was signed", audit.ErrBroken, a.CAs[i].ID)
		}
	}
	if a.Bundle > 0 && len(s.bundles) > 0 && !s.bundles[fmt.Sprint(a.Bundle)] {
		return fmt.Errorf("%w: trust bundle %d is handed out, and no entry of the ledger says that it was signed", audit.ErrBroken, a.Bundle)
	}
	return nil
}
