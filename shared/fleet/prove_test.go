package fleet

import (
	"testing"
	"time"
)

// An agent proves that it trusts a CA by all of version, hash and handshake, and
// by nothing less.
func TestAgentProves(t *testing.T) {
	since := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	authority := func() *Authority {
		return &Authority{
			CAs: []CA{
				{ID: "old", Phase: PhaseActive, Bundle: 1},
				{ID: "new", Phase: PhaseIncoming, Bundle: 5},
				{ID: "gone", Phase: PhaseRetired, Bundle: 1},
			},
			Bundle: TrustBundle{Version: 6, Signed: "signed"},
		}
	}
	hash := authority().Bundle.Hash()
	for name, test := range map[string]struct {
		spoil func(*Agent, *Authority)
		ca    string
		why   string
		since time.Time
	}{
		"proven":                  {since: since},
		"with an older bundle":    {spoil: func(a *Agent, _ *Authority) { a.Bundle, a.BundleHash = 5, "of 5" }, since: since},
		"a CA that signs":         {spoil: func(_ *Agent, d *Authority) { d.CAs[1].Phase = PhaseActive }, since: since},
		"unknown CA":              {ca: "other", why: `CA "other" is not trusted`},
		"no CA":                   {spoil: func(a *Agent, _ *Authority) { a.Canary.CA = "" }, ca: "-", why: `CA "-" is not trusted`},
		"retired CA":              {spoil: func(a *Agent, _ *Authority) { a.Canary.CA = "gone" }, ca: "gone", why: `CA "gone" is not trusted`},
		"nothing told":            {spoil: func(a *Agent, _ *Authority) { *a = Agent{ID: "a"} }, why: "has not loaded trust bundle 5 yet"},
		"bundle before":           {spoil: func(a *Agent, _ *Authority) { a.Bundle = 4 }, why: "has loaded trust bundle 4, and the new CA is in 5"},
		"first bundle not known":  {spoil: func(a *Agent, d *Authority) { a.Bundle, d.CAs[1].Bundle = 5, 0 }, why: "has loaded trust bundle 5, and the new CA is in 6"},
		"bundle of the future":    {spoil: func(a *Agent, _ *Authority) { a.Bundle = 7 }, why: "has loaded trust bundle 7, and the newest one is 6"},
		"agent of before":         {spoil: func(a *Agent, _ *Authority) { a.BundleHash, a.Version = "", "v1" }, why: `has not told the hash of its trust bundle: update the agent, its version is "v1"`},
		"the same, older bundle":  {spoil: func(a *Agent, _ *Authority) { a.Bundle, a.BundleHash = 5, "" }, why: `has not told the hash of its trust bundle: update the agent, its version is ""`},
		"another bundle":          {spoil: func(a *Agent, _ *Authority) { a.BundleHash = "0123456789abcdef" }, why: "its trust bundle 6 has the hash 0123456789ab, and the one that was signed has " + hash[:12]},
		"cannot install":          {spoil: func(a *Agent, _ *Authority) { a.Bundle, a.BundleFailure = 4, &BundleFailure{"disk full", since} }, why: "cannot install trust bundle 6: disk full", since: since},
		"cannot any more":         {spoil: func(a *Agent, _ *Authority) { a.BundleFailure = &BundleFailure{"disk full", since} }, why: "cannot install trust bundle 6: disk full", since: since},
		"no handshake":            {spoil: func(a *Agent, _ *Authority) { a.Canary = nil }, why: "has not shown a handshake with the new CA yet"},
		"handshake with the old":  {spoil: func(a *Agent, _ *Authority) { a.Canary.CA = "old" }, why: "has not shown a handshake with the new CA yet"},
		"handshake that fails":    {spoil: func(a *Agent, _ *Authority) { a.Canary.Error = "not trusted" }, why: "its handshake with the new CA fails: not trusted", since: since},
		"proof of a CA of before": {ca: "old", why: "has not shown a handshake with the new CA yet"},
	} {
		t.Run(name, func(t *testing.T) {
			a := &Agent{ID: "a", Bundle: 6, BundleHash: hash, Canary: &CanaryProof{CA: "new", Since: since}}
			doc, ca := authority(), "new"
			if test.spoil != nil {
				test.spoil(a, doc)
			}
			if test.ca != "" {
				ca = test.ca
			}
			why, at, ok := a.Proves(doc, ca)
			if why != test.why || !at.Equal(test.since) || ok != (test.why == "") {
				t.Errorf("got %q since %s, %v; want %q since %s", why, at, ok, test.why, test.since)
			}
		})
	}
}
