package ledger

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

var year = now.AddDate(1, 0, 0)

// root is what an entry says of the certificate of a CA.
func root(number int, serial string) audit.Signed {
	return audit.Signed{
		Kind: audit.KindCA, ID: serial, Subject: fmt.Sprint("Rotor CA ", number), Issuer: fmt.Sprint("id-", number), Content: "tbs " + serial, NotAfter: year,
	}
}

func bridge(of, by int, serial string) audit.Signed {
	s := root(of, serial)
	s.Issuer = fmt.Sprint("id-", by)
	return s
}

func list(ca, number int) audit.Signed {
	return audit.Signed{Kind: audit.KindList, ID: fmt.Sprint(number), Issuer: fmt.Sprint("id-", ca), Content: fmt.Sprint("list ", number)}
}

func bundle(version int) audit.Signed {
	return audit.Signed{Kind: audit.KindBundle, ID: fmt.Sprint(version), Issuer: "pin", Content: fmt.Sprint("bundle ", version)}
}

func server(gateway, serial string, end time.Time) audit.Signed {
	return audit.Signed{Kind: audit.KindServer, ID: serial, Subject: gateway, Issuer: "id-1", Content: "tbs " + serial, NotAfter: end}
}

// there is a thing in a bucket, as it was announced.
func there(s audit.Signed) api.SignedView {
	v := api.SignedView{Signed: s, Place: fmt.Sprintf("authority/%s/%s", s.Kind, s.ID)}
	if s.Kind == audit.KindServer || s.Kind == audit.KindCertificate {
		v.Place = "bundles/" + s.Subject
	}
	return v
}

// onRecord is a CA in the document of the authority.
func onRecord(s audit.Signed, phase fleet.Phase) api.SignedView {
	v := there(s)
	v.CA, v.Phase, v.Bundled = s.Issuer, phase, phase != fleet.PhaseRetired
	return v
}

func severed(s audit.Signed) api.SignedView {
	return api.SignedView{Signed: audit.Signed{Kind: audit.KindCA, ID: s.ID, Issuer: s.Issuer}, Place: "authority/severed/" + s.ID, Severed: true}
}

// What the ledger names and no bucket holds needs an explanation, and what a bucket
// holds needs an entry of the issuer.
func TestHeld(t *testing.T) {
	one, two := root(1, "r1"), root(2, "r2")
	ended := bridge(2, 1, "e")
	ended.NotAfter = now
	other := one
	other.Content = "other"
	both := []api.SignedView{onRecord(one, fleet.PhaseActive), onRecord(two, fleet.PhaseIncoming), there(bundle(2))}
	gone := []api.SignedView{onRecord(one, fleet.PhaseActive), onRecord(two, fleet.PhaseRetired), there(bundle(3))}
	old := there(server("_gateway-a", "s0", year))
	old.At = now.Add(-time.Hour)
	outside := onRecord(two, fleet.PhaseActive)
	outside.Outside = true
	for name, test := range map[string]struct {
		held    []api.SignedView
		named   []audit.Signed
		chain   string // issuer, if empty
		missing string
		loose   string
		back    string
	}{
		"the same":                         {held: both, named: []audit.Signed{one, two, bundle(2)}},
		"another content":                  {held: []api.SignedView{onRecord(other, fleet.PhaseActive)}, named: []audit.Signed{one}, missing: `r1 of Rotor CA 1 by CA id-1 has another content than entry 1`},
		"no entry":                         {held: both, named: []audit.Signed{one, bundle(2)}, missing: "authority/ca/r2: CA certificate r2"},
		"an entry of another chain":        {held: both, named: []audit.Signed{one, two, bundle(2)}, chain: "gateway", missing: "authority/ca/r1"},
		"of an offline root":               {held: []api.SignedView{onRecord(one, fleet.PhaseOutgoing), outside}, named: []audit.Signed{one}},
		"before the first CA":              {held: []api.SignedView{onRecord(one, fleet.PhaseActive), old}, named: []audit.Signed{one}, missing: "bundles/_gateway-a: server s0"},
		"before the ledger":                {held: []api.SignedView{old, there(bundle(2))}, named: []audit.Signed{bundle(2)}},
		"a CA that nobody has":             {held: both, named: []audit.Signed{one, root(7, "r7"), two, bundle(2)}, loose: "r7"},
		"a CA made again":                  {held: both, named: []audit.Signed{one, root(2, "again"), two, bundle(2)}},
		"not in force yet":                 {held: both, named: []audit.Signed{one, two, bundle(2), root(3, "r3"), bridge(3, 1, "b3")}},
		"a bridge that nobody has":         {held: both, named: []audit.Signed{one, two, bridge(2, 1, "b"), bundle(2)}, loose: "b"},
		"a bridge that has ended":          {held: both, named: []audit.Signed{one, two, ended, bundle(2)}},
		"a bridge made again":              {held: append(both, there(bridge(2, 1, "b"))), named: []audit.Signed{one, two, bridge(2, 1, "first"), bridge(2, 1, "b"), bundle(2)}},
		"the one the other way":            {held: append(both, there(bridge(1, 2, "b"))), named: []audit.Signed{one, two, bridge(2, 1, "first"), bridge(1, 2, "b"), bundle(2)}, loose: "first"},
		"a bridge by one that is gone":     {held: gone, named: []audit.Signed{one, two, bridge(1, 2, "b"), bundle(3)}},
		"one to that, severed":             {held: append(gone, severed(bridge(2, 1, "b"))), named: []audit.Signed{one, two, bridge(2, 1, "b"), bundle(3)}},
		"one to that, forgotten":           {held: gone, named: []audit.Signed{one, two, bridge(2, 1, "b"), bundle(3)}, loose: "b"},
		"a gateway":                        {held: append(both, there(server("_gateway-a", "s2", year))), named: []audit.Signed{one, two, bundle(2), server("_gateway-a", "s1", year), server("_gateway-a", "s2", year)}},
		"a gateway's that is later":        {held: append(both, there(server("_gateway-a", "s2", year))), named: []audit.Signed{one, two, bundle(2), server("_gateway-a", "s2", year), server("_gateway-a", "s3", year.Add(1))}, loose: "s3"},
		"a gateway that nobody has":        {held: both, named: []audit.Signed{one, two, bundle(2), server("_gateway-z", "z", year)}, loose: "z"},
		"for another gateway":              {held: append(both, there(server("_gateway-a", "s1", year))), named: []audit.Signed{one, two, bundle(2), server("_gateway-b", "s1", year)}, missing: "bundles/_gateway-a", loose: "s1"},
		"a CRL":                            {held: append(both, there(list(1, 5))), named: []audit.Signed{one, two, bundle(2), list(1, 4), list(1, 5)}},
		"a CRL of before":                  {held: append(both, there(list(1, 4))), named: []audit.Signed{one, two, bundle(2), list(1, 4), list(1, 5)}, back: "CRL 5 of CA id-1"},
		"no CRL":                           {held: both, named: []audit.Signed{one, two, bundle(2), list(1, 4)}, back: "CRL 4 of CA id-1"},
		"no CRL of one that is gone":       {held: gone, named: []audit.Signed{one, two, bundle(3), list(2, 4)}},
		"a trust bundle of before":         {held: both, named: []audit.Signed{one, two, bundle(2), bundle(3)}, back: "trust bundle 3"},
		"two trust bundles of one version": {held: both, named: []audit.Signed{one, two, {Kind: audit.KindBundle, ID: "2", Issuer: "pin", Content: "lost"}, bundle(2)}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBook(t)
			chain := test.chain
			if chain == "" {
				chain = "issuer"
			}
			for i, s := range test.named {
				b.write(t, chain, audit.Entry{Action: "x.sign", Request: fmt.Sprint(i), Signed: []audit.Signed{s}})
			}
			c := &Checker{Held: &Held{Now: now}}
			for _, v := range test.held {
				c.Held.Put(v)
			}
			if err := check(c, b.entries, uint64(len(b.entries))); err != nil {
				t.Fatal(err)
			}
			says := func(err error, want string) {
				t.Helper()
				if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want %q", err, want)
				}
			}
			says(c.Held.Missing(), test.missing)
			if chain != "issuer" {
				return
			}
			says(c.Held.PutBack(now.Add(fleet.ListRefresh+time.Second)), test.back)
			loose := ""
			for _, u := range c.Held.Unheld(now.Add(time.Second)) {
				loose += u.ID
			}
			if loose != test.loose || len(c.Held.Unheld(now)) != 0 || c.Held.PutBack(now) != nil {
				t.Errorf("unheld: %q, want %q; and nothing before its time", loose, test.loose)
			}
		})
	}
}

// What waits for an agent is what is on record.
func TestWhatWaitsIsOnRecord(t *testing.T) {
	pickUp := func(subject string, generation int, serial string) api.SignedView {
		return there(audit.Signed{Kind: audit.KindCertificate, ID: serial, Subject: subject, Generation: generation, Issuer: "ca", Content: "content of " + serial})
	}
	r := &Records{}
	r.Put(api.RecordView{Cluster: "edge-01", Client: fleet.ClientKey{Kind: "kms"}, Number: 3, Generations: []api.RecordGeneration{on(2, "b", "ca"), on(3, "c", "ca")}})
	for _, test := range []struct {
		name string
		v    api.SignedView
		says string
	}{
		{"the newest", pickUp("edge-01/kms", 3, "c"), ""},
		{"one that fell out of the record", pickUp("edge-01/kms", 1, "a"), ""},
		{"one that was thrown away", pickUp("edge-01/kms", 3, "lost"), "another is on record"},
		{"not on record", pickUp("edge-01/kms", 4, "d"), "is on no record"},
		{"of nobody", pickUp("edge-01/csi", 1, "x"), "is on no record"},
	} {
		h := &Held{}
		h.Put(test.v)
		err := r.Agree(h.Waiting)
		if (err != nil) != (test.says != "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %q", test.name, err, test.says)
		}
	}
}

// Only the issuer signs: what another chain says of it counts for nothing.
func TestOnlyTheIssuerNames(t *testing.T) {
	b := newBook(t)
	b.write(t, "gateway", audit.Entry{Action: "credential.sign", Request: "1 x", Signed: pair("edge-01/kms", 1, "a", "ca")})
	c := &Checker{Records: &Records{}}
	c.Records.Put(api.RecordView{Cluster: "edge-01", Client: fleet.ClientKey{Kind: "kms"}, Number: 1, Generations: []api.RecordGeneration{on(1, "a", "ca")}})
	if err := check(c, b.entries, 1); err != nil || c.Records.Complete() {
		t.Errorf("complete by an entry of the gateway: %v", err)
	}
}
