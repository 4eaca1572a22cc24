package issuer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/trust"

	"github.com/rotor-fleet/rotor/services/issuer/internal/ca"
	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
)

// shown is what a client shows to a verifier: the chain as it is installed, and
// its key.
type shown struct {
	chain []byte
	key   *ecdsa.PrivateKey
}

// show issues the next generation of kms and returns it with the bridges of now.
func (w *world) show(t *testing.T, s *service, generation int) shown {
	t.Helper()
	w.file(t, generation, kms)
	must(t, s.issue(t.Context(), w.order(t, fmt.Sprint(generation), generation, kms)))
	p, ok := w.pickup(t, kms)
	if !ok {
		t.Fatal("no pick-up")
	}
	must(t, s.step(t.Context(), w.report(t, event.CredentialProven, generation, kms)))
	return shown{p.Chain, w.keys[kms]}
}

// bridged returns it as an agent installs it that has loaded a bundle.
func (c shown) bridged(b fleet.TrustBundle) shown {
	c.chain = trust.Chain(c.chain, b.Bridges)
	return c
}

// verify is what a kube-apiserver does, and every other verifier in Go.
func (c shown) verify(roots string, at time.Time) error {
	block, rest := pem.Decode(c.chain)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(roots))
	between.AppendCertsFromPEM(rest)
	_, err = leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

// handshake makes a TLS connection in which each side shows a chain, and has the
// roots that are given and no more.
func handshake(client, server shown, roots string, at time.Time) error {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(roots))
	pair := func(c shown) tls.Certificate {
		out := tls.Certificate{PrivateKey: c.key}
		for block, rest := pem.Decode(c.chain); block != nil; block, rest = pem.Decode(rest) {
			out.Certificate = append(out.Certificate, block.Bytes)
		}
		return out
	}
	near, far := net.Pipe()
	defer func() { _, _ = near.Close(), far.Close() }()
	now := func() time.Time { return at }
	dialing := tls.Client(near, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: []tls.Certificate{pair(client)}, ServerName: "localhost", Time: now})
	failed := make(chan error, 1)
	go func() {
		err := dialing.Handshake()
		if err == nil {
			_, err = dialing.Read(make([]byte, 1)) // in TLS 1.3 the server looks at the client only now
		}
		_ = near.Close()
		failed <- err
	}()
	serving := tls.Server(far, &tls.Config{
		MinVersion: tls.VersionTLS13, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, Certificates: []tls.Certificate{pair(server)}, Time: now,
	})
	err := serving.Handshake()
	if err == nil {
		_, err = serving.Write([]byte{1})
	}
	_ = far.Close()
	if theirs := <-failed; err == nil {
		err = theirs
	}
	return err
}

// openssl runs `openssl verify` on a chain as on the file that is installed; with
// untrusted, that is what stands beside the leaf.
func openssl(t *testing.T, c shown, roots, untrusted string, at time.Time) error {
	t.Helper()
	program, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatal("install openssl: this test is about the paths that it builds")
	}
	dir := t.TempDir()
	write := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, text, 0o600))
		return path
	}
	crt, anchors := write("tls.crt", c.chain), write("ca.crt", []byte(roots))
	beside := crt
	if untrusted != "" {
		beside = write("untrusted.pem", []byte(untrusted))
	}
	out, err := exec.CommandContext(t.Context(), program, "verify", "-attime", strconv.FormatInt(at.Unix(), 10), "-purpose", "sslclient",
		"-CAfile", anchors, "-untrusted", beside, crt).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// serverOf returns what a gateway shows that the CA of now has certified.
func (w *world) serverOf(t *testing.T, s *service, at time.Time) shown {
	t.Helper()
	key, csr := newCSR(t)
	must(t, s.certify(t.Context(), certify(t, at, csr, "localhost")))
	return shown{w.server(t).Value.Server.Chain, key}
}

// signedBridges returns those of the signed bundle, which are those of the document.
func (w *world) signedBridges(t *testing.T) []string {
	t.Helper()
	doc := w.authority(t)
	b, err := trust.Verify(doc.Bundle.Signed, doc.Bundle.FleetKey)
	must(t, err)
	if !slices.Equal(b.Bridges, doc.Bundle.Bridges) || !slices.Equal(b.Bridges, doc.BridgesPEM()) {
		t.Fatal("the bridges of the document, beside the bundle and in the bundle differ")
	}
	return b.Bridges
}

// The matrix of a rotation: what the old and the new CA have signed, against
// verifiers that have the old, the new, or both, with what is installed.
func TestBridgesThroughARotation(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	at := clock.Wall().Add(time.Second)
	plain := map[string]shown{"old": w.show(t, s, 1)}
	servers := map[string]shown{"old": w.serverOf(t, s, at)}
	if n := len(w.signedBridges(t)); n != 0 {
		t.Fatalf("%d bridges with one CA", n)
	}
	from := w.swap(t, s, "r1", false)
	plain["new"], servers["new"] = w.show(t, s, 2), w.serverOf(t, s, at.Add(time.Minute))
	doc := w.authority(t)
	bridges := w.signedBridges(t)
	if len(bridges) != 2 || doc.Bridge(doc.CAs[0].ID, doc.CAs[1].ID) == nil || doc.Bridge(doc.CAs[1].ID, doc.CAs[0].ID) == nil {
		t.Fatalf("%d bridges: %+v", len(bridges), doc.Bridges)
	}
	was, is := string(doc.FindCA(from).Certificate), string(doc.ActiveCA().Certificate)
	at = at.Add(2 * time.Minute)
	for leaf, chain := range plain {
		for bundle, roots := range map[string]string{"old": was, "new": is, "both": was + is} {
			t.Run(leaf+" leaf, "+bundle+" bundle", func(t *testing.T) {
				installed := chain.bridged(doc.Bundle)
				if err := installed.verify(roots, at); err != nil {
					t.Errorf("Go: %v", err)
				}
				if err := openssl(t, installed, roots, "", at); err != nil {
					t.Errorf("OpenSSL, with the file alone: %v", err)
				}
				if err := openssl(t, shown{chain: pemOf(installed.chain, 1)}, roots, strings.Join(bridges, ""), at); err != nil {
					t.Errorf("OpenSSL, with /bridges.pem: %v", err)
				}
				for by, server := range servers {
					if err := handshake(installed, server.bridged(doc.Bundle), roots, at); err != nil {
						t.Errorf("TLS with a server of the %s CA: %v", by, err)
					}
				}
				// Without bridges, only who trusts the very CA that has signed.
				good := leaf == bundle || bundle == "both"
				for what, err := range map[string]error{"Go": chain.verify(roots, at), "OpenSSL": openssl(t, chain, roots, "", at), "TLS": handshake(chain, servers[leaf], roots, at)} {
					if (err == nil) != good {
						t.Errorf("%s without bridges: %v", what, err)
					}
				}
			})
		}
	}
	must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Move: fleet.MoveRetire, ID: from, From: from})))
	if doc := w.authority(t); len(w.signedBridges(t)) != 0 || len(doc.Bridges) != 0 || phasesOf(doc) != "retired active" {
		t.Errorf("%s with %d bridges: %s", phasesOf(doc), len(doc.Bridges), w.refused(t))
	}
}

// pemOf returns the first certificates of a chain.
func pemOf(chain []byte, n int) []byte {
	rest := chain
	for range n {
		_, rest = pem.Decode(rest)
	}
	return chain[:len(chain)-len(rest)]
}

// A bridge is made once: it stays, byte by byte, through all phases, and is in the
// ledger before.
func TestBridgesStay(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	old := w.authority(t).CAs[0].ID
	must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Move: fleet.MovePrepare, From: old})))
	prepared := w.authority(t)
	must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Move: fleet.MoveActivate, ID: prepared.IncomingCA().ID, From: old, Bundle: 2})))
	for _, doc := range []fleet.Authority{prepared, w.authority(t)} {
		if len(doc.Bridges) != 2 || !slices.EqualFunc(doc.Bridges, prepared.Bridges, func(a, b fleet.Bridge) bool {
			return a.Of == b.Of && a.By == b.By && bytes.Equal(a.Certificate, b.Certificate)
		}) {
			t.Errorf("%s: %d bridges, or others", phasesOf(doc), len(doc.Bridges))
		}
	}
	// What is made again, as after an end before it was stored, is the same.
	doc := prepared
	doc.Bridges = nil
	must(t, s.mover.bridge(t.Context(), &doc, s.mover.tool))
	for i, b := range doc.Bridges {
		if !bytes.Equal(b.Certificate, prepared.Bridges[i].Certificate) {
			t.Errorf("bridge %d made again has other bytes", i)
		}
		c := leaf(t, b.Certificate)
		announced := 0
		for _, e := range w.chain(t) {
			for _, signed := range e.Signed {
				if signed.Kind == audit.KindCA && signed.ID == c.SerialNumber.Text(16) {
					announced++
					if signed.Issuer != b.By || signed.Content != audit.Content(c.RawTBSCertificate) {
						t.Errorf("ledger: %+v", signed)
					}
				}
			}
		}
		if announced != 1 {
			t.Errorf("bridge %d has %d entries", i, announced)
		}
	}
}

// No bridge leads to a CA that is compromised: it would let in what that one signs
// wherever the new CA is trusted. The way from it to the new one is open.
func TestNoBridgeToACompromisedCA(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.prove(t, s, 1, kms)
	forged := w.show(t, s, 2)
	from := w.swap(t, s, "r1", true)
	doc := w.authority(t)
	if len(doc.Bridges) != 1 || doc.Bridges[0].By != from {
		t.Fatalf("bridges %+v", doc.Bridges)
	}
	if err := forged.bridged(doc.Bundle).verify(string(doc.ActiveCA().Certificate), clock.Wall()); err == nil {
		t.Error("who trusts the new CA alone lets in what the compromised one has signed")
	}
	if err := w.show(t, s, 3).bridged(doc.Bundle).verify(string(doc.FindCA(from).Certificate), clock.Wall()); err != nil {
		t.Errorf("who has only the old one: %v", err)
	}
}

// A CA that is compromised while another rotation is under way: the bridge to it
// ends at once and is on the list, also where the other CA has signed it already.
func TestBridgeToACAThatIsCompromisedLater(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	from := w.swap(t, s, "r1", false)
	doc := w.authority(t)
	active := doc.ActiveCA().ID
	bad := leaf(t, doc.Bridge(from, active).Certificate).SerialNumber.Text(16)
	doc.FindCA(from).TaintedAt = clock.Wall()
	for range 2 {
		must(t, s.mover.bridge(t.Context(), &doc, s.mover.tool))
	}
	if len(doc.BridgesPEM()) != 1 || doc.Bridge(from, active) != nil || doc.Bridge(active, from) == nil {
		t.Fatalf("%+v", doc.Bridges)
	}
	if len(doc.Severed) != 1 || doc.Severed[0].Serial != bad || doc.Severed[0].By != active || doc.Severed[0].Reason != fleet.CACompromise {
		t.Errorf("%+v", doc.Severed)
	}
}

// certOf makes a CA, by itself where there is no parent.
func certOf(t *testing.T, template, parent *x509.Certificate, public any, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template.NotBefore, template.NotAfter = clock.Wall().Add(-time.Hour), clock.Wall().AddDate(1, 0, 0)
	template.SerialNumber, template.IsCA, template.BasicConstraintsValid = big.NewInt(clock.Wall().UnixNano()), true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return c
}

func encoded(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// imported returns the authority with a CA that an offline root has signed, with
// room for so many CAs below it, and signs the bundle anew.
func (w *world) imported(t *testing.T, s *service, pathLen int) (fleet.Authority, *ca.Authority) {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		return k
	}
	rootKey, betweenKey := key(), key()
	root := certOf(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Offline root"}}, nil, rootKey.Public(), rootKey)
	between := certOf(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Between"}, MaxPathLen: 2}, root, betweenKey.Public(), rootKey)
	must(t, s.mover.keys.Create(t.Context(), keyCA(2), keystore.ECDSAP256))
	signer, err := s.mover.keys.Signer(t.Context(), keyCA(2))
	must(t, err)
	own := certOf(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Rotor CA 2", Organization: []string{"Example"}}, MaxPathLen: pathLen, MaxPathLenZero: pathLen == 0}, between, signer.Public(), betweenKey)
	doc := w.authority(t)
	doc.CAs = append(doc.CAs, fleet.CA{
		ID: fmt.Sprintf("%x", own.SubjectKeyId), Number: 2, Phase: fleet.PhaseIncoming, Certificate: encoded(own), Chain: encoded(between), Anchor: encoded(root),
		NotBefore: own.NotBefore, NotAfter: own.NotAfter,
	})
	doc.Bundle.Version, doc.Bundle.Certificates = doc.NextBundle()
	sealer, err := s.mover.sealer(t.Context(), s.mover.tool)
	must(t, err)
	must(t, sealer.seal(t.Context(), &doc))
	opened, err := ca.Open(slices.Concat(encoded(own), encoded(between)), signer, doc.TrustDomain, ca.Tool{Linter: s.mover.tool.Linter, Serial: derivedBy("x")})
	must(t, err)
	return doc, opened
}

type derivedBy string

func (d derivedBy) Derive(parts ...string) []byte {
	return []byte(fmt.Sprintf("%-32.32s", string(d)+strings.Join(parts, "")))
}

// From a root of Rotor's own to one that lies in a safe, and back: the bridges come
// with the certificates up to that root.
func TestBridgesToAnOfflineRoot(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	plain := map[string]shown{"old": w.show(t, s, 1)}
	doc, issuing := w.imported(t, s, 1)
	if len(doc.Bridges) != 2 || len(doc.Bundle.Certificates) != 2 || doc.Bundle.Certificates[1] != string(doc.CAs[1].Anchor) {
		t.Fatalf("%d bridges, %d anchors", len(doc.Bridges), len(doc.Bundle.Certificates))
	}
	key, csr := newCSR(t)
	at := clock.Wall().Add(time.Second)
	prepared, err := issuing.PrepareClient(ca.ClientRequest{Cluster: cluster, Client: kms, Generation: 2, CSR: csr, At: at, NotAfter: at.Add(fleet.Day)})
	must(t, err)
	signed, err := issuing.Sign(prepared)
	must(t, err)
	plain["new"] = shown{signed.Chain, key}
	at = at.Add(time.Minute)
	was, is := string(doc.CAs[0].Certificate), string(doc.CAs[1].Anchor)
	for leaf, chain := range plain {
		for bundle, roots := range map[string]string{"old": was, "new": is, "both": was + is} {
			t.Run(leaf+" leaf, "+bundle+" bundle", func(t *testing.T) {
				installed := chain.bridged(doc.Bundle)
				if err := installed.verify(roots, at); err != nil {
					t.Errorf("Go: %v", err)
				}
				err := openssl(t, installed, roots, "", at)
				if leaf == "new" && bundle == "old" {
					// It takes the first issuer of the file, which leads to the offline root.
					// With the bridges first it would fail where that root alone is trusted.
					err = openssl(t, shown{chain: pemOf(installed.chain, 1)}, roots, string(doc.Bridge(doc.CAs[1].ID, doc.CAs[0].ID).Certificate), at)
				}
				if err != nil {
					t.Errorf("OpenSSL: %v", err)
				}
				if again := trust.Chain(installed.chain, nil); !bytes.Equal(again, chain.chain) {
					t.Error("the bridges do not go away again")
				}
				if ok := chain.verify(roots, at) == nil; ok != (leaf == bundle || bundle == "both") {
					t.Errorf("without bridges: %v", ok)
				}
			})
		}
	}
}

// An offline root that allows no CA below ours gets no bridge through ours, and
// nothing waits for it; the other way is open.
func TestNoBridgeWhereTheRootAllowsNone(t *testing.T) {
	w := newWorld(t)
	doc, _ := w.imported(t, w.service(t), 0)
	if len(doc.Bridges) != 1 || doc.Bridges[0].By != doc.CAs[0].ID || len(doc.Bundle.Bridges) != 1 {
		t.Errorf("%+v", doc.Bridges)
	}
}
