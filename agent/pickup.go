package agent

import (
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/install"
	"github.com/rotor-fleet/rotor/agent/internal/state"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// errUseless says that what was picked up can never be used here, so that only
// another generation helps.
var errUseless = errors.New("cannot be used")

// opener opens and checks what waits for a client. It believes nothing of it.
type opener struct {
	Cluster string
	Seal    secret.OpenKey
	Pool    *x509.CertPool // the trust bundle
	Now     time.Time
}

// open returns the set that the pick-up makes together with the key that waited
// for it. The error is errUseless if trying again cannot help.
func (o opener) open(w api.ClientWork, key crypto.Signer) (*install.Set, error) {
	leaf, err := o.certificate(w, key.Public())
	if err != nil {
		return nil, fmt.Errorf("certificate of generation %d: %w", w.Generation, err)
	}
	token, err := o.Seal.Open(secret.TokenContext(o.Cluster, w.Client.String(), w.Generation), w.Pickup.Token)
	if err != nil {
		return nil, fmt.Errorf("%w: token of generation %d was not sealed to this agent: %w", errUseless, w.Generation, err)
	}
	claims, err := o.claims(w, token, key.Public())
	if err != nil {
		return nil, fmt.Errorf("%w: token of generation %d: %w", errUseless, w.Generation, err)
	}
	text, err := state.EncodeKey(key)
	if err != nil {
		return nil, err
	}
	return &install.Set{
		Certificate: w.Pickup.Chain, Key: secret.New(string(text)), Token: token,
		Metadata: install.Metadata{
			Cluster: o.Cluster, Client: w.Client, Generation: w.Generation,
			Serial: identity.Serial(leaf), NotBefore: leaf.NotBefore.UTC(), NotAfter: leaf.NotAfter.UTC(),
			TokenID: claims.ID, ExpiresAt: time.Unix(claims.Expires, 0).UTC(),
		},
	}, nil
}

// certificate returns the leaf of the chain if it is for this key and client,
// valid now, and signed by an authority of the trust bundle.
func (o opener) certificate(w api.ClientWork, public crypto.PublicKey) (*x509.Certificate, error) {
	leaf, rest, err := parseChain(w.Pickup.Chain)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUseless, err)
	}
	if own, ok := public.(interface{ Equal(crypto.PublicKey) bool }); !ok || !own.Equal(leaf.PublicKey) {
		return nil, fmt.Errorf("%w: it was signed for another key than the one that waits here: that key is lost", errUseless)
	}
	if len(leaf.URIs) != 1 {
		return nil, fmt.Errorf("%w: %d URI names, want 1", errUseless, len(leaf.URIs))
	}
	// The trust domain is the authority's to choose; that it is ours follows from
	// the chain.
	cluster, client, err := identity.FromCertificate(leaf, leaf.URIs[0].Host)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUseless, err)
	}
	if cluster != o.Cluster || client != w.Client {
		return nil, fmt.Errorf("%w: it names %s", errUseless, identity.Subject(cluster, client))
	}
	if o.Now.After(leaf.NotAfter) {
		return nil, fmt.Errorf("%w: it has expired at %s", errUseless, leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: o.Pool, Intermediates: rest, CurrentTime: o.Now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return leaf, err
}

func parseChain(text []byte) (*x509.Certificate, *x509.CertPool, error) {
	var leaf *x509.Certificate
	rest := x509.NewCertPool()
	for block, text := pem.Decode(text); block != nil; block, text = pem.Decode(text) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, err
		}
		if leaf == nil {
			leaf = c
			continue
		}
		rest.AddCert(c)
	}
	if leaf == nil {
		return nil, nil, errors.New("no certificate in PEM")
	}
	return leaf, rest, nil
}

// claims are the parts of a token that an agent looks at (RFC 7519, 4.1). Its
// signature is for those to check who take it.
type claims struct {
	Subject      string `json:"sub"`
	ID           string `json:"jti"`
	Expires      int64  `json:"exp"`
	Confirmation struct {
		Thumbprint string `json:"jkt"`
	} `json:"cnf"`
}

// claims reads a token and checks that it is for this client and bound to its
// key. No error holds a part of the token.
func (o opener) claims(w api.ClientWork, token secret.Text, public crypto.PublicKey) (claims, error) {
	c, err := parseClaims(token)
	if err != nil {
		return c, err
	}
	thumbprint, err := identity.Thumbprint(public)
	if err != nil {
		return c, err
	}
	switch {
	case c.Subject != identity.Subject(o.Cluster, w.Client):
		return c, errors.New("it is for another client")
	case c.Confirmation.Thumbprint != thumbprint:
		return c, errors.New("it is bound to another key")
	case !o.Now.Before(time.Unix(c.Expires, 0)):
		return c, fmt.Errorf("it has expired at %s", time.Unix(c.Expires, 0).UTC().Format(time.RFC3339))
	}
	return c, nil
}

func parseClaims(token secret.Text) (claims, error) {
	parts := strings.Split(token.Reveal(), ".")
	if len(parts) != 3 {
		return claims{}, errors.New("not a signed token in compact form (RFC 7515, 7.1)")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return claims{}, errors.New("payload is not base64url")
	}
	var c claims
	if json.Unmarshal(payload, &c) != nil {
		return claims{}, errors.New("payload is not a set of claims")
	}
	return c, nil
}

// prepare opens and checks what is ready for a client, without touching what is
// installed.
func (a *agent) prepare(j *job) {
	if j.plan.Lost != "" {
		j.giveUp(errors.New(j.plan.Lost))
		return
	}
	if !j.plan.Install {
		return
	}
	o := opener{Cluster: a.config.Cluster, Seal: a.me.Seal, Pool: a.link.Pool(), Now: a.env.Clock.Now()}
	set, err := o.open(j.work, j.key)
	switch {
	case err == nil:
		set.Metadata.Fleet = a.config.Pin
		j.set = set
		j.report(fleet.StepDelivered)
	case errors.Is(err, errUseless), a.disowned(j, err):
		j.giveUp(err)
	default:
		j.fail(fleet.StepDelivered, err)
	}
}

// disowned reports whether a certificate is of a CA that is trusted no more, as
// after an absence in which it was made and its CA was retired. A server that lags
// behind may hand out a certificate before the trust bundle that explains it, so it
// is looked at more than once.
func (a *agent) disowned(j *job, err error) bool {
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	bundle, _ := a.link.Bundle()
	return unknown && bundle.Version >= a.round.work.Bundle && j.note.pause.attempts >= disownAfter
}

// disownAfter is how often a certificate of an unknown CA is looked at in vain.
const disownAfter = 3

// giveUp ends the hope for the newest generation: the failure is reported, and
// a request for the next goes on file, marked as urgent.
func (j *job) giveUp(err error) {
	j.plan = plan{Lost: err.Error(), File: max(j.plan.File, j.work.Next, j.work.Generation+1)}
	j.fail(fleet.StepInstalled, err)
}
