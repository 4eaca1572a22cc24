package issuer

import (
	"context"
	"crypto"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/trust"

	"github.com/rotor-fleet/rotor/services/issuer/internal/ca"
)

// sealer signs what follows from the phases of the CAs, wherever they change. It
// is opened before, as keys lie behind the network.
type sealer struct {
	founder
	fleetKey crypto.Signer
	tool     ca.Tool
}

func (f founder) sealer(ctx context.Context, tool ca.Tool) (sealer, error) {
	fleetKey, err := f.keys.Signer(ctx, keyFleet)
	if err != nil {
		return sealer{}, alarm(err)
	}
	return sealer{founder: f, fleetKey: fleetKey, tool: tool}, nil
}

// seal makes the bridges between the CAs that the document trusts, and signs the
// trust bundle that it describes.
func (s sealer) seal(ctx context.Context, doc *fleet.Authority) error {
	err := s.bridge(ctx, doc, s.tool)
	if err != nil {
		return err
	}
	doc.Bundle, err = signBundle(ctx, s.ledger, s.fleetKey, trust.Bundle{
		Version: doc.Bundle.Version, Certificates: doc.Bundle.Certificates, Bridges: doc.BridgesPEM(),
	})
	return err
}
