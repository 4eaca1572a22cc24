package agents

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rotor-fleet/rotor/services/gateway/internal/auth"
	"github.com/rotor-fleet/rotor/services/gateway/internal/chain"
	"github.com/rotor-fleet/rotor/services/gateway/internal/token"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// prove checks that a call carries exactly the certificate and the token of one
// generation, and that both are good. It is the only success there is.
func (s *Service) prove(ctx context.Context, c *caller, authorization string) (api.ProveReply, error) {
	authority, ok := s.State.TheAuthority()
	if !ok {
		return api.ProveReply{}, huma.NewError(http.StatusServiceUnavailable, "the issuer has made no authority yet")
	}
	if c.tls == nil || len(c.tls.PeerCertificates) == 0 {
		return api.ProveReply{}, unauthorized("present the certificate of the generation as TLS client certificate")
	}
	now := s.Clock.Now()
	leaf := c.tls.PeerCertificates[0]
	if err := verifyChain(c.tls.PeerCertificates, authority, now); err != nil {
		return api.ProveReply{}, unauthorized(err.Error())
	}
	cluster, key, err := identity.FromCertificate(leaf, authority.TrustDomain)
	if err != nil {
		return api.ProveReply{}, huma.NewError(http.StatusForbidden, err.Error())
	}
	raw, ok := auth.Bearer(authorization)
	if !ok {
		return api.ProveReply{}, unauthorized("send the token of the generation: Authorization: Bearer <token>")
	}
	claims, err := token.Verify(raw, authority, now)
	if err != nil {
		return api.ProveReply{}, unauthorized("token: " + err.Error())
	}
	if err := claims.BelongTo(leaf, identity.Subject(cluster, key)); err != nil {
		return api.ProveReply{}, huma.NewError(http.StatusForbidden, "token: "+err.Error())
	}
	g, err := s.generation(ctx, pair{cluster, key, identity.Serial(leaf), claims.ID})
	if err != nil {
		return api.ProveReply{}, err
	}
	return s.proven(ctx, cluster, key, g)
}

// verifyChain checks a client certificate against the trust bundle, at now.
func verifyChain(shown []*x509.Certificate, authority fleet.Authority, now time.Time) error {
	roots, err := trust.Bundle{Version: authority.Bundle.Version, Certificates: authority.Bundle.Certificates}.Pool()
	if err != nil {
		return err
	}
	intermediates := x509.NewCertPool()
	for _, c := range shown[1:] {
		intermediates.AddCert(c)
	}
	_, err = shown[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	if !chain.Trusted(&authority, shown[0]) {
		return errors.New("certificate: no CA of this fleet that is trusted now has signed it")
	}
	return nil
}

// pair is what a call has shown.
type pair struct {
	cluster string
	client  fleet.ClientKey
	serial  string
	token   string
}

// looks is how often a record is read before what was shown counts as unknown:
// a replica of the bucket may be a moment behind.
const looks = 3

// generation finds the one generation that has both the certificate and the
// token.
func (s *Service) generation(ctx context.Context, p pair) (*fleet.Generation, error) {
	var err error
	for look := 1; look <= looks; look++ {
		var records *fleet.Credentials
		if records, err = s.records(ctx, p.cluster); err != nil {
			return nil, err
		}
		record := records.Record(p.client)
		if record != nil && record.Revoked != nil {
			return nil, huma.NewError(http.StatusForbidden, fmt.Sprintf("client %s is revoked: %s", identity.Subject(p.cluster, p.client), record.Revoked.Reason))
		}
		var g *fleet.Generation
		if g, err = match(record, p); err == nil {
			return g, nil
		}
		if look < looks && clock.Sleep(ctx, bus.Backoff(look, 250*time.Millisecond)) != nil {
			break
		}
	}
	return nil, huma.NewError(http.StatusForbidden, err.Error())
}

func match(record *fleet.Record, p pair) (*fleet.Generation, error) {
	subject := identity.Subject(p.cluster, p.client)
	if record == nil {
		return nil, fmt.Errorf("client %s has no credentials on record", subject)
	}
	i := slices.IndexFunc(record.Generations, func(g fleet.Generation) bool { return g.Certificate.Serial == p.serial })
	if i < 0 {
		return nil, fmt.Errorf("certificate: serial %s is not on record for %s", p.serial, subject)
	}
	g := &record.Generations[i]
	if g.Revoked != nil {
		return nil, fmt.Errorf("certificate: generation %d of %s was revoked %s: %s", g.Number, subject, g.Revoked.At.UTC().Format(time.RFC3339), g.Revoked.Reason)
	}
	if g.Token.ID != p.token {
		return nil, fmt.Errorf("token: it is not the one of generation %d of %s, whose certificate was shown", g.Number, subject)
	}
	if !record.Usable(g.Number) {
		return nil, fmt.Errorf("certificate: generation %d of %s ended when the client was recovered", g.Number, subject)
	}
	return g, nil
}

// proven tells of a proof, unless it is known.
func (s *Service) proven(ctx context.Context, cluster string, key fleet.ClientKey, g *fleet.Generation) (api.ProveReply, error) {
	reply := api.ProveReply{Cluster: cluster, Client: key, Generation: g.Number, Serial: g.Certificate.Serial, TokenID: g.Token.ID}
	if !g.Step.Before(fleet.StepProven) {
		return reply, nil
	}
	if err := tell(ctx, s, event.CredentialProven, cluster, []event.Client{described(key, g)}); err != nil {
		return reply, err
	}
	if agent := s.State.Agent(cluster); agent == nil || agent.Failures[key].Generation == 0 {
		return reply, nil
	}
	_, err := s.State.Agents.Bucket.Edit(ctx, cluster, func(a *fleet.Agent) error {
		if f, ok := a.Failures[key]; !ok || f.Generation > g.Number {
			return kv.Keep
		}
		delete(a.Failures, key)
		return nil
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		s.Log.Warn("failure of a proven client not cleared", "cluster", cluster, "client", key.String(), "err", err)
	}
	return reply, nil
}
