package trust_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// node is a certificate with its key.
type node struct {
	key  *ecdsa.PrivateKey
	x509 *x509.Certificate
	pem  string
}

var serials int64

// grow makes a CA, or a leaf if pathLen is below 0; by is nil for a root.
func grow(t testing.TB, name string, pathLen int, by *node) *node {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return cross(t, &node{key: key, x509: &x509.Certificate{Subject: pkix.Name{CommonName: name}}}, pathLen, by)
}

// cross makes another certificate with the name and the key of a node.
func cross(t testing.TB, of *node, pathLen int, by *node) *node {
	t.Helper()
	serials++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serials), Subject: of.x509.Subject, SubjectKeyId: of.x509.SubjectKeyId,
		NotBefore: today.AddDate(0, -1, 0), NotAfter: today.AddDate(1, 0, 0), BasicConstraintsValid: true, IsCA: pathLen >= 0,
	}
	if pathLen >= 0 {
		template.MaxPathLen, template.MaxPathLenZero = pathLen, pathLen == 0
	}
	parent, signer := template, of.key
	if by != nil {
		parent, signer = by.x509, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, of.key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &node{of.key, c, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func text(all ...*node) string {
	var b strings.Builder
	for _, n := range all {
		b.WriteString(n.pem)
	}
	return b.String()
}

// What a chain becomes with the bridges of a bundle, in its exact order, and that
// it is itself again without them, whatever chain it was given before.
func TestChain(t *testing.T) {
	first, second, third := grow(t, "CA 1", 1, nil), grow(t, "CA 2", 1, nil), grow(t, "CA 3", 1, nil)
	root := grow(t, "offline", 3, nil)
	between := grow(t, "between", 2, root)
	issuing := grow(t, "CA 4", 1, between)
	other := grow(t, "other offline", 2, nil)
	moved := grow(t, "CA 5", 1, other)
	namesake := grow(t, "CA 1", 1, nil) // of another fleet
	b12, b21 := cross(t, first, 0, second), cross(t, second, 0, first)
	b13, b41, b14, b45, b54 := cross(t, first, 0, third), cross(t, issuing, 0, first), cross(t, first, 0, issuing), cross(t, issuing, 0, moved), cross(t, moved, 0, issuing)
	leaf1, leaf2, leaf4 := grow(t, "a", -1, first), grow(t, "a", -1, second), grow(t, "a", -1, issuing)
	twin := cross(t, first, 0, namesake) // two CAs of one authority with one name
	two := []string{b12.pem, b21.pem}
	three := []string{b12.pem, b13.pem, b21.pem}
	offline := []string{text(b14, issuing, between), b41.pem}
	offlines := []string{text(b45, moved), text(b54, issuing, between)}
	for name, tt := range map[string]struct {
		plain   string
		bridges []string
		want    string
	}{
		"old leaf":                          {text(leaf1, first), two, text(leaf1, b12, first)},
		"new leaf":                          {text(leaf2, second), two, text(leaf2, b21, second)},
		"three CAs":                         {text(leaf1, first), three, text(leaf1, b12, b13, first)},
		"one CA":                            {text(leaf1, first), nil, text(leaf1, first)},
		"leaf alone":                        {text(leaf1), two, text(leaf1, b12)},
		"leaf of a root, to an offline one": {text(leaf1, first), offline, text(leaf1, b14, issuing, between, first)},
		"leaf of an offline root":           {text(leaf4, issuing, between), offline, text(leaf4, issuing, between, b41)},
		"from one offline root to another":  {text(leaf4, issuing, between), offlines, text(leaf4, issuing, between, b45, moved)},
		"a CA of the same name":             {text(grow(t, "a", -1, namesake), namesake), two, ""},
		"two CAs of one name":               {text(leaf1, first), []string{twin.pem}, text(leaf1, twin, first)},
		"no chain":                          {"hello", two, "hello"},
		"a broken chain":                    {leaf1.pem + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", two, ""},
	} {
		t.Run(name, func(t *testing.T) {
			want := tt.want
			if want == "" {
				want = tt.plain
			}
			got := trust.Chain([]byte(tt.plain), tt.bridges)
			if string(got) != want {
				t.Errorf("with the bridges: %s, want %s", names(got), names([]byte(want)))
			}
			if again := trust.Chain(got, tt.bridges); !bytes.Equal(again, got) {
				t.Errorf("twice: %s", names(again))
			}
			if name == "leaf alone" {
				return // nothing says what in it is a bridge
			}
			for _, before := range [][]string{two, three, offline, offlines} {
				if back := trust.Chain(trust.Chain(got, before), nil); string(back) != tt.plain {
					t.Errorf("without them: %s", names(back))
				}
			}
		})
	}
}

func names(chain []byte) []string {
	var all []string
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			all = append(all, c.Subject.CommonName+" by "+c.Issuer.CommonName)
		}
	}
	return all
}

// Every path of the table above, as verifiers see it that have one anchor alone.
func TestChainsLeadToEachAnchor(t *testing.T) {
	first, root := grow(t, "CA 1", 1, nil), grow(t, "offline", 3, nil)
	between := grow(t, "between", 2, root)
	issuing := grow(t, "CA 4", 1, between)
	bridges := []string{text(cross(t, first, 0, issuing), issuing, between), cross(t, issuing, 0, first).pem}
	for name, plain := range map[string]string{"old": text(grow(t, "a", -1, first), first), "new": text(grow(t, "a", -1, issuing), issuing, between)} {
		for _, anchor := range []*node{first, root} {
			chain := trust.Chain([]byte(plain), bridges)
			block, rest := pem.Decode(chain)
			roots, untrusted := x509.NewCertPool(), x509.NewCertPool()
			roots.AddCert(anchor.x509)
			untrusted.AppendCertsFromPEM(rest)
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Verify(x509.VerifyOptions{Roots: roots, Intermediates: untrusted, CurrentTime: today, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
				t.Errorf("%s leaf, %s alone: %v\n%s", name, anchor.x509.Subject, err, strings.Join(names(chain), "\n"))
			}
		}
	}
}

func TestMayBridge(t *testing.T) {
	root := grow(t, "offline", 2, nil)
	tight := grow(t, "tight", 1, nil)
	between := grow(t, "between", 2, grow(t, "far", 3, nil))
	for name, tt := range map[string]struct {
		ca   fleet.CA
		good bool
	}{
		"a root":                   {fleet.CA{Certificate: []byte(grow(t, "CA", 1, nil).pem)}, true},
		"a root of before bridges": {fleet.CA{Certificate: []byte(grow(t, "CA", 0, nil).pem)}, false},
		"under an offline root":    {fleet.CA{Certificate: []byte(grow(t, "CA", 1, root).pem), Anchor: []byte(root.pem)}, true},
		"which allows no CA":       {fleet.CA{Certificate: []byte(grow(t, "CA", 0, root).pem), Anchor: []byte(root.pem)}, false},
		"which has a limit":        {fleet.CA{Certificate: []byte(grow(t, "CA", 1, tight).pem), Anchor: []byte(tight.pem)}, false},
		"below another":            {fleet.CA{Certificate: []byte(grow(t, "CA", 1, between).pem), Chain: []byte(between.pem), Anchor: []byte(grow(t, "far", 3, nil).pem)}, true},
		"below one with a limit":   {fleet.CA{Certificate: []byte(grow(t, "CA", 1, tight).pem), Chain: []byte(tight.pem), Anchor: []byte(root.pem)}, false},
		"nothing":                  {fleet.CA{}, false},
	} {
		if err := trust.MayBridge(&tt.ca); (err == nil) != tt.good || err != nil && !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSame(t *testing.T) {
	a, b := grow(t, "CA 1", 1, nil), grow(t, "CA 1", 1, nil)
	for name, tt := range map[string]struct {
		x, y string
		want bool
	}{
		"order": {text(a, b), text(b, a), true}, "twice": {text(a, a), text(a), true}, "words between": {"# two\n" + text(a, b), text(a, b), true},
		"one more": {text(a), text(a, b), false}, "one less": {text(a, b), text(b), false}, "another": {text(a), text(b), false}, "nothing": {"", "", false},
	} {
		if got := trust.Same([]byte(tt.x), []byte(tt.y)); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Chain is given what was read from a disk: it must not lose the leaf, nor panic.
func FuzzChain(f *testing.F) {
	first, second := grow(f, "CA 1", 1, nil), grow(f, "CA 2", 1, nil)
	bridge := cross(f, first, 0, second).pem
	leaf := grow(f, "a", -1, first)
	f.Add([]byte(text(leaf, first)), bridge)
	f.Add([]byte(leaf.pem+bridge), text(first, second))
	f.Add([]byte("no chain"), "no bridge")
	f.Fuzz(func(t *testing.T, chain []byte, bridge string) {
		got := trust.Chain(chain, []string{bridge})
		if !slices.Equal(names(got)[:min(1, len(names(got)))], names(chain)[:min(1, len(names(chain)))]) {
			t.Errorf("another leaf")
		}
	})
}
