package issuer

import (
	"context"
	"errors"
	"fmt"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"

	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
	"github.com/rotor-fleet/rotor/services/issuer/internal/token"
)

// maxTries bounds how many numbers of token keys are tried.
const maxTries = 16

// newKey makes the token key that a rollout wants, of the algorithm that is
// configured now. A key of a run that was interrupted is used if it is of that
// algorithm; else its number is left out.
func (m *mover) newKey(ctx context.Context, doc fleet.Authority, command event.PhaseCommand) (*fleet.SigningKey, error) {
	number := doc.NextKey()
	for last := number + maxTries; ; number++ {
		err := m.keys.Create(ctx, keyToken(number), m.tokenKey())
		if err == nil {
			break
		}
		if !errors.Is(err, fleet.ErrInvalid) || number == last {
			return nil, alarm(err)
		}
	}
	return m.signingKey(ctx, number, command)
}

func (m *mover) signingKey(ctx context.Context, number int, command event.PhaseCommand) (*fleet.SigningKey, error) {
	signer, err := m.keys.Signer(ctx, keyToken(number))
	if err != nil {
		return nil, alarm(err)
	}
	public, err := token.PublicKey(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("token key %d: %w", number, err)
	}
	return &fleet.SigningKey{ID: public.ID, Number: number, JWK: public.JWK, Algorithm: public.Algorithm, CreatedAt: command.At}, nil
}

// tokenKey returns the algorithm of new token keys.
func (c Config) tokenKey() keystore.Algorithm {
	if c.TokenAlgorithm == token.ES256 {
		return keystore.ECDSAP256
	}
	return keystore.Ed25519
}
