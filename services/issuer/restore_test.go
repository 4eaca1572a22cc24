package issuer

import (
	"errors"
	"slices"
	"testing"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

type deriver struct{}

func (deriver) Derive(parts ...string) []byte { return []byte(slices.Concat(parts)[len(parts)-1]) }

// A restore changes what everything is derived from; without one nothing is
// derived otherwise than ever.
func TestEpochEntersDerivations(t *testing.T) {
	plain := string(epoch{deriver{}, ""}.Derive("serial", "x"))
	if plain != "x" {
		t.Errorf("without a restore: %q", plain)
	}
	one, two := string(epoch{deriver{}, "1"}.Derive("x")), string(epoch{deriver{}, "2"}.Derive("x"))
	if one == plain || one == two {
		t.Errorf("%q %q %q", plain, one, two)
	}
}

// A store that is only half restored signs nothing.
func TestRestoringSignsNothing(t *testing.T) {
	a := &authorities{}
	if _, err := a.load(t.Context(), kv.Entry[fleet.Authority]{Value: fleet.Authority{Restoring: true}}); !errors.Is(err, errRestoring) {
		t.Errorf("got %v", err)
	}
}
