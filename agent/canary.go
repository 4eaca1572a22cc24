package agent

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// canary is what an agent remembers of the handshake with a CA that is to come.
// Losing it costs a repeat and nothing else.
type canary struct {
	ca, hash string // that was tried, with which trust bundle
	tried    bool
	why      string // why it failed; empty if it did not
	pause    backoff
	next     time.Time // when to try again, in real time; zero when all is well
}

// proveTrust shows that whoever reads what this agent installs trusts the CA that
// is to come, by a handshake with a server of it. It waits until the trust bundle is
// everywhere, and is repeated whenever that or the CA is another.
func (a *agent) proveTrust(ctx context.Context, w api.Work) {
	c := &a.canary
	if w.Canary == "" {
		*c = canary{}
		return
	}
	bundle, signed := a.link.Bundle()
	if bundle.Version < w.Bundle || a.trusted.hash != trust.Hash(signed) {
		c.next = time.Time{} // it waits for the bundle, which is looked after elsewhere
		return
	}
	if c.ca != w.Canary || c.hash != a.trusted.hash {
		*c = canary{ca: w.Canary, hash: a.trusted.hash}
	}
	if c.tried && (c.why == "" || clock.Wall().Before(c.next)) {
		return
	}
	err := a.handshake(ctx, w, bundle)
	if ctx.Err() != nil {
		return
	}
	c.tried = true
	if err == nil {
		a.env.Log.Info("the CA that is to come is trusted", "ca", c.ca, "bundle", bundle.Version)
		c.why, c.next = "", time.Time{}
		c.pause.reset()
		return
	}
	if why := clip(err.Error()); c.why != why {
		c.why = why
		a.env.Log.Warn("the CA that is to come is not proven to be trusted; trying again", "ca", c.ca, "bundle", bundle.Version, "err", err)
	}
	c.next = clock.Wall().Add(c.pause.next(err))
}

// handshake verifies a server of the CA as everyone would who reads what is
// installed.
func (a *agent) handshake(ctx context.Context, w api.Work, bundle trust.Bundle) error {
	places, err := a.readBack(ctx, w, bundle)
	if err != nil {
		return err
	}
	name := identity.CanaryName(w.Canary)
	chain, err := a.link.Handshake(ctx, name)
	if err != nil {
		return err
	}
	look := canaryLook{ca: w.Canary, name: name, chain: chain, now: a.env.Clock.Now(), bundle: bundle}
	for _, p := range places {
		if err := look.from(p); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// place is a trust bundle as somebody reads it.
type place struct {
	name string
	pem  []byte
}

// readBack reads the trust bundle wherever this agent has put it; where that is
// nowhere, it is the one that is loaded.
func (a *agent) readBack(ctx context.Context, w api.Work, bundle trust.Bundle) ([]place, error) {
	var places []place
	for _, store := range a.trustStores() {
		text, err := store.Read(ctx)
		if err != nil {
			return nil, fmt.Errorf("read %s back: %w", store, err)
		}
		places = append(places, place{store.String(), text})
	}
	for _, c := range w.Clients {
		if c.Revoked != nil {
			continue
		}
		set, err := a.target(c.Client).Read(ctx)
		switch {
		case errors.Is(err, fs.ErrNotExist) || err == nil && !a.owns(set.Metadata, c.Client):
			continue
		case err != nil:
			return nil, fmt.Errorf("read ca.crt of %s back: %w", c.Client, err)
		}
		places = append(places, place{"ca.crt of " + c.Client.String(), set.CA})
	}
	if len(places) == 0 {
		places = append(places, place{fmt.Sprintf("trust bundle %d", bundle.Version), bundle.PEM()})
	}
	return places, nil
}

// canaryLook is what was seen of a server of a CA.
type canaryLook struct {
	ca, name string
	chain    []*x509.Certificate
	now      time.Time
	bundle   trust.Bundle
}

// from returns why somebody who trusts what stands in a place would not trust the
// server for the sake of the CA itself.
//
// By a bridge, which a server may show too, it would be trusted for the sake of
// another CA. So the place has to hold all of the bundle, and bridges lead nowhere
// here. A CA that an offline root has signed is passed on the way to that.
func (l *canaryLook) from(p place) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	have := certificatesOf(p.pem)
	for _, c := range have {
		roots.AddCert(c)
	}
	for _, c := range certificatesOf(l.bundle.PEM()) {
		if !slices.ContainsFunc(have, c.Equal) {
			return fmt.Errorf("it lacks %s, serial %s, of trust bundle %d", c.Subject, identity.Serial(c), l.bundle.Version)
		}
	}
	var bridges []*x509.Certificate
	for _, text := range l.bundle.Bridges {
		// What follows on a bridge leads to the root of its signer, and may be the CA.
		if all := certificatesOf([]byte(text)); len(all) > 0 {
			bridges = append(bridges, all[0])
		}
	}
	for _, c := range l.chain[1:] {
		if !slices.ContainsFunc(bridges, c.Equal) {
			between.AddCert(c)
		}
	}
	chains, err := l.chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: l.name, CurrentTime: l.now})
	if err != nil {
		return err
	}
	for _, chain := range chains {
		if slices.ContainsFunc(chain[1:], l.is) {
			return nil
		}
	}
	return fmt.Errorf("the server's certificate is of %s, not of CA %s", l.chain[0].Issuer, l.ca)
}

// is reports whether a certificate is that of the CA.
func (l *canaryLook) is(c *x509.Certificate) bool { return hex.EncodeToString(c.SubjectKeyId) == l.ca }

// certificatesOf returns what a reader of PEM finds.
func certificatesOf(text []byte) []*x509.Certificate {
	var all []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			all = append(all, c)
		}
	}
	return all
}
