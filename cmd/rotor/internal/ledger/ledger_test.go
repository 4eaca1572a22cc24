package ledger

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/trust"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// book is a ledger of the test: all chains in one list.
type book struct {
	entries [][]byte
	last    map[string]uint64
	key     ed25519.PrivateKey
	pin     string
}

func newBook(t *testing.T) *book {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	pin, err := trust.Pin(public)
	if err != nil {
		t.Fatal(err)
	}
	return &book{last: map[string]uint64{}, key: private, pin: pin}
}

// page is one chain of a book.
type page struct {
	*book
	chain string
}

func (p page) Last(ctx context.Context) (audit.Message, error) { return p.At(ctx, p.last[p.chain]) }

func (p page) At(_ context.Context, position uint64) (audit.Message, error) {
	if position == 0 {
		return audit.Message{}, nil
	}
	return audit.Message{Position: position, Data: p.entries[position-1]}, nil
}

func (p page) Append(_ context.Context, message []byte, _ string, _ uint64) (uint64, bool, error) {
	p.entries = append(p.entries, message)
	p.last[p.chain] = uint64(len(p.entries))
	return p.last[p.chain], false, nil
}

func (b *book) write(t *testing.T, chain string, e audit.Entry) {
	t.Helper()
	e.Actor = "admin"
	if e.Action == "" {
		e.Action, e.Request = "x.y", fmt.Sprint(len(b.entries))
	}
	if err := audit.New(chain, page{b, chain}, func() time.Time { return now }).Append(t.Context(), e); err != nil {
		t.Fatal(err)
	}
}

// checkpoint signs the heads as they are and returns the text.
func (b *book) checkpoint(t *testing.T) string {
	t.Helper()
	c := trust.Checkpoint{At: now, Heads: map[string]trust.Head{}}
	for chain, at := range b.last {
		e, err := audit.Parse(b.entries[at-1])
		if err != nil {
			t.Fatal(err)
		}
		c.Heads[chain] = trust.Head{Seq: e.Seq, Hash: e.Hash, Position: at}
	}
	signed, err := trust.SignCheckpoint(b.key, c)
	if err != nil {
		t.Fatal(err)
	}
	b.write(t, "issuer", audit.Entry{Action: audit.ActionCheckpoint, Request: fmt.Sprint(len(b.entries)), Checkpoint: signed})
	return signed
}

func check(c *Checker, entries [][]byte, end uint64) error {
	for i, raw := range entries {
		if err := c.Add(uint64(i+1), raw); err != nil {
			return err
		}
	}
	return c.Finish(end)
}

func TestCheckpoints(t *testing.T) {
	b, other := newBook(t), newBook(t)
	for range 3 {
		b.write(t, "gateway", audit.Entry{})
		b.write(t, "issuer", audit.Entry{})
		b.checkpoint(t)
	}
	b.write(t, "gateway", audit.Entry{})
	newest := b.checkpoint(t)
	n := uint64(len(b.entries))
	for name, test := range map[string]struct {
		checker *Checker
		entries [][]byte
		end     uint64
		says    string
	}{
		"whole":                     {&Checker{FleetKey: b.pin, Newest: newest}, b.entries, n, ""},
		"of any key":                {&Checker{}, b.entries, 0, ""},
		"of another key":            {&Checker{FleetKey: other.pin}, b.entries, n, `the checkpoint in entry 2 of chain "issuer"`},
		"cut off before it":         {&Checker{FleetKey: b.pin, Newest: newest}, b.entries[:n-2], n - 2, `entry 4 of chain "gateway" is missing`},
		"the checkpoint cut off":    {&Checker{FleetKey: b.pin, Newest: newest}, b.entries[:n-1], n - 1, `entry 7 of chain "issuer", or one behind it, is missing`},
		"nothing left":              {&Checker{FleetKey: b.pin, Newest: newest}, nil, 0, `entry 1 of chain "gateway" is missing`},
		"deleted at the end":        {&Checker{FleetKey: b.pin}, b.entries, n + 2, fmt.Sprintf("nothing lies at position %d to %d", n+1, n+2)},
		"the newest one is no text": {&Checker{FleetKey: b.pin, Newest: "x"}, b.entries, n, "the newest checkpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			err := check(test.checker, test.entries, test.end)
			if test.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				if got := test.checker.Checkpoints(); got.Count != 4 || got.SignedBy != b.pin || got.Pinned != (test.checker.FleetKey != "") || got.Covered["gateway"] != 4 {
					t.Errorf("%+v", got)
				}
				if left := len(test.checker.hashes["gateway"]); left != 1 {
					t.Errorf("%d hashes are kept", left)
				}
				return
			}
			if err == nil || !errors.Is(err, audit.ErrBroken) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v, want %q", err, test.says)
			}
		})
	}
}

// pair is what an entry names of one generation.
func pair(subject string, generation int, serial, ca string) []audit.Signed {
	return []audit.Signed{
		{Kind: audit.KindCertificate, ID: serial, Subject: subject, Generation: generation, Issuer: ca, Content: "content of " + serial},
		{Kind: audit.KindToken, ID: "token of " + serial, Subject: subject, Generation: generation},
	}
}

func on(number int, serial, ca string) api.RecordGeneration {
	return api.RecordGeneration{Number: number, At: now, Serial: serial, Issuer: ca, TBS: "content of " + serial, TokenID: "token of " + serial}
}

// signing is an entry that names what is signed.
type signing struct {
	action, request string
	signed          []audit.Signed
}

func sign(request string, signed []audit.Signed) signing {
	return signing{"credential.sign", request + " x", signed}
}

// The ledger and the records have to say the same.
func TestRecords(t *testing.T) {
	const subject = "edge-01/kms"
	a1, b1, b2 := pair(subject, 1, "a", "ca"), pair(subject, 1, "b", "ca"), pair(subject, 2, "b", "ca")
	other := on(1, "a", "ca")
	other.TBS = "other"
	for name, test := range map[string]struct {
		record  []api.RecordGeneration
		signed  []signing
		says    string // error
		missing string
		ahead   []string
	}{
		"the same":                  {record: []api.RecordGeneration{on(1, "a", "ca"), on(2, "b", "ca")}, signed: []signing{sign("1", a1), sign("2", b2)}},
		"written twice":             {record: []api.RecordGeneration{on(1, "a", "ca")}, signed: []signing{sign("1", a1), sign("1", a1)}},
		"on record alone":           {record: []api.RecordGeneration{on(1, "a", "ca"), on(2, "b", "ca")}, signed: []signing{sign("1", a1)}, missing: "certificate b of edge-01/kms (generation 2) is on record"},
		"the token on record alone": {record: []api.RecordGeneration{on(1, "a", "ca")}, signed: []signing{sign("1", a1[:1])}, missing: "token token of a of edge-01/kms"},
		"another content":           {record: []api.RecordGeneration{other}, signed: []signing{sign("1", a1)}, says: "is on record with another content"},
		"of another CA":             {record: []api.RecordGeneration{on(1, "a", "ca-2")}, signed: []signing{sign("1", a1)}, missing: "certificate a"},
		"overtaken by a command":    {record: []api.RecordGeneration{on(1, "a", "ca")}, signed: []signing{sign("2", b1), sign("1", a1)}},
		"a CA between two tries":    {record: []api.RecordGeneration{on(1, "a", "ca-2")}, signed: []signing{sign("1", b1), sign("1", pair(subject, 1, "a", "ca-2"))}},
		"two of one command":        {record: []api.RecordGeneration{on(1, "a", "ca")}, signed: []signing{sign("1", b1), sign("1", a1)}, says: "the same command has made two certificates"},
		"the other way round":       {record: []api.RecordGeneration{on(1, "a", "ca")}, signed: []signing{sign("1", a1), sign("1", b1)}, says: "the same command has made two certificates"},
		"fell out of the record":    {record: []api.RecordGeneration{on(4, "d", "ca")}, signed: []signing{sign("1", a1), sign("4", pair(subject, 4, "d", "ca"))}},
		"not on record yet":         {record: []api.RecordGeneration{on(1, "a", "ca")}, signed: []signing{sign("1", a1), sign("2", b2)}, ahead: []string{"b"}},
		"of somebody else":          {record: []api.RecordGeneration{on(1, "a", "ca")}, signed: []signing{sign("1", a1), sign("9", pair("edge-09/kms", 1, "z", "ca"))}, ahead: []string{"z"}},
		"withheld":                  {record: []api.RecordGeneration{on(1, "a", "ca")}, signed: []signing{sign("1", a1), sign("2", b2), {"credential.withhold", "withhold 2 x", b2}}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBook(t)
			for _, s := range test.signed {
				b.write(t, "issuer", audit.Entry{Action: s.action, Request: s.request, Signed: s.signed})
			}
			view := api.RecordView{
				Cluster: "edge-01", Client: fleet.ClientKey{Kind: "kms"}, Number: test.record[len(test.record)-1].Number, Generations: test.record,
			}
			c := &Checker{Records: &Records{}}
			c.Records.Put(view)
			err := check(c, b.entries, uint64(len(b.entries)))
			if test.says != "" {
				if !errors.Is(err, audit.ErrBroken) || !strings.Contains(err.Error(), test.says) {
					t.Fatalf("%v, want %q", err, test.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.Records.Complete() != (test.missing == "") {
				t.Errorf("complete: %v", c.Records.Complete())
			}
			err = c.Records.Missing(slices.Values([]api.RecordView{view}))
			if (err != nil) != (test.missing != "") || err != nil && !strings.Contains(err.Error(), test.missing) {
				t.Errorf("%v, want %q", err, test.missing)
			}
			var ahead []string
			for _, u := range c.Records.Ahead(now.Add(time.Second)) {
				ahead = append(ahead, u.Serial)
			}
			if !slices.Equal(ahead, test.ahead) || len(c.Records.Ahead(now)) != 0 {
				t.Errorf("ahead: %q, want %q", ahead, test.ahead)
			}
		})
	}
}

// What was issued before entries named what is signed is not missed.
func TestRecordsOfBefore(t *testing.T) {
	b := newBook(t)
	b.write(t, "issuer", audit.Entry{Action: "bundle.sign", Request: "b x", Signed: []audit.Signed{{Kind: audit.KindBundle, ID: "4"}}})
	before := on(1, "a", "ca")
	before.At = now.Add(-24 * time.Hour)
	view := api.RecordView{Cluster: "edge-01", Client: fleet.ClientKey{Kind: "kms"}, Number: 1, Generations: []api.RecordGeneration{before}}
	c := &Checker{Records: &Records{}}
	c.Records.Put(view)
	if err := check(c, b.entries, 1); err != nil {
		t.Fatal(err)
	}
	if err := c.Records.Missing(slices.Values([]api.RecordView{view})); err != nil {
		t.Error(err)
	}
	view.Generations[0].At = now
	if err := c.Records.Missing(slices.Values([]api.RecordView{view})); err == nil {
		t.Error("one of now is not missed")
	}
}

// What is on no record takes memory of its own, which is bounded.
func TestUnrecordedAreBounded(t *testing.T) {
	b := newBook(t)
	for i := range 4 {
		b.write(t, "issuer", audit.Entry{Action: "credential.sign", Request: fmt.Sprint(i, " x"), Signed: pair("gone/kms", i+1, fmt.Sprint("s", i), "ca")})
	}
	c := &Checker{Records: &Records{Limit: 3}}
	if err := check(c, b.entries, 4); !errors.Is(err, audit.ErrBroken) || !strings.Contains(err.Error(), "more than 3") {
		t.Error(err)
	}
}
