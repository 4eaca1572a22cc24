package fleet

import (
	"testing"
	"time"
)

// Bridges lead between CAs that are trusted and valid at one time, in both
// directions, and never to one that is compromised.
func TestBridgesWanted(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, 1, n, 0, 0, 0, 0, time.UTC) }
	ca := func(id string, phase Phase, from, to int) CA {
		return CA{ID: id, Phase: phase, NotBefore: day(from), NotAfter: day(to), Certificate: []byte(id)}
	}
	tainted, anchored, sibling := ca("t", PhaseOutgoing, 1, 20), ca("x", PhaseActive, 1, 20), ca("y", PhaseIncoming, 1, 20)
	tainted.TaintedAt, anchored.Anchor, sibling.Anchor = day(2), []byte("root"), []byte("root")
	for name, tt := range map[string]struct {
		cas  []CA
		want string
	}{
		"one":               {[]CA{ca("a", PhaseActive, 1, 20)}, ""},
		"two":               {[]CA{ca("a", PhaseActive, 1, 20), ca("b", PhaseIncoming, 10, 30)}, "a<b b<a "},
		"one is retired":    {[]CA{ca("a", PhaseRetired, 1, 20), ca("b", PhaseActive, 10, 30)}, ""},
		"one ended before":  {[]CA{ca("a", PhaseActive, 1, 10), ca("b", PhaseIncoming, 10, 30)}, ""},
		"compromised":       {[]CA{tainted, ca("b", PhaseActive, 10, 30)}, "b<t "},
		"of one root":       {[]CA{anchored, sibling}, ""},
		"of a root and not": {[]CA{anchored, ca("b", PhaseIncoming, 10, 30)}, "x<b b<x "},
	} {
		got := ""
		doc := Authority{CAs: tt.cas}
		for _, b := range doc.BridgesWanted() {
			got += b.Of + "<" + b.By + " "
		}
		if got != tt.want {
			t.Errorf("%s: %q; want %q", name, got, tt.want)
		}
	}
}
