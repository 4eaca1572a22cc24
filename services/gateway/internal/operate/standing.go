package operate

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/services/gateway/internal/ledger"
	"github.com/rotor-fleet/rotor/services/gateway/internal/view"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// effective is how long an answer waits for the issuer.
const effective = 10 * time.Second

// Revoke asks the issuer to revoke a client and waits until it is revoked and on
// the CRL; done is false when that takes longer than an answer may. A client that
// is revoked for the same reason stays so, and that is no error.
func (o *Operator) Revoke(ctx context.Context, cluster string, r api.RevokeRequest, key string) (v api.ClientView, done bool, err error) {
	reason, err := fleet.ParseCRLReason(string(r.Reason))
	if err != nil {
		return v, false, err
	}
	c, err := o.concerned(ctx, cluster, r.Client)
	if err != nil {
		return v, false, err
	}
	if revoked := revocation(c, r.Client); revoked != nil {
		if revoked.Reason != reason {
			return v, false, fmt.Errorf("%w: client %s/%s is revoked since %s for another reason, %s",
				fleet.ErrConflict, cluster, r.Client, revoked.At.UTC().Format(time.RFC3339), revoked.Reason)
		}
		return c.Client(r.Client), true, nil
	}
	s := standing{cluster: cluster, client: r.Client, request: ledger.Request("revoke", key)}
	if err := ledger.Record(ctx, o.Ledger, audit.Entry{Action: "client.revoke", Request: s.request, Reason: string(reason)}.About(cluster, r.Client)); err != nil {
		return v, false, err
	}
	now := o.Clock.Now()
	command, err := event.Revoke.New(s.meta(now), event.RevokeCommand{Client: r.Client, Reason: reason, By: ledger.Admin, At: now})
	if err != nil {
		return v, false, err
	}
	return o.carryOut(ctx, s, command, func(r *fleet.Record) bool {
		return r != nil && r.Revocation(command.ID()) != nil && o.listed(r.Barred(now))
	})
}

// Reinstate asks the issuer to issue credentials to a client again, and waits
// until it may. A client that is not revoked stays as it is.
func (o *Operator) Reinstate(ctx context.Context, cluster string, r api.ReinstateRequest, key string) (v api.ClientView, done bool, err error) {
	c, err := o.concerned(ctx, cluster, r.Client)
	if err != nil {
		return v, false, err
	}
	if revocation(c, r.Client) == nil {
		return c.Client(r.Client), true, nil
	}
	s := standing{cluster: cluster, client: r.Client, request: ledger.Request("reinstate", key)}
	if err := ledger.Record(ctx, o.Ledger, audit.Entry{Action: "client.reinstate", Request: s.request}.About(cluster, r.Client)); err != nil {
		return v, false, err
	}
	now := o.Clock.Now()
	command, err := event.Reinstate.New(s.meta(now), event.ReinstateCommand{Client: r.Client, By: ledger.Admin, At: now})
	if err != nil {
		return v, false, err
	}
	return o.carryOut(ctx, s, command, func(r *fleet.Record) bool {
		return r != nil && r.Reinstated != nil && r.Reinstated.Operation == command.ID()
	})
}

// standing is a request about whether a client may have credentials.
type standing struct {
	cluster string
	client  fleet.ClientKey
	request string
}

func (s standing) meta(now time.Time) event.Meta {
	return event.Meta{Source: "gateway", Cluster: s.cluster, Key: []string{s.client.String(), s.request}, Time: now}
}

// concerned returns the cluster of a client that is declared or has a record: one
// that was taken out of the fleet file can still be revoked.
func (o *Operator) concerned(ctx context.Context, cluster string, client fleet.ClientKey) (view.Cluster, error) {
	o.State.Declared.Fresh(ctx)
	o.State.Credentials.Fresh(ctx)
	c, err := o.Cluster(cluster)
	if err != nil {
		return c, err
	}
	if !slices.Contains(c.Declared.ClientKeys(), client) && c.Records.Record(client) == nil {
		return c, fmt.Errorf("client %s: %w in cluster %s, which has %s", client, fleet.ErrNotFound, cluster, keys(c.Declared))
	}
	return c, nil
}

func revocation(c view.Cluster, client fleet.ClientKey) *fleet.Revocation {
	if r := c.Records.Record(client); r != nil {
		return r.Revoked
	}
	return nil
}

// carryOut publishes a command and waits for what it brings about.
func (o *Operator) carryOut(ctx context.Context, s standing, command event.Event, done func(*fleet.Record) bool) (api.ClientView, bool, error) {
	if err := o.Bus.Publish(ctx, command); err != nil {
		return api.ClientView{}, false, err
	}
	look := func() bool { return done(o.State.Records(s.cluster).Record(s.client)) }
	// The record comes first and the list after it.
	limit, cancel := context.WithTimeout(ctx, effective)
	defer cancel()
	ok := o.State.Credentials.Until(limit, effective, func() bool {
		return look() || o.State.Records(s.cluster).Record(s.client).Revocation(command.ID()) != nil
	})
	ok = ok && o.State.Lists.Until(limit, effective, look)
	c, err := o.Cluster(s.cluster)
	if err != nil {
		return api.ClientView{}, false, err
	}
	return c.Client(s.client), ok, nil
}

// listed reports whether the CRLs have all certificates that were revoked and
// have not ended.
func (o *Operator) listed(revoked []fleet.Former) bool {
	known := map[string]map[string]bool{} // CA -> serials
	now := o.Clock.Now()
	for _, f := range revoked {
		if now.After(f.NotAfter) {
			continue
		}
		if known[f.Issuer] == nil {
			doc, ok := o.State.List(f.Issuer)
			if !ok {
				return false
			}
			known[f.Issuer] = serials(doc.DER)
		}
		if !known[f.Issuer][f.Serial] {
			return false
		}
	}
	return true
}

func serials(der []byte) map[string]bool {
	all := map[string]bool{}
	if list, err := x509.ParseRevocationList(der); err == nil {
		for _, e := range list.RevokedCertificateEntries {
			all[e.SerialNumber.Text(16)] = true
		}
	}
	return all
}
