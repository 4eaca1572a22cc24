package identity

import (
	"crypto/x509"
	"net/url"
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

func TestNames(t *testing.T) {
	kms, agent := fleet.ClientKey{Kind: "kms"}, fleet.ClientKey{Kind: "node-agent", Instance: "host-1"}
	if got := URI("rotor.internal", "hq", agent).String(); got != "spiffe://rotor.internal/hq/node-agent/host-1" {
		t.Error(got)
	}
	if got := CommonName("edge-01", kms); got != "edge-01/kms" {
		t.Error(got)
	}
	for _, key := range []fleet.ClientKey{kms, agent} {
		cluster, back, err := ParseSubject(Subject("edge-01", key))
		if err != nil || cluster != "edge-01" || back != key {
			t.Errorf("%v: %s, %v, %v", key, cluster, back, err)
		}
	}
}

// RFC 5280 allows 64 characters in a common name; names that are longer stay
// different from each other.
func TestLongCommonNames(t *testing.T) {
	long := strings.Repeat("a", 63)
	one := CommonName(long, fleet.ClientKey{Kind: "node-agent", Instance: "host-1"})
	two := CommonName(long, fleet.ClientKey{Kind: "node-agent", Instance: "host-2"})
	if len(one) > 64 || len(two) > 64 || one == two {
		t.Errorf("%q (%d) and %q (%d)", one, len(one), two, len(two))
	}
}

// F12: a client is who its certificate says it is. Nothing is read out of the
// form of a name, such as the "-control-plane-" of a machine.
func TestF12_NamesMeanNothing(t *testing.T) {
	c := &x509.Certificate{URIs: []*url.URL{URI("rotor.internal", "edge-01", fleet.ClientKey{Kind: "kms"})}}
	c.Subject.CommonName, c.DNSNames = "edge-02-control-plane-0", []string{"edge-02-control-plane-0"}
	cluster, key, err := FromCertificate(c, "rotor.internal")
	if err != nil || cluster != "edge-01" || key.String() != "kms" {
		t.Errorf("%s/%s, %v", cluster, key, err)
	}
	c.URIs = nil
	if cluster, key, err := FromCertificate(c, "rotor.internal"); err == nil {
		t.Errorf("without an identity it passes for %s/%s", cluster, key)
	}
}

func TestFromCertificate(t *testing.T) {
	parse := func(texts ...string) *x509.Certificate {
		c := &x509.Certificate{}
		for _, text := range texts {
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = append(c.URIs, u)
		}
		return c
	}
	if _, key, err := FromCertificate(parse("spiffe://d/edge-01/kms"), "d"); err != nil || key.Kind != "kms" {
		t.Errorf("%v, %v", key, err)
	}
	for name, c := range map[string]*x509.Certificate{
		"none":         parse(),
		"two":          parse("spiffe://d/edge-01/kms", "spiffe://d/edge-02/kms"),
		"other domain": parse("spiffe://evil/edge-01/kms"),
		"other scheme": parse("https://d/edge-01/kms"),
		"no client":    parse("spiffe://d/edge-01"),
		"dots":         parse("spiffe://d/edge-01/../hq/kms"),
	} {
		if cluster, key, err := FromCertificate(c, "d"); err == nil {
			t.Errorf("%s: was taken for %s/%s", name, cluster, key)
		}
	}
}
