package view

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"slices"
	"strconv"
	"strings"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// SignedAuthority returns what lies signed in the bucket "authority": CA
// certificates, bridges, the request for an offline root, the trust bundle and the
// CRLs. What cannot be read is there without a content, which no entry names.
func SignedAuthority(a fleet.Authority, lists []fleet.RevocationList) []api.SignedView {
	var all []api.SignedView
	for i := range a.CAs {
		c := &a.CAs[i]
		v := certificateView(audit.KindCA, "authority/ca/"+c.ID, one(c.Certificate))
		v.CA, v.Phase, v.Outside = c.ID, c.Phase, len(c.Anchor) > 0
		v.Bundled = slices.Contains(a.Bundle.Certificates, string(c.Trusted()))
		if !v.Outside {
			v.At = c.PreparedAt()
		}
		all = append(all, v)
	}
	for _, b := range a.Bridges {
		all = append(all, certificateView(audit.KindCA, "authority/bridge/"+b.Of+"/"+b.By, one(b.Certificate)))
	}
	for _, s := range a.Severed {
		all = append(all, api.SignedView{
			Place: "authority/severed/" + s.By + "/" + s.Serial, Severed: true,
			Signed: audit.Signed{Kind: audit.KindCA, ID: s.Serial, Issuer: s.By, NotAfter: s.NotAfter},
		})
	}
	if a.Pending != nil {
		all = append(all, requestView(a.Pending))
	}
	all = append(all, bundleViews(a.Bundle)...)
	for _, l := range lists {
		all = append(all, listView(l))
	}
	return all
}

// bundleViews returns the trust bundle twice: as it is served in clear, and as it
// was signed.
func bundleViews(b fleet.TrustBundle) []api.SignedView {
	var all []api.SignedView
	clear, err := trust.Bundle{Version: b.Version, Certificates: b.Certificates, Bridges: b.Bridges}.Payload()
	if err != nil {
		clear = nil // texts always marshal
	}
	payload := []byte(nil)
	if parts := strings.Split(b.Signed, "."); len(parts) == 3 {
		payload, _ = base64.RawURLEncoding.DecodeString(parts[1])
	}
	for place, content := range map[string][]byte{"authority/bundle": clear, "authority/bundle.jws": payload} {
		v := api.SignedView{Place: place, Signed: audit.Signed{Kind: audit.KindBundle, ID: strconv.Itoa(b.Version), Issuer: b.FleetKey}}
		if len(content) > 0 {
			v.Content = audit.Content(content)
		}
		all = append(all, v)
	}
	return all
}

func requestView(p *fleet.PendingCA) api.SignedView {
	v := api.SignedView{Place: "authority/request", At: p.CreatedAt, Signed: audit.Signed{Kind: audit.KindRequest, ID: strconv.Itoa(p.Number)}}
	if csr, err := x509.ParseCertificateRequest(p.CSR); err == nil {
		v.Subject, v.Content = csr.Subject.CommonName, audit.Content(csr.RawTBSCertificateRequest)
	}
	return v
}

func listView(l fleet.RevocationList) api.SignedView {
	v := api.SignedView{
		Place: "authority/" + fleet.ListKey(l.CA), At: l.ThisUpdate,
		Signed: audit.Signed{Kind: audit.KindList, ID: strconv.FormatInt(l.Number, 10), Issuer: l.CA, NotAfter: l.NextUpdate},
	}
	if list, err := x509.ParseRevocationList(l.DER); err == nil && list.Number != nil {
		v.ID, v.Issuer, v.Content = list.Number.String(), hex.EncodeToString(list.AuthorityKeyId), audit.Content(list.RawTBSRevocationList)
	}
	return v
}

// SignedBundles returns what lies signed in one document of the bucket "bundles":
// certificates of a gateway, or what waits for agents and programs. Of the
// certificates above a leaf only those are there that the authority does not have.
func SignedBundles(key string, doc fleet.Bundles, a fleet.Authority) []api.SignedView {
	place := "bundles/" + key + "/"
	known := map[string]bool{}
	for i := range a.CAs {
		for _, c := range parsed(slices.Concat(a.CAs[i].Certificate, a.CAs[i].Chain, a.CAs[i].Anchor)) {
			known[string(c.Raw)] = true
		}
	}
	for _, b := range a.Bridges {
		for _, c := range parsed(b.Certificate) {
			known[string(c.Raw)] = true
		}
	}
	h := holding{known: known, trustDomain: a.TrustDomain}
	for name, c := range map[string]*fleet.ServerCertificate{"server": doc.Server, "canary": doc.Canary} {
		if c != nil {
			h.add(api.SignedView{Place: place + name, Signed: audit.Signed{Kind: audit.KindServer, Subject: key}}, c.Chain)
		}
	}
	for client, p := range doc.Clients {
		h.add(api.SignedView{Place: place + "client/" + client.String(), Signed: audit.Signed{
			Kind: audit.KindCertificate, Subject: identity.Subject(key, client), Generation: p.Generation,
		}}, p.Chain)
	}
	for _, answer := range doc.Answers {
		if len(answer.Chain) > 0 {
			h.add(api.SignedView{Place: place + "answer/" + answer.Command, Signed: audit.Signed{Kind: audit.KindCertificate, Generation: answer.Generation}}, answer.Chain)
		}
	}
	return h.all
}

// holding collects what chains hold.
type holding struct {
	all         []api.SignedView
	known       map[string]bool // certificates of CAs, DER
	trustDomain string
}

// add takes in a chain: its leaf, which is what the view says, and what stands
// above it and is not known.
func (h *holding) add(v api.SignedView, chain []byte) {
	certificates := parsed(chain)
	leaf := certificateView(v.Kind, v.Place, one(chain))
	leaf.Subject, leaf.Generation = v.Subject, v.Generation
	if v.Subject == "" && leaf.Content != "" { // an answer to a program, which is for whoever is named in it
		if cluster, client, err := identity.FromCertificate(certificates[0], h.trustDomain); err == nil {
			leaf.Subject = identity.Subject(cluster, client)
		}
	}
	h.all = append(h.all, leaf)
	for i, c := range certificates {
		if i > 0 && (c == nil || !h.known[string(c.Raw)]) {
			h.all = append(h.all, certificateView(audit.KindCA, v.Place+"/issuer/"+strconv.Itoa(i), c))
		}
	}
}

// certificateView describes a certificate; nil is one that cannot be read.
func certificateView(kind audit.SignedKind, place string, c *x509.Certificate) api.SignedView {
	v := api.SignedView{Place: place, Signed: audit.Signed{Kind: kind}}
	if c != nil {
		v.At = c.NotBefore
		v.ID, v.Subject, v.NotAfter = identity.Serial(c), c.Subject.CommonName, c.NotAfter
		v.Issuer, v.Content = hex.EncodeToString(c.AuthorityKeyId), audit.Content(c.RawTBSCertificate)
	}
	return v
}

// parsed returns the certificates of a text, up to what cannot be read: then there
// is a nil at the end.
func parsed(text []byte) []*x509.Certificate {
	var all []*x509.Certificate
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return all
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return append(all, nil)
		}
		all, text = append(all, c), rest
	}
}

// one returns the first certificate of a text, or nil.
func one(text []byte) *x509.Certificate {
	if all := parsed(text); len(all) > 0 {
		return all[0]
	}
	return nil
}
