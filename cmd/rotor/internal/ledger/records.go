package ledger

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
)

// Records is what is on record, in a form that is small for a large fleet: it is
// held against the entries that name what was signed. Both are compared by the
// serial number, the CA, the bytes that were signed, and the id of the token.
//
// Of each generation on record the ledger has to name exactly that certificate and
// that token. It may name another beside it, of another command or of another CA,
// when two were made at once and one got on record: the other never left the
// issuer. What it names of a generation that nobody has on record yet must get
// there: Ahead lists what has not.
type Records struct {
	Limit int // of Ahead; 10,000 if zero

	generations map[id]*recorded
	clients     map[id]*client
	begun       beginning
	ahead       map[string]Unrecorded
	withheld    int
	matched     int
}

// id is a hash in place of a name.
type id [16]byte

// actionWithhold is of entries that name what was announced and thrown away.
const actionWithhold = "credential.withhold"

func idOf(parts ...any) id {
	sum := sha256.Sum256([]byte(fmt.Sprintf("%q", parts)))
	return id(sum[:16])
}

type client struct {
	number  int
	revoked bool
}

// recorded is one generation on record.
type recorded struct {
	certificate, token id
	content            id   // zero if the record does not say
	command            id   // of the entry that named it
	other              id   // command and CA of the last that was announced beside it
	certain, tokened   bool // named by an entry
}

// Unrecorded is a certificate that was announced and is on no record.
type Unrecorded struct {
	Entry      audit.Entry `json:"-"`
	Chain      string      `json:"chain"`
	Seq        int64       `json:"seq"`
	Subject    string      `json:"subject"`
	Generation int         `json:"generation"`
	Serial     string      `json:"serial"`
}

func (u Unrecorded) String() string {
	return fmt.Sprintf("certificate %s of %s (generation %d), which entry %d of chain %q names", u.Serial, u.Subject, u.Generation, u.Seq, u.Chain)
}

// Put adds what is on record of one client. All of it comes before the first
// entry: what is made meanwhile is in the ledger before it is on record.
func (r *Records) Put(v api.RecordView) {
	if r.generations == nil {
		r.generations, r.clients, r.ahead = map[id]*recorded{}, map[id]*client{}, map[string]Unrecorded{}
	}
	subject := v.Cluster + "/" + v.Client.String()
	r.clients[idOf(subject)] = &client{v.Number, v.Revoked}
	for _, g := range v.Generations {
		have := &recorded{
			certificate: idOf(g.Serial, g.Issuer), token: idOf(g.TokenID),
		}
		if g.TBS != "" {
			have.content = idOf(g.TBS)
		}
		r.generations[idOf(subject, g.Number)] = have
	}
}

// add holds what an entry names against the records.
func (r *Records) add(e audit.Entry) error {
	if e.Chain != signer {
		return nil
	}
	r.begun.note(e)
	withheld := e.Action == actionWithhold
	for _, s := range e.Signed {
		switch {
		case withheld && s.Kind == audit.KindCertificate:
			if _, known := r.ahead[s.ID]; known {
				r.withheld++
			}
			delete(r.ahead, s.ID)
		case withheld:
		case s.Kind == audit.KindCertificate:
			if err := r.certificate(e, s); err != nil {
				return err
			}
		case s.Kind == audit.KindToken:
			if have := r.generations[idOf(s.Subject, s.Generation)]; have != nil && have.token == idOf(s.ID) {
				have.tokened = true
			}
		}
	}
	return nil
}

func (r *Records) certificate(e audit.Entry, s audit.Signed) error {
	named := Unrecorded{e, e.Chain, e.Seq, s.Subject, s.Generation, s.ID}
	have := r.generations[idOf(s.Subject, s.Generation)]
	switch {
	case have == nil:
		known := r.clients[idOf(s.Subject)]
		if known == nil || s.Generation > known.number {
			if len(r.ahead) >= r.limit() {
				return fmt.Errorf("%w: more than %d certificates are on no record, such as %s", audit.ErrBroken, r.limit(), named)
			}
			if r.ahead == nil {
				r.ahead = map[string]Unrecorded{}
			}
			r.ahead[s.ID] = named
		}
		return nil // else it fell out of the record
	case have.certificate == idOf(s.ID, s.Issuer):
		if have.content != (id{}) && have.content != idOf(s.Content) {
			return fmt.Errorf("%w: %s is on record with another content", audit.ErrBroken, named)
		}
		if !have.certain {
			r.matched++
		}
		have.certain, have.command = true, idOf(e.Command(), s.Issuer)
	default:
		have.other = idOf(e.Command(), s.Issuer)
		r.withheld++
	}
	// The same command and the same CA lead to the same certificate.
	if have.certain && have.command == have.other {
		return fmt.Errorf("%w: %s: the same command has made two certificates of this generation", audit.ErrBroken, named)
	}
	return nil
}

func (r *Records) limit() int {
	if r.Limit > 0 {
		return r.Limit
	}
	return 10_000
}

// Complete reports whether an entry says of everything on record that it was
// signed.
func (r *Records) Complete() bool {
	for _, have := range r.generations {
		if !have.certain || !have.tokened {
			return false
		}
	}
	return true
}

// Missing returns an error that names a generation on record of which no entry
// says that it was signed; nil if there is none. What was issued before entries
// named what is signed counts for nothing.
func (r *Records) Missing(views func(yield func(api.RecordView) bool)) error {
	for v := range views {
		subject := v.Cluster + "/" + v.Client.String()
		old := slices.ContainsFunc(v.Generations, func(g api.RecordGeneration) bool { return r.begun.before(g.At) })
		for _, g := range v.Generations {
			have := r.generations[idOf(subject, g.Number)]
			if have == nil || have.certain && have.tokened || old && (g.At.IsZero() || r.begun.before(g.At)) {
				continue
			}
			what := "certificate " + g.Serial
			if have.certain {
				what = "token " + g.TokenID
			}
			return fmt.Errorf("%w: %s of %s (generation %d) is on record, and no entry of the ledger says that it was signed", audit.ErrBroken, what, subject, g.Number)
		}
	}
	return nil
}

// Agree returns an error that names something that waits for an agent or a program
// and is not what is on record; nil if there is none.
func (r *Records) Agree(waiting func(yield func(api.SignedView) bool)) error {
	for v := range waiting {
		have, known := r.generations[idOf(v.Subject, v.Generation)], r.clients[idOf(v.Subject)]
		switch {
		case have == nil && (known == nil || v.Generation > known.number):
			return fmt.Errorf("%w: %s: %s (generation %d) waits there, and is on no record", audit.ErrBroken, v.Place, what(v.Signed), v.Generation)
		case have != nil && (have.certificate != idOf(v.ID, v.Issuer) || have.content != (id{}) && have.content != idOf(v.Content)):
			return fmt.Errorf("%w: %s: %s (generation %d) waits there, and another is on record", audit.ErrBroken, v.Place, what(v.Signed), v.Generation)
		}
	}
	return nil
}

// Ahead returns what was announced before a moment, and is on no record and not
// said to be withheld.
func (r *Records) Ahead(before time.Time) []Unrecorded {
	var all []Unrecorded
	for _, u := range r.ahead {
		if u.Entry.Time.Before(before) {
			all = append(all, u)
		}
	}
	slices.SortFunc(all, func(a, b Unrecorded) int {
		if a.Seq != b.Seq {
			return int(a.Seq - b.Seq)
		}
		return strings.Compare(a.Serial, b.Serial)
	})
	return all
}

// Explained reports whether what is on record of a client by now explains that a
// certificate is not: it is by now, a later generation is, or the client is
// revoked, and nothing is issued to it.
func Explained(u Unrecorded, now api.RecordView) bool {
	return now.Revoked || now.Number >= u.Generation
}

// Matched returns how many certificates on record an entry names, and how many
// were announced and never got on record.
func (r *Records) Matched() (certificates, withheld int) { return r.matched, r.withheld }
