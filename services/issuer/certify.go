package issuer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/kv"

	"github.com/rotor-fleet/rotor/services/issuer/internal/ca"
	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
)

// gatewayPrefix begins the names of gateways where clusters have theirs. No
// cluster can have such a name.
const gatewayPrefix = "_gateway-"

// certify signs the server certificate of a gateway: of the CA that signs, or of
// one that is incoming, for its canary. A repeat changes nothing, and a command
// older than the certificate in place has no effect.
func (s *service) certify(ctx context.Context, e event.Event) error {
	command, err := event.Certify.Decode(e)
	if err != nil {
		return bus.Permanent(err)
	}
	gateway := e.Subject()
	if !strings.HasPrefix(gateway, gatewayPrefix) || command.At.IsZero() {
		return bus.Permanent(fmt.Errorf("%w: certify %q at %s: want %s<instance> and a moment", fleet.ErrInvalid, gateway, command.At, gatewayPrefix))
	}
	authority, err := s.authority.current(ctx)
	if err != nil {
		return fmt.Errorf("certify %s: %w", gateway, err)
	}
	signer, err := authority.certifier(command)
	switch {
	case errors.Is(err, fleet.ErrConflict): // the CA has moved on since it was asked for
		s.log.InfoContext(ctx, "canary not certified", "gateway", gateway, "ca", command.CA, "err", err)
		return nil
	case err != nil:
		return bus.Permanent(fmt.Errorf("certify %s: %w", gateway, err))
	}
	if !s.env.Clock.Now().Before(signer.NotAfter()) {
		return fmt.Errorf("certify %s: %w: CA %s has expired at %s", gateway, fleet.ErrInvalid, signer.ID(), signer.NotAfter().Format(time.RFC3339))
	}
	prepared, err := signer.PrepareServer(ca.ServerRequest{Gateway: gateway, CSR: command.CSR, Names: command.Names, At: command.At})
	if err != nil {
		return bus.Permanent(fmt.Errorf("certify %s: %w", gateway, err))
	}
	named := prepared.Signed(audit.KindServer)
	named.Subject = gateway
	if err := announce(ctx, s.ledger, audit.Entry{Actor: requester(e), Action: "gateway.sign", Request: e.ID()}, named); err != nil {
		return fmt.Errorf("certify %s: %w", gateway, err)
	}
	signed, err := signer.Sign(prepared)
	if keystore.Held(err) {
		return fmt.Errorf("certify %s: %w", gateway, err)
	}
	if err != nil {
		return bus.Permanent(fmt.Errorf("certify %s: %w", gateway, err))
	}
	changed := false
	_, err = s.bundles.Edit(ctx, gateway, func(doc *fleet.Bundles) error {
		place := &doc.Server
		if command.CA != "" {
			place = &doc.Canary
		}
		next := &fleet.ServerCertificate{CA: signer.ID(), Key: prepared.Key, Chain: signed.Chain, NotAfter: signed.X509.NotAfter, At: command.At}
		if changed = replaces(next, *place); !changed {
			return kv.Keep
		}
		*place = next
		return nil
	})
	if err != nil {
		return fmt.Errorf("certify %s: %w", gateway, err)
	}
	if !changed {
		s.log.InfoContext(ctx, "gateway has this certificate or a newer one", "gateway", gateway, "ca", signer.ID(), "askedAt", command.At)
		return nil
	}
	s.log.InfoContext(ctx, "gateway certified", "gateway", gateway, "ca", signer.ID(), "names", command.Names, "notAfter", signed.X509.NotAfter)
	return nil
}

// certifier returns the CA that shall sign for a server. One that signs nothing yet
// does so for the name of its canary alone, and nobody else has that name. A
// fleet.ErrConflict says that it is in another phase.
func (a *authority) certifier(command event.CertifyCommand) (*ca.Authority, error) {
	if command.CA == "" {
		for _, name := range command.Names {
			if of, is := identity.CanaryCA(strings.ToLower(name)); is {
				return nil, fmt.Errorf("%w: %s is the name of the canary of CA %s: name that CA", fleet.ErrDenied, name, of)
			}
		}
		return a.ca, nil
	}
	if name := identity.CanaryName(command.CA); len(command.Names) != 1 || command.Names[0] != name {
		return nil, fmt.Errorf("%w: CA %.100q certifies its canary and nothing else: ask for the one name %.200s", fleet.ErrDenied, command.CA, name)
	}
	c := a.doc.FindCA(command.CA)
	if c == nil || c.Phase != fleet.PhaseIncoming {
		return nil, fmt.Errorf("%w: CA %s is not incoming", fleet.ErrConflict, command.CA)
	}
	return a.cas[c.ID], nil
}

// replaces reports whether a certificate shall take the place of what is there: of
// another CA, as the one that signs is always the right one, or asked for later,
// or by a gateway that was started again within the second.
// The moments of their validity do not tell: one that a CA of a minute ago has
// signed begins with that CA, and one of an older CA five minutes before it was
// asked for.
func replaces(next, stored *fleet.ServerCertificate) bool {
	return stored == nil || stored.CA != next.CA || next.At.After(stored.At) || next.At.Equal(stored.At) && next.Key != stored.Key
}

// ignoreMissing turns a missing document into nothing to do.
func ignoreMissing(err error) error {
	if errors.Is(err, fleet.ErrNotFound) {
		return kv.Keep
	}
	return err
}
