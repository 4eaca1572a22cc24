package servercert

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/rotor-fleet/rotor/shared/identity"
)

// order is what the issuer is asked for.
type order struct {
	ca    string // that shall sign while it is incoming, empty for the one that signs
	names []string
}

// errMoved says that something else is wanted by now.
var errMoved = errors.New("the authority has moved on")

// order returns what is wanted now, if anything is.
func (k *Keeper) order() (o order, wanted bool) {
	if !k.Canary {
		return order{names: k.Names}, true
	}
	authority, _ := k.Env.State.TheAuthority()
	ca := authority.IncomingCA()
	if ca == nil {
		return o, false
	}
	return order{ca: ca.ID, names: []string{identity.CanaryName(ca.ID)}}, true
}

// met reports whether a certificate is one of these, by its names.
func (o order) met(c *tls.Certificate) bool { return slices.Equal(c.Leaf.DNSNames, o.names) }

// commonName is bounded by ub-common-name (RFC 5280, appendix A.1). The names that
// count are those of the command.
func (o order) commonName() string { return o.names[0][:min(len(o.names[0]), 64)] }

// drop forgets the certificate.
func (k *Keeper) drop() {
	if k.current.Swap(nil) != nil {
		k.Env.Log.Info("canary dropped: its CA is not incoming any more")
	}
}

// CanaryReady reports whether there is a certificate of the CA that is incoming,
// and whether one is wanted.
func (k *Keeper) CanaryReady() (ready, wanted bool) {
	o, wanted := k.order()
	c := k.current.Load()
	return wanted && c != nil && o.met(c), wanted
}

// ByName returns a function for tls.Config.GetCertificate: to who asks for a
// canary, that canary is shown or nothing, and to everyone else what server keeps.
func ByName(server, canary *Keeper) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		ca, ok := CanaryAsked(hello.ServerName)
		if !ok {
			return server.Certificate(hello)
		}
		o, wanted := canary.order()
		if !wanted || o.ca != ca {
			return nil, fmt.Errorf("no canary: CA %.100q is not incoming", ca)
		}
		if c := canary.current.Load(); c != nil && o.met(c) {
			return c, nil
		}
		return nil, fmt.Errorf("the issuer has not signed the canary of CA %s yet", ca)
	}
}

// CanaryAsked returns the CA whose canary a server name (RFC 6066, 3) asks for.
func CanaryAsked(serverName string) (ca string, ok bool) {
	return identity.CanaryCA(strings.ToLower(serverName))
}
