package operate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"

	"github.com/rotor-fleet/rotor/services/gateway/internal/ledger"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// External returns the request of the CA to come that an offline root shall
// sign. While one waits, that is it; else the issuer is asked for one.
func (o *Operator) External(ctx context.Context, key string) (api.ExternalRequest, error) {
	o.State.Authority.Fresh(ctx)
	if r, ok := o.pending(); ok {
		return r, nil
	}
	if a, ok := o.State.TheAuthority(); !ok || a.ActiveCA() == nil {
		return api.ExternalRequest{}, fmt.Errorf("%w: there is no authority yet: check that the issuer runs", fleet.ErrConflict)
	}
	request := ledger.Request("authority csr", key)
	if err := ledger.Record(ctx, o.Ledger, audit.Entry{Action: "authority.csr", Request: request}); err != nil {
		return api.ExternalRequest{}, err
	}
	now := o.Clock.Now()
	m := event.Meta{Source: "gateway", Cluster: event.FleetWide, Key: []string{request}, Time: now}
	if err := bus.Publish(ctx, o.Bus, event.External, m, event.ExternalCommand{By: ledger.Admin, At: now}); err != nil {
		return api.ExternalRequest{}, err
	}
	o.State.Authority.Until(ctx, effective, func() bool {
		_, ok := o.pending()
		return ok
	})
	if r, ok := o.pending(); ok {
		return r, nil
	}
	return api.ExternalRequest{}, &api.Problem{
		Title: http.StatusText(http.StatusServiceUnavailable), Status: http.StatusServiceUnavailable,
		Detail: "the issuer has not made the request yet: check that it runs, and ask again",
	}
}

// pending returns the request that waits for a signature.
func (o *Operator) pending() (api.ExternalRequest, bool) {
	a, _ := o.State.TheAuthority()
	if a.Pending == nil {
		return api.ExternalRequest{}, false
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: a.Pending.CSR})
	return api.ExternalRequest{Number: a.Pending.Number, CSR: string(text)}, true
}

// fingerprint is the SHA-256 of the first certificate of a PEM text.
func fingerprint(text []byte) string {
	block, _ := pem.Decode(text)
	if block == nil {
		return ""
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])
}
