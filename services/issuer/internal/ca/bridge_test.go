package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/trust"
)

func silent(audit.Signed) error { return nil }

// generationOf makes another CA of the same authority.
func generationOf(t *testing.T, number int, at time.Time) *Authority {
	t.Helper()
	linter, err := NewLinter()
	must(t, err)
	tool := Tool{Linter: linter, Serial: deriver("test")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	root, err := tool.NewRoot(repeatable{key}, RootRequest{Number: number, At: at}, silent)
	must(t, err)
	a, err := Open(root.Certificate, repeatable{key}, "rotor.internal", tool)
	must(t, err)
	return a
}

func leafOf(t *testing.T, a *Authority, at time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	must(t, err)
	p, err := a.PrepareClient(ClientRequest{
		Cluster: "edge-01", Client: fleet.ClientKey{Kind: "kms"}, Generation: 1, CSR: csr, At: at, NotAfter: at.Add(90 * fleet.Day),
	})
	must(t, err)
	c, err := a.Sign(p)
	must(t, err)
	return c.Chain
}

// Old leaf and new leaf against old bundle, new bundle and both: every verifier
// builds a path, Go's and OpenSSL's alike, with the chain as it is installed. And
// without the bridges those of the other CA do not: so it is the bridges that do it.
func TestBridgesLeadFromEachCAToTheOther(t *testing.T) {
	at := now.Add(182 * fleet.Day)
	before, after := generationOf(t, 1, now), generationOf(t, 2, at)
	forward, err := before.Bridge(after, silent) // new CA, signed by the old one
	must(t, err)
	back, err := after.Bridge(before, silent)
	must(t, err)
	bridges := []string{string(forward), string(back)}
	bundles := map[string][]byte{"old": before.pem, "new": after.pem, "both": append(bytes.Clone(before.pem), after.pem...)}
	for leaf, a := range map[string]*Authority{"old": before, "new": after} {
		chain := leafOf(t, a, at)
		for bundle, roots := range bundles {
			t.Run(leaf+" leaf, "+bundle+" bundle", func(t *testing.T) {
				bridged := trust.Chain(chain, bridges)
				if err := verify(t, bridged, roots, at.Add(time.Hour)); err != nil {
					t.Errorf("Go: %v", err)
				}
				if out, err := opensslVerify(t, bridged, roots, at.Add(time.Hour)); err != nil {
					t.Errorf("OpenSSL: %v\n%s", err, out)
				}
				again := trust.Chain(bridged, nil) // the bundle is back to one CA
				if !bytes.Equal(again, chain) {
					t.Error("the bridges do not go away again")
				}
				if ok := verify(t, again, roots, at.Add(time.Hour)) == nil; ok != (leaf == bundle || bundle == "both") {
					t.Errorf("without bridges: %v", ok)
				}
			})
		}
	}
}

func verify(t *testing.T, chain, bundle []byte, at time.Time) error {
	t.Helper()
	block, rest := pem.Decode(chain)
	leaf, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	between.AppendCertsFromPEM(rest)
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

// opensslVerify uses the file that is installed as a server does which was sent it.
func opensslVerify(t *testing.T, chain, bundle []byte, at time.Time) (string, error) {
	t.Helper()
	program, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatal("install openssl: this test is about the paths that it builds")
	}
	dir := t.TempDir()
	crt, ca := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "ca.crt")
	must(t, os.WriteFile(crt, chain, 0o600))
	must(t, os.WriteFile(ca, bundle, 0o600))
	out, err := exec.Command(program, "verify", "-attime", strconv.FormatInt(at.Unix(), 10), "-purpose", "sslclient", "-CAfile", ca, "-untrusted", crt, crt).CombinedOutput()
	return string(out), err
}

func TestBridgeProfile(t *testing.T) {
	at := now.Add(182 * fleet.Day)
	before, after := generationOf(t, 1, now), generationOf(t, 2, at)
	var told []audit.Signed
	text, err := before.Bridge(after, func(s audit.Signed) error { told = append(told, s); return nil })
	must(t, err)
	again, err := before.Bridge(after, silent)
	must(t, err)
	if !bytes.Equal(text, again) {
		t.Error("made twice, it has two forms")
	}
	block, _ := pem.Decode(text)
	c, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	switch {
	case !bytes.Equal(c.RawSubject, after.certificate.RawSubject), !bytes.Equal(c.RawSubjectPublicKeyInfo, after.certificate.RawSubjectPublicKeyInfo):
		t.Error("it has not the name and the key of the other CA")
	case !bytes.Equal(c.SubjectKeyId, after.certificate.SubjectKeyId), !bytes.Equal(c.AuthorityKeyId, before.certificate.SubjectKeyId):
		t.Errorf("key identifiers %x, %x", c.SubjectKeyId, c.AuthorityKeyId)
	case !c.IsCA, !c.MaxPathLenZero, len(c.ExtKeyUsage) > 0, c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign:
		t.Errorf("CA %v, pathLen %d, usages %v", c.IsCA, c.MaxPathLen, c.ExtKeyUsage)
	case !c.NotBefore.Equal(after.certificate.NotBefore), !c.NotAfter.Equal(before.certificate.NotAfter):
		t.Errorf("valid from %s to %s", c.NotBefore, c.NotAfter)
	case c.SerialNumber.BitLen() < 64, c.CheckSignatureFrom(before.certificate) != nil:
		t.Error("serial number or signature")
	case len(told) != 1, told[0].Kind != audit.KindCA, told[0].ID != c.SerialNumber.Text(16), told[0].Issuer != before.id:
		t.Errorf("announced %+v", told)
	}
	refused := errors.New("the ledger is full")
	if _, err := before.Bridge(after, func(audit.Signed) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("signed without an entry: %v", err)
	}
	if _, err := before.Bridge(before, silent); !errors.Is(err, fleet.ErrInvalid) {
		t.Errorf("a bridge to itself: %v", err)
	}
	if _, err := before.Bridge(generationOf(t, 3, now.Add(2*fleet.AuthorityLife)), silent); !errors.Is(err, fleet.ErrInvalid) {
		t.Errorf("never valid together: %v", err)
	}
	before.certificate.MaxPathLen, before.certificate.MaxPathLenZero = 0, true // as those of before bridges
	if _, err := before.Bridge(after, silent); !errors.Is(err, fleet.ErrInvalid) || before.MayBridge() {
		t.Errorf("a CA that may sign none: %v", err)
	}
}
