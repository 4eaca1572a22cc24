package agents

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// file puts requests on file, each for itself: those that are refused hold up
// no other, and the answer names them.
func (s *Service) file(ctx context.Context, c *caller, in api.FileRequests) error {
	id, cluster, err := s.who(ctx, c)
	if err != nil {
		return err
	}
	declared, err := s.State.Cluster(cluster)
	if err != nil {
		return err
	}
	records, err := s.records(ctx, cluster)
	if err != nil {
		return err
	}
	checked, refused := []filed{}, []refusal{}
	for _, r := range in.Requests {
		one, err := check(r, declared, records)
		if err != nil {
			refused = append(refused, refusal{r.Client, err})
			continue
		}
		one.FiledAt = s.Clock.Now().Truncate(time.Second)
		checked = append(checked, one)
	}
	bad := len(refused)
	err = s.edit(ctx, cluster, id, func(a *fleet.Agent) error {
		refused = refused[:bad] // the edit may be repeated
		changed := false
		for _, one := range checked {
			put, err := place(a, one)
			if err != nil {
				refused = append(refused, refusal{one.client, err})
			}
			changed = changed || put
		}
		if !changed {
			return kv.Keep
		}
		return nil
	})
	if err != nil {
		return err
	}
	return refusals(refused)
}

type filed struct {
	client fleet.ClientKey
	fleet.Request
}

// check says whether a request can be put on file, from all but what is there.
func check(r api.FileRequest, cluster fleet.Cluster, records *fleet.Credentials) (filed, error) {
	one := filed{client: r.Client, Request: fleet.Request{Generation: r.Generation, CSR: r.CSR, Lost: r.Lost}}
	if !slices.Contains(cluster.ClientKeys(), r.Client) {
		return one, fmt.Errorf("%w: cluster %s has no such client", fleet.ErrInvalid, cluster.Name)
	}
	record := records.Record(r.Client)
	if next := record.Next(one.Request); r.Generation != next {
		return one, fmt.Errorf("%w: request is for generation %d, the next is %d", fleet.ErrConflict, r.Generation, next)
	}
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err != nil {
		return one, fmt.Errorf("%w: csr: not PKCS #10 in DER", fleet.ErrInvalid)
	}
	if err := csr.CheckSignature(); err != nil {
		return one, fmt.Errorf("%w: csr: its signature does not belong to its key", fleet.ErrInvalid)
	}
	if err := checkKey(csr.PublicKey); err != nil {
		return one, err
	}
	if one.Key, err = identity.Thumbprint(csr.PublicKey); err != nil {
		return one, fmt.Errorf("%w: csr: %w", fleet.ErrInvalid, err)
	}
	if record != nil && slices.ContainsFunc(record.Generations, func(g fleet.Generation) bool { return g.Key == one.Key }) {
		return one, fmt.Errorf("%w: csr: its key belongs to a generation before: make a new one", fleet.ErrInvalid)
	}
	return one, nil
}

func checkKey(public any) error {
	switch key := public.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() {
			return nil
		}
	}
	return fmt.Errorf("%w: csr: key %T: use ECDSA P-256 or P-384, or Ed25519", fleet.ErrInvalid, public)
}

// place puts a request on file. While one waits, no other key takes its place:
// the key of a generation is settled before it is signed.
func place(a *fleet.Agent, one filed) (changed bool, err error) {
	have, ok := a.Requests[one.client]
	if ok && have.Generation == one.Generation {
		if have.Key != one.Key {
			return false, fmt.Errorf("%w: a request with another key waits for generation %d", fleet.ErrConflict, one.Generation)
		}
		if have.Lost || !one.Lost {
			return false, nil
		}
		have.Lost = true
		a.Requests[one.client] = have
		return true, nil
	}
	if a.Requests == nil {
		a.Requests = map[fleet.ClientKey]fleet.Request{}
	}
	a.Requests[one.client] = one.Request
	return true, nil
}

type refusal struct {
	client fleet.ClientKey
	err    error
}

// refusals makes one problem of what was refused: 422 if any of it was wrong,
// else 409. The other requests of the call are on file.
func refusals(refused []refusal) error {
	if len(refused) == 0 {
		return nil
	}
	status := http.StatusConflict
	details := make([]error, len(refused))
	for i, r := range refused {
		if errors.Is(r.err, fleet.ErrInvalid) {
			status = http.StatusUnprocessableEntity
		}
		details[i] = &huma.ErrorDetail{Message: r.err.Error(), Location: r.client.String()}
	}
	return huma.NewError(status, "requests were refused; those of other clients are on file", details...)
}
