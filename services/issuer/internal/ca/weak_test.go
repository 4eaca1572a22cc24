package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"math/big"
	"testing"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3/lint"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// scalar returns the key with the private scalar d; a negative one counts from
// the order of the curve.
func scalar(t testing.TB, curve elliptic.Curve, d int64) *ecdsa.PrivateKey {
	t.Helper()
	n := new(big.Int).Mod(big.NewInt(d), curve.Params().N)
	k, err := ecdsa.ParseRawPrivateKey(curve, n.FillBytes(make([]byte, (curve.Params().BitSize+7)/8)))
	must(t, err)
	return k
}

func TestKeyThatAnyoneFindsIsRefused(t *testing.T) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		for _, d := range []int64{
			1, 2, 3, 255, 21845, 21846, 43690, 43691, weakLimit - 1, weakLimit,
		} {
			for _, d := range []int64{d, -d} {
				if err := checkWeak(&scalar(t, curve, d).PublicKey); !errors.Is(err, fleet.ErrDenied) {
					t.Errorf("%s: %d: %v", curve.Params().Name, d, err)
				}
			}
		}
		for _, d := range []int64{weakLimit + 1, -weakLimit - 1, 1 << 40} {
			if err := checkWeak(&scalar(t, curve, d).PublicKey); err != nil {
				t.Errorf("%s: %d: %v", curve.Params().Name, d, err)
			}
		}
		for range 20 {
			if err := checkWeak(&newKey(t, curve).PublicKey); err != nil {
				t.Errorf("%s: random key: %v", curve.Params().Name, err)
			}
		}
	}
	a := newAuthority(t)
	r := request(t)
	r.CSR = csr(t, scalar(t, elliptic.P256(), 42))
	if _, err := a.PrepareClient(r); !errors.Is(err, fleet.ErrDenied) {
		t.Errorf("certificate for a weak key: %v", err)
	}
}

// The rule that weak.go stands in for is there, so it is watched for changes.
func TestExcludedRulesExist(t *testing.T) {
	for name := range excluded() {
		if lint.GlobalRegistry().CertificateLints().ByName(name) == nil {
			t.Errorf("no rule %s", name)
		}
	}
}

// A rule says the same when it is run the short way as when zlint runs it, of
// certificates that are well and of those that are not.
func TestRulesRunAsInZlint(t *testing.T) {
	a := newAuthority(t)
	good, _ := issue(t, a, request(t))
	root, err := zx509.ParseCertificate(a.certificate.Raw)
	must(t, err)
	der, err := assemble(good.linted, []byte{0})
	must(t, err)
	leaf, err := zx509.ParseCertificate(der)
	must(t, err)
	broken := *leaf
	broken.Subject.CommonName, broken.SerialNumber, broken.Extensions, broken.NotAfter = " a\x00", big.NewInt(-1), nil, leaf.NotBefore
	broken.URIs, broken.DNSNames, broken.RawSubject = []string{"x"}, []string{"_", ""}, []byte{0x30}
	empty := *root
	empty.PublicKey, empty.RawIssuer, empty.KeyUsage = nil, nil, 0
	short, seen := 0, map[lint.LintStatus]bool{}
	for _, c := range []*zx509.Certificate{leaf, root, &broken, &empty, {}} {
		for _, r := range a.tool.Linter.rules {
			want := r.Execute(c, a.tool.Linter.config)
			got := r.check(c, a.tool.Linter.config)
			seen[want.Status] = true
			if r.made != nil {
				short++
			}
			switch {
			case got == nil && (want.Status == lint.NA || want.Status == lint.NE):
			case got == nil || got.Status != want.Status || got.Status != lint.Fatal && got.Details != want.Details:
				t.Errorf("%s: %+v, want %+v", r.Name, got, want)
			}
		}
	}
	if short < 100 || !seen[lint.Pass] || !seen[lint.Error] || !seen[lint.Fatal] || !seen[lint.NA] {
		t.Errorf("%d ran the short way, and gave %v", short, seen)
	}
}
