package issuer

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/services/issuer/internal/ca"
	"github.com/rotor-fleet/rotor/services/issuer/internal/token"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// order is what a certificate and a token depend on, beside the authority.
type order struct {
	cluster    string
	client     fleet.ClientKey
	generation int
	csr        []byte
	at         time.Time
	life       fleet.Life
	signature  []byte // of the certificate, if it was signed before
}

// signed is a certificate with its token.
type signed struct {
	key         string
	certificate ca.Certificate
	token       token.Token
	cut         bool
}

// draft is a certificate with its token, checked and not signed yet.
type draft struct {
	order
	authority   *ca.Authority
	minter      token.Minter
	certificate *ca.Prepared
	token       token.Draft
	announced   bool // it is in the ledger
}

// newDraft depends on nothing but its arguments: the same give the same bytes to
// be signed. The signatures may differ, of keys in an HSM. That of the certificate
// is on record and part of the order when it is made again; of the token, whose
// claims and id stay, only the signature is another then.
func newDraft(authority *ca.Authority, minter token.Minter, o order) (*draft, error) {
	d := &draft{order: o, authority: authority, minter: minter}
	var err error
	d.certificate, err = authority.PrepareClient(ca.ClientRequest{
		Cluster: o.cluster, Client: o.client, Generation: o.generation, CSR: o.csr, At: o.at, NotAfter: o.life.Certificate,
	})
	if err != nil {
		return nil, err
	}
	d.token, err = minter.Prepare(token.Request{
		Cluster: o.cluster, Client: o.client, Generation: o.generation, Key: d.certificate.Key, At: o.at,
		ExpiresAt: o.life.Token, Limit: authority.NotAfter(),
	})
	return d, err
}

// sign signs what was announced, or what is on record.
func (d *draft) sign() (signed, error) {
	minted, err := d.minter.Mint(d.token)
	if err != nil {
		return signed{}, err
	}
	var certificate ca.Certificate
	if len(d.signature) > 0 {
		certificate, err = d.authority.Complete(d.certificate, d.signature)
	} else {
		certificate, err = d.authority.Sign(d.certificate)
	}
	if err != nil {
		return signed{}, err
	}
	return signed{d.certificate.Key, certificate, minted, d.certificate.Cut || minted.Cut}, nil
}

// pickup returns what the agent fetches. What an interrupted run has signed is
// made again, from the record and the request, which waits unchanged.
func (p *pass) pickup(key fleet.ClientKey, g *fleet.Generation) (fleet.Pickup, error) {
	if g.Agent != p.agent.ID {
		return fleet.Pickup{}, fmt.Errorf("%w: the agent was replaced since: the new one gets generation %d", fleet.ErrConflict, g.Number+1)
	}
	made, ok := p.signed[key]
	if !ok || identity.Fingerprint(made.certificate.X509.Raw) != g.Certificate.Fingerprint {
		var err error
		if made, err = p.again(key, g); err != nil {
			return fleet.Pickup{}, err
		}
		p.signed[key] = made
	}
	if p.sealer == nil {
		var err error
		if p.sealer, err = secret.NewSealer(p.agent.SealKey); err != nil {
			return fleet.Pickup{}, err
		}
	}
	box, err := p.sealer.Seal(secret.TokenContext(p.cluster, key.String(), g.Number), made.token.Text)
	if err != nil {
		return fleet.Pickup{}, err
	}
	return fleet.Pickup{Generation: g.Number, Agent: g.Agent, Chain: made.certificate.Chain, Token: box, Trace: g.Trace}, nil
}

// again derives a generation from its record and the request on file.
func (p *pass) again(key fleet.ClientKey, g *fleet.Generation) (signed, error) {
	request, ok := p.agent.Requests[key]
	if !ok || request.Generation != g.Number {
		return signed{}, fmt.Errorf("%w: the request of generation %d is gone: file one for generation %d", fleet.ErrNotFound, g.Number, g.Number+1)
	}
	return p.authority.again(order{cluster: p.cluster, client: key, csr: request.CSR}, g)
}

// again derives a generation from its record and a request with its key, and
// holds the result against the record.
func (a *authority) again(o order, g *fleet.Generation) (signed, error) {
	authority, signs := a.cas[g.Certificate.Issuer]
	minter, mints := a.minters[g.Token.KeyID]
	if !signs || !mints {
		return signed{}, fmt.Errorf("%w: generation %d was signed by keys that are retired: ask for the next one", fleet.ErrConflict, g.Number)
	}
	o.generation, o.at, o.life, o.signature = g.Number, g.At, g.Life, g.Signature
	d, err := newDraft(authority, minter, o)
	if err != nil {
		return signed{}, err
	}
	made, err := d.sign() // its entry was written when it was signed first
	if err != nil {
		return signed{}, err
	}
	if identity.Fingerprint(made.certificate.X509.Raw) != g.Certificate.Fingerprint || made.token.Record.ID != g.Token.ID {
		return signed{}, errors.New("what was signed is not what is on record: it was left out")
	}
	return made, nil
}

// issued returns the generations of this command that are on record and did
// not fail since.
func (p *pass) issued(doc fleet.Credentials) []event.Client {
	var clients []event.Client
	for _, c := range p.command.Clients {
		g := doc.Record(c.Client).Find(c.Generation)
		if _, failed := p.failures[c.Client]; failed || g == nil || g.Operation != p.id {
			continue
		}
		clients = append(clients, event.Client{
			Client: c.Client, Generation: g.Number, Serial: g.Certificate.Serial, TokenID: g.Token.ID,
			NotAfter: g.Certificate.NotAfter, ExpiresAt: g.Token.ExpiresAt, RenewAt: g.RenewAt, Cut: g.Cut,
		})
	}
	return clients
}

// failed returns the clients that were not issued anything, in a fixed order.
func (p *pass) failed() []event.Client {
	generations := map[fleet.ClientKey]int{}
	for _, c := range p.command.Clients {
		generations[c.Client] = c.Generation
	}
	keys := slices.SortedFunc(maps.Keys(p.failures), func(a, b fleet.ClientKey) int {
		return slices.Compare([]string{a.Kind, a.Instance}, []string{b.Kind, b.Instance})
	})
	var clients []event.Client
	for _, key := range keys {
		clients = append(clients, event.Client{Client: key, Generation: generations[key], Error: p.failures[key].err.Error()})
	}
	return clients
}
