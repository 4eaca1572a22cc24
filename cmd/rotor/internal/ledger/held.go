package ledger

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Held is everything with a signature that lies in a bucket, beside the
// generations on record: CA certificates, bridges, CRLs, the trust bundle,
// certificates of gateways, what waits for pick-up. Of each the ledger has to name
// exactly that content. And what the ledger names has to lie there, or to have
// ended, to be replaced by a later one, or to have been made again in another form
// before anybody saw it.
type Held struct {
	Now time.Time // on the clock of the fleet: what has ended by then need not be there

	things  map[id][]*thing
	cas     map[string]api.SignedView // by the id of the CA
	servers map[string]time.Time      // by gateway: the latest end
	lists   map[string]int64          // by CA: number of its CRL
	bundle  int64                     // version of the trust bundle
	inForce int64                     // entry that names that bundle
	between map[id]bool               // issuer and subject of CA certificates that are there
	begun   beginning
	loose   []Unheld            // CA certificates and certificates of gateways
	newest  map[string]numbered // by CA: the CRL with the highest number that is named; that of the trust bundle under ""
	count   int
}

// thing is one thing in a bucket.
type thing struct {
	api.SignedView
	named bool
	other audit.Entry // names it with another content
}

// numbered is the highest number of a kind that an entry names.
type numbered struct {
	number int64
	entry  audit.Entry
}

// Unheld is what an entry names, and nothing explains that it lies in no bucket.
type Unheld struct {
	audit.Signed
	Entry audit.Entry
}

func (u Unheld) String() string {
	return fmt.Sprintf("%s, which entry %d of chain %q names, lies in no bucket, and nothing says why", what(u.Signed), u.Entry.Seq, u.Entry.Chain)
}

// what names something that is signed.
func what(s audit.Signed) string {
	switch s.Kind {
	case audit.KindList:
		return fmt.Sprintf("CRL %s of CA %s", s.ID, s.Issuer)
	case audit.KindBundle:
		return "trust bundle " + s.ID
	case audit.KindRequest:
		return fmt.Sprintf("the request of CA %s", s.ID)
	case audit.KindCA:
		return fmt.Sprintf("CA certificate %s of %s by CA %s", s.ID, s.Subject, s.Issuer)
	case audit.KindCertificate, audit.KindServer, audit.KindToken:
	}
	return fmt.Sprintf("%s %s of %s", s.Kind, s.ID, s.Subject)
}

// beginning is when a ledger began to name what is signed.
type beginning struct {
	at    time.Time
	whole bool // it names the first CA: nothing was signed before
}

func (b *beginning) note(e audit.Entry) {
	if len(e.Signed) > 0 && b.at.IsZero() {
		b.at = e.Time
	}
	b.whole = b.whole || slices.ContainsFunc(e.Signed, func(s audit.Signed) bool { return s.Kind == audit.KindCA && s.Subject == "Rotor CA 1" })
}

// before reports whether something of a moment is older than what entries name.
func (b *beginning) before(at time.Time) bool {
	return !b.whole && !at.IsZero() && at.Before(b.at.Add(-fleet.Backdate))
}

// signer is the chain whose entries name what is signed. Who writes another cannot
// sign, and shall not be able to say so.
const signer = "issuer"

// Put adds one thing. All of it comes before the first entry: what is signed
// meanwhile is in the ledger before it is in a bucket.
func (h *Held) Put(v api.SignedView) {
	if h.things == nil {
		h.things, h.cas, h.servers, h.lists = map[id][]*thing{}, map[string]api.SignedView{}, map[string]time.Time{}, map[string]int64{}
	}
	h.count++
	key := keyOf(v.Signed)
	h.things[key] = append(h.things[key], &thing{SignedView: v})
	number, _ := strconv.ParseInt(v.ID, 10, 64)
	switch {
	case v.CA != "":
		h.cas[v.CA] = v
	case v.Kind == audit.KindServer && v.NotAfter.After(h.servers[v.Subject]):
		h.servers[v.Subject] = v.NotAfter
	case v.Kind == audit.KindList:
		h.lists[v.Issuer] = max(h.lists[v.Issuer], number)
	case v.Kind == audit.KindBundle:
		h.bundle = max(h.bundle, number)
	}
}

// keyOf is what two things share that are the same, or of which one takes the place
// of the other.
func keyOf(s audit.Signed) id {
	issuer := s.Issuer
	if s.Kind == audit.KindRequest {
		issuer = "" // its own key
	}
	return idOf(s.Kind, s.ID, issuer)
}

// add notes what an entry names.
func (h *Held) add(e audit.Entry) {
	if e.Chain != signer || e.Action == actionWithhold {
		return
	}
	h.begun.note(e)
	for _, s := range e.Signed {
		there := false
		for _, t := range h.things[keyOf(s)] {
			if !t.is(s) {
				t.other = e
				continue
			}
			t.named = true
			there = there || t.Kind != audit.KindCA || t.atHome() // that it stands in a chain is not enough
		}
		h.note(e, s, there)
	}
}

// is reports whether a thing is what an entry names.
func (t *thing) is(s audit.Signed) bool {
	switch {
	case t.Severed:
		return true
	case t.Content != s.Content:
		return false
	case t.Kind == audit.KindCertificate:
		return t.Subject == s.Subject && t.Generation == s.Generation
	case t.Kind == audit.KindServer:
		return t.Subject == s.Subject
	}
	return true
}

// atHome reports whether a certificate of a CA lies where the authority is.
func (t *thing) atHome() bool { return strings.HasPrefix(t.Place, "authority/") }

func (h *Held) note(e audit.Entry, s audit.Signed, there bool) {
	highest := func(of string) {
		number, err := strconv.ParseInt(s.ID, 10, 64)
		if h.newest == nil {
			h.newest = map[string]numbered{}
		}
		if err == nil && number > h.newest[of].number {
			h.newest[of] = numbered{number, e}
		}
	}
	switch s.Kind {
	case audit.KindCA:
		if there {
			if h.between == nil {
				h.between = map[id]bool{}
			}
			h.between[idOf(s.Issuer, s.Subject)] = true
			return
		}
	case audit.KindServer:
		if there {
			return
		}
	case audit.KindList:
		highest(s.Issuer)
		return
	case audit.KindBundle:
		highest("")
		if there {
			h.inForce = max(h.inForce, e.Seq)
		}
		return
	case audit.KindCertificate, audit.KindToken, audit.KindRequest:
		return
	}
	if s.NotAfter.After(h.Now) {
		h.loose = append(h.loose, Unheld{s, e})
	}
}

// Missing returns an error that names something in a bucket of which no entry says
// that it was signed; nil if there is none.
func (h *Held) Missing() error {
	var all []*thing
	for _, same := range h.things {
		all = append(all, same...)
	}
	slices.SortFunc(all, func(a, b *thing) int { return cmp.Compare(a.Place, b.Place) })
	for _, t := range all {
		if t.CA != "" && t.Phase != fleet.PhaseRetired && !t.Bundled {
			return fmt.Errorf("%w: %s: CA %s is %s, and the trust bundle does not have it", audit.ErrBroken, t.Place, t.CA, t.Phase)
		}
		if t.named || t.Outside || h.begun.before(t.At) || t.Kind == audit.KindBundle && h.newest[""].number == 0 && !h.begun.whole {
			continue
		}
		if t.other.Seq > 0 {
			return fmt.Errorf("%w: %s: %s has another content than entry %d of chain %q says", audit.ErrBroken, t.Place, what(t.Signed), t.other.Seq, t.other.Chain)
		}
		return fmt.Errorf("%w: %s: %s is there, and no entry of the ledger says that it was signed", audit.ErrBroken, t.Place, what(t.Signed))
	}
	return nil
}

// PutBack returns an error if the ledger named, before a moment, a later CRL or
// trust bundle than there is: an older one was put in its place.
func (h *Held) PutBack(before time.Time) error {
	if n := h.newest[""]; n.number > h.bundle && n.entry.Time.Before(before) {
		return fmt.Errorf("%w: trust bundle %d, which entry %d of chain %q names, is not handed out, and %d is: an older one was put in its place",
			audit.ErrBroken, n.number, n.entry.Seq, n.entry.Chain, h.bundle)
	}
	for _, ca := range h.cas {
		n := h.newest[ca.CA]
		// An issuer that was killed before it stored one makes the next within a day.
		if ca.Phase != fleet.PhaseRetired && n.number > h.lists[ca.CA] && n.entry.Time.Before(before.Add(-fleet.ListRefresh)) {
			return fmt.Errorf("%w: CRL %d of CA %s, which entry %d of chain %q names, is not handed out, and %d is: an older one was put in its place",
				audit.ErrBroken, n.number, ca.CA, n.entry.Seq, n.entry.Chain, h.lists[ca.CA])
		}
	}
	return nil
}

// Unheld returns the certificates of CAs and gateways that the ledger named before
// a moment, that have not ended, and of which nothing explains that they lie in no
// bucket.
func (h *Held) Unheld(before time.Time) []Unheld {
	var all []Unheld
	for _, u := range h.loose {
		if u.Entry.Time.Before(before) && !h.explained(u) {
			all = append(all, u)
		}
	}
	return all
}

func (h *Held) explained(u Unheld) bool {
	by, known := h.cas[u.Issuer]
	switch {
	case known && by.Phase == fleet.PhaseRetired:
		return true // nobody builds on what it has signed
	case u.Kind == audit.KindServer:
		return !h.servers[u.Subject].Before(u.NotAfter) // the gateway has a later one
	case h.inForce > 0 && u.Entry.Seq > h.inForce:
		return true // the change that it belongs to was not made, or not yet
	case !known:
		return false
	default:
		// Of two issuers that made one change, or one that was killed and made it
		// again, one has stored its own: the other never left the issuer.
		return by.Subject == u.Subject || h.between[idOf(u.Issuer, u.Subject)]
	}
}

// Matched returns how many things lie in buckets.
func (h *Held) Matched() int { return h.count }

// Waiting returns what waits for agents and programs.
func (h *Held) Waiting(yield func(api.SignedView) bool) {
	for _, same := range h.things {
		for _, t := range same {
			if t.Kind == audit.KindCertificate && !yield(t.SignedView) {
				return
			}
		}
	}
}
