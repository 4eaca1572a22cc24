package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/binary"
	"fmt"
	"math/big"
	"sync"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// A key whose private scalar is at most 2^16, or the negation of such a one, is
// found by anyone who tries; eight intermediate CAs of one company had such keys
// (https://bugzilla.mozilla.org/show_bug.cgi?id=2083449). It is what the rule
// e_ecdsa_small_private_key of zlint finds. That one adds thirty-two times on the
// curve for each key, which was half of the time that a whole lint took. Here all
// of those keys lie in a table.
const weakLimit = 1 << 16

// The weak keys on each curve: constants of it, made at the first key on it, which
// takes about 0.2 s for P-256, 0.8 s for P-384, and 1 MiB each.
var (
	weakOnP256 = sync.OnceValue(func() *table { return weakOn(elliptic.P256()) })
	weakOnP384 = sync.OnceValue(func() *table { return weakOn(elliptic.P384()) })
)

// table holds the points j*G, 1 <= j <= weakLimit, by the low bits of their x,
// which they share with -j*G. A place that is not taken holds 0.
type table struct{ places []uint64 }

// checkWeak refuses a key on P-256 or P-384 that is weak.
func checkWeak(key *ecdsa.PublicKey) error {
	weak := weakOnP256
	if key.Curve == elliptic.P384() {
		weak = weakOnP384
	}
	point, err := key.Bytes()
	if err != nil {
		return fmt.Errorf("%w: key: %w", fleet.ErrInvalid, err)
	}
	size := (len(point) - 1) / 2 // uncompressed: 4, x, y (SEC 1, 2.3.3)
	if x := binary.BigEndian.Uint64(point[1+size-8 : 1+size]); *weak().place(x) == x {
		return fmt.Errorf("%w: the private key is within %d of 0: anyone can find it; make a random one", fleet.ErrDenied, weakLimit)
	}
	return nil
}

func weakOn(curve elliptic.Curve) *table {
	g := curve.Params()
	t := &table{places: make([]uint64, 2*weakLimit)}
	x, y := g.Gx, g.Gy
	for range weakLimit {
		low := low(x)
		*t.place(low) = low
		x, y = curve.Add(x, y, g.Gx, g.Gy) //nolint:staticcheck // crypto/ecdh does not add points; no secret is involved
	}
	return t
}

// place returns the place of a point, or the one where it would lie.
func (t *table) place(x uint64) *uint64 {
	at := x % uint64(len(t.places)) // half of the places are free, so one is near
	for t.places[at] != 0 && t.places[at] != x {
		at = (at + 1) % uint64(len(t.places))
	}
	return &t.places[at]
}

// low returns the last 64 bits of a coordinate. Two of 2^16 points share them
// with a probability of 2^-33, and a random key is refused for it with 2^-48.
func low(x *big.Int) uint64 {
	var wide [48]byte // of P-384
	return binary.BigEndian.Uint64(x.FillBytes(wide[:])[len(wide)-8:])
}
