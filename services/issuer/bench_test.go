package issuer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
)

// passes is how many clusters one turn of the benchmark issues for.
const passes = 400

// BenchmarkFigureIssuance issues for clusters of 8 clients: signed, linted,
// sealed, stored and told of, with every write synced to the disk, eight passes
// at a time as the service runs them. Beside it stands what the machine can
// sign in the same seconds without any of that.
func BenchmarkFigureIssuance(b *testing.B) {
	w := newWorldOn(b, bustest.NewDurable(b))
	s := w.service(b)
	requests := eight(b)
	turn := 0
	var took, used time.Duration
	for b.Loop() {
		b.StopTimer()
		turn++
		var orders []event.Event
		for n := range passes {
			name := fmt.Sprintf("edge-%d-%d", turn, n)
			_, err := w.agents.Create(b.Context(), name, fleet.Agent{ID: "agent-1", SealKey: w.open.SealKey(), Requests: requests})
			must(b, err)
			orders = append(orders, orderFor(b, name, requests))
		}
		b.StartTimer()
		start, spent := clock.Wall(), cpu(b)
		parallel(8, passes, func(n int) { must(b, s.issue(b.Context(), orders[n])) })
		took, used = took+clock.Wall().Sub(start), used+cpu(b)-spent
	}
	certificates := float64(b.N * passes * len(requests))
	perSecond := certificates / took.Seconds()
	raw, rawUsed := rawPerSecond(b, requests)
	b.ReportMetric(perSecond, "certs/s")
	b.ReportMetric(perSecond/float64(len(requests)), "passes/s")
	b.ReportMetric(raw, "raw-certs/s")
	b.ReportMetric(100*perSecond/raw, "%-of-raw")
	// What the processor spends hardly depends on what else the machine does.
	each := float64(used.Microseconds()) / certificates
	b.ReportMetric(each, "us-cpu/cert")
	b.ReportMetric(rawUsed, "raw-us-cpu/cert")
	b.ReportMetric(100*rawUsed/each, "%-of-raw-cpu")
	b.ReportMetric(0, "ns/op")
}

// cpu returns what this process has used of the processor.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// rawPerSecond signs on all cores and nothing else: a request read and checked,
// a certificate built and signed by the standard library. It returns how many in
// a second, and the microseconds of the processor for each.
func rawPerSecond(b *testing.B, requests map[fleet.ClientKey]fleet.Request) (perSecond, used float64) {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(b, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "edge-01/kms"}, NotBefore: clock.Wall(),
		NotAfter: clock.Wall().Add(90 * fleet.Day), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	csr := requests[kms].CSR
	const total = 8000
	start, spent := clock.Wall(), cpu(b)
	parallel(runtime.GOMAXPROCS(0), total, func(int) {
		r, err := x509.ParseCertificateRequest(csr)
		must(b, err)
		must(b, r.CheckSignature())
		_, err = x509.CreateCertificate(nil, template, template, r.PublicKey, repeatable{key})
		must(b, err)
	})
	return total / clock.Wall().Sub(start).Seconds(), float64((cpu(b) - spent).Microseconds()) / total
}

// repeatable signs as the keystore does: without randomness (RFC 6979).
type repeatable struct{ *ecdsa.PrivateKey }

func (r repeatable) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return r.PrivateKey.Sign(nil, digest, opts)
}

func parallel(workers, total int, do func(n int)) {
	var all sync.WaitGroup
	var next atomic.Int64
	for range workers {
		all.Go(func() {
			for n := int(next.Add(1)) - 1; n < total; n = int(next.Add(1)) - 1 {
				do(n)
			}
		})
	}
	all.Wait()
}

// eight returns the requests of a cluster of 8 clients.
func eight(b *testing.B) map[fleet.ClientKey]fleet.Request {
	b.Helper()
	requests := map[fleet.ClientKey]fleet.Request{}
	keys := []fleet.ClientKey{kms, csi, nodeAgent}
	for _, kind := range []string{"kva", "cloud-operator", "caph", "cert-manager", "cloud-provider"} {
		keys = append(keys, fleet.ClientKey{Kind: kind})
	}
	for _, key := range keys {
		k, der := newCSR(b)
		thumbprint, err := identity.Thumbprint(k.Public())
		must(b, err)
		requests[key] = fleet.Request{Generation: 1, CSR: der, Key: thumbprint, FiledAt: clock.Wall()}
	}
	return requests
}

func orderFor(b *testing.B, name string, requests map[fleet.ClientKey]fleet.Request) event.Event {
	b.Helper()
	at := clock.Wall().Truncate(time.Second)
	command := event.IssueCommand{Reason: fleet.ReasonRenewal, At: at}
	for key := range requests {
		command.Clients = append(command.Clients, event.IssueClient{
			Client: key, Generation: 1, Life: fleet.Life{Certificate: at.Add(90 * fleet.Day), Token: at.Add(90 * fleet.Day)},
			RenewAt: at.Add(50 * fleet.Day),
		})
	}
	e, err := event.Issue.New(event.Meta{Source: "scheduler", Cluster: name, Key: []string{name}, Time: command.At}, command)
	must(b, err)
	return e
}
