package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

var moment = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// chain returns entries of a chain that is whole.
func chain(t *testing.T, name string, n int) [][]byte {
	t.Helper()
	var last head
	var all [][]byte
	for i := range n {
		e := Entry{Chain: name, Time: moment, Actor: "admin", Action: "client.revoke", Request: fmt.Sprint(i), Reason: "key-compromise", Details: map[string]string{"serial": "ab"}}
		sealed, raw, err := e.About("edge-01", fleet.ClientKey{Kind: "kms"}).seal(last)
		if err != nil {
			t.Fatal(err)
		}
		last = head{uint64(i + 1), sealed}
		all = append(all, raw)
	}
	return all
}

func walk(entries [][]byte) (Chains, error) {
	var c Chains
	for _, raw := range entries {
		if _, err := c.Add(raw); err != nil {
			return c, err
		}
	}
	return c, nil
}

// Whatever is done to a stored chain is found, and the first entry that is not
// as it was written is named.
func TestEveryChangeBreaksTheChain(t *testing.T) {
	replace := func(at int, old, new string) func([][]byte) [][]byte {
		return func(all [][]byte) [][]byte {
			changed := strings.Replace(string(all[at]), old, new, 1)
			if changed == string(all[at]) {
				panic("nothing was changed")
			}
			all[at] = []byte(changed)
			return all
		}
	}
	for name, test := range map[string]struct {
		do    func([][]byte) [][]byte
		names string // empty: the chain is whole
	}{
		"as written":         {func(all [][]byte) [][]byte { return all }, ""},
		"a member changed":   {replace(1, "key-compromise", "superseded"), "entry 2 "},
		"a member added":     {replace(1, `"actor"`, `"x":1,"actor"`), "entry 2 "},
		"a detail changed":   {replace(2, `"ab"`, `"ac"`), "entry 3 "},
		"the hash changed":   {replace(0, `"hash":"`, `"hash":"0`), "entry 1 "},
		"left out":           {func(all [][]byte) [][]byte { return append(all[:1:1], all[2:]...) }, "entry 3 "},
		"the first left out": {func(all [][]byte) [][]byte { return all[1:] }, "entry 2 "},
		"twice":              {func(all [][]byte) [][]byte { return append(all[:2:2], all[1:]...) }, "entry 2 "},
		"moved": {func(all [][]byte) [][]byte {
			all[1], all[2] = all[2], all[1]
			return all
		}, "entry 3 "},
		"of another history": {func(all [][]byte) [][]byte { return append(all[:1:1], chain(t, "gateway", 2)[1]) }, ""},
		"not JSON":           {func(all [][]byte) [][]byte { return append(all, []byte("{")) }, "entry 0 "},
		"of no chain":        {func([][]byte) [][]byte { return chain(t, "", 1) }, "names no chain"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := walk(test.do(chain(t, "gateway", 4)))
			if test.names == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.names) || !errors.Is(err, ErrBroken) && !errors.Is(err, fleet.ErrInvalid) {
				t.Fatalf("%v, want %q", err, test.names)
			}
		})
	}
}

// Where entries of two chains change places no chain is broken: what was written
// behind them says where they lay.
func TestAMovedEntryIsFoundAcrossChains(t *testing.T) {
	at := map[string]uint64{}
	last := map[string]head{}
	var all [][]byte
	for i, name := range []string{"gateway", "issuer", "gateway", "issuer", "gateway"} {
		sealed, raw, err := Entry{Chain: name, Time: moment, Actor: "a", Action: "b", Request: fmt.Sprint(i)}.seal(last[name])
		if err != nil {
			t.Fatal(err)
		}
		at[name] = uint64(i + 1)
		last[name] = head{at[name], sealed}
		all = append(all, raw)
	}
	walkAt := func(entries [][]byte) error {
		var c Chains
		for i, raw := range entries {
			if _, err := c.AddAt(uint64(i+1), raw); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walkAt(all); err != nil {
		t.Fatal(err)
	}
	all[1], all[2] = all[2], all[1]
	if err := walkAt(all); !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), `entry 1 of chain "issuer" lies at 3, and lay at 2`) {
		t.Error(err)
	}
	if _, err := walk(all); err != nil {
		t.Errorf("where positions are not known: %v", err)
	}
}

// Entries of a forged history fit each other, and not what was there before.
func TestAForgedTailDoesNotFit(t *testing.T) {
	first := chain(t, "gateway", 2)
	e := Entry{Chain: "gateway", Time: moment, Actor: "admin", Action: "client.reinstate", Request: "x"}
	forged, _, err := e.seal(head{})
	if err != nil {
		t.Fatal(err)
	}
	_, next, err := e.seal(head{2, Entry{Seq: 2, Hash: forged.Hash}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := walk(append(first, next)); !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), "entry 3 of chain \"gateway\"") {
		t.Fatal(err)
	}
}

func TestChainsAreApart(t *testing.T) {
	gateway, issuer := chain(t, "gateway", 2), chain(t, "issuer", 3)
	c, err := walk([][]byte{issuer[0], gateway[0], issuer[1], issuer[2], gateway[1]})
	if err != nil || c.Heads()["issuer"].Seq != 3 || c.Heads()["gateway"].Seq != 2 {
		t.Fatal(c.Heads(), err)
	}
}

// The form is that of RFC 8785, so that others can compute it.
func TestCanonicalForm(t *testing.T) {
	for in, want := range map[string]string{
		`{"b":1,"a":[true,null,"x"]}`:             `{"a":[true,null,"x"],"b":1}`,
		`{"a":"\u0008\f\n\r\t\u0001\"\\/\u007f"}`: "{\"a\":\"\\b\\f\\n\\r\\t\\u0001\\\"\\\\/\x7f\"}",
		`{"a":"<&>\u2028"}`:                       "{\"a\":\"<&>\u2028\"}",
		`{"\ufb33":1,"\ud83d\ude00":2}`:           "{\"\U0001F600\":2,\"\ufb33\":1}", // by UTF-16 units, not by runes
	} {
		var value any
		d := json.NewDecoder(strings.NewReader(in))
		d.UseNumber()
		if err := d.Decode(&value); err != nil {
			t.Fatal(err)
		}
		got, err := canonical(value)
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, want %q, %v", in, got, want, err)
		}
	}
	for _, in := range []string{`1.5`, `1e3`, `9007199254740993`, `-0`} {
		if _, err := canonical(json.Number(in)); err == nil {
			t.Errorf("%s has more than one form", in)
		}
	}
}

// Whatever lies in the stream: the parser believes nothing that does not hash to
// what it says, and what it believes stays what it is when it is written again.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"chain":"gateway","seq":1,"hash":""}`))
	f.Add([]byte(`[]`))
	f.Add([]byte(`{"a":{"a":{"a":[[[[]]]]}},"hash":"x"}`))
	_, raw, err := Entry{Chain: "issuer", Actor: "a", Action: "b", Request: "c\u2028<"}.seal(head{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := Parse(raw)
		if err != nil {
			return
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, raw); err != nil {
			t.Fatal(err)
		}
		if again, err := Parse(compact.Bytes()); err != nil || again.Hash != e.Hash {
			t.Errorf("%v: %v", again, err)
		}
	})
}
