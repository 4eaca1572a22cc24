package agent

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/http"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
)

// What a note says of a request.
const (
	requestPlain = ""
	requestLost  = "lost"
)

// file puts the requests for the next generations on file, all at once; if the
// server refuses that, one by one, so that one does not hold up the others.
func (a *agent) file(ctx context.Context, jobs []*job) error {
	var wanted, from []*job
	for _, j := range jobs {
		passing := j.err == nil || j.plan.Lost != "" || j.step == fleet.StepProven
		if j.plan.File != 0 && passing && j.unfiled() {
			wanted = append(wanted, j)
		}
	}
	requests := make([]api.FileRequest, len(wanted))
	errs := make([]error, len(wanted))
	atOnce(len(wanted), func(i int) { requests[i], errs[i] = a.request(wanted[i]) })
	var all []api.FileRequest
	for i, j := range wanted {
		if errs[i] != nil {
			j.fail(fleet.StepDelivered, errors.Join(j.err, errs[i]))
			continue
		}
		all, from = append(all, requests[i]), append(from, j)
	}
	if len(all) == 0 {
		return nil
	}
	err := a.put(ctx, all, from)
	if _, refused := errors.AsType[*api.Problem](err); !refused {
		return err
	}
	for i, j := range from {
		err := a.put(ctx, all[i:i+1], from[i:i+1])
		if _, refused := errors.AsType[*api.Problem](err); err != nil && !refused {
			return err
		}
		if err != nil {
			j.fail(fleet.StepDelivered, errors.Join(j.err, err))
		}
	}
	return nil
}

// unfiled reports whether the server does not have, or has not been told of,
// the request of the plan.
func (j *job) unfiled() bool {
	kind := requestPlain
	if j.plan.Lost != "" {
		kind = requestLost
	}
	n := j.note.request
	if j.work.Request == j.plan.File && n.generation == j.plan.File && n.what == kind {
		return false
	}
	now := clock.Wall()
	j.note.expect(now)
	return n.again(j.plan.File, kind, now)
}

func (a *agent) put(ctx context.Context, requests []api.FileRequest, from []*job) error {
	err := a.link.Call(ctx, http.MethodPut, api.PathRequests, api.FileRequests{Requests: requests}, nil)
	if err != nil {
		return fmt.Errorf("file requests: %w", a.heal(ctx, err))
	}
	now := clock.Wall()
	for i, j := range from {
		kind := requestPlain
		if requests[i].Lost {
			kind = requestLost
		}
		j.note.request = told{requests[i].Generation, kind, now}
	}
	return nil
}

// request makes the certificate request for the generation of the plan, and its
// key if there is none yet.
func (a *agent) request(j *job) (api.FileRequest, error) {
	key, err := a.store.MakeNextKey(j.work.Client, j.plan.File)
	if err != nil {
		return api.FileRequest{}, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: identity.CommonName(a.config.Cluster, j.work.Client)},
	}, key)
	if err != nil {
		return api.FileRequest{}, fmt.Errorf("make the request for %s: %w", j.work.Client, err)
	}
	return api.FileRequest{Client: j.work.Client, Generation: j.plan.File, CSR: der, Lost: j.plan.Lost != ""}, nil
}
