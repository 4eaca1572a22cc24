package trust

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestSignAndVerifyACheckpoint(t *testing.T) {
	key, pin := newKey(t)
	mallory, _ := newKey(t)
	c := Checkpoint{At: time.Unix(1000, 0).UTC(), Heads: map[string]Head{"issuer": {3, "ab", 5}, "gateway": {2, "cd", 4}}}
	signed, err := SignCheckpoint(key, c)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := SignCheckpoint(key, c); err != nil || again != signed {
		t.Errorf("signing twice gave two texts (%v)", err)
	}
	for _, pin := range []string{pin, ""} {
		got, by, err := VerifyCheckpoint(signed, pin)
		if err != nil || !strings.HasPrefix(by, "sha256:") || got.Heads["issuer"] != c.Heads["issuer"] || len(got.Heads) != 2 || !got.At.Equal(c.At) {
			t.Errorf("%+v by %s, %v", got, by, err)
		}
	}
	forged, err := SignCheckpoint(mallory, c)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := Sign(key, Bundle{Version: 1, Certificates: []string{testCA(t)}})
	if err != nil {
		t.Fatal(err)
	}
	empty, err := SignCheckpoint(key, Checkpoint{Heads: map[string]Head{"issuer": {}}})
	if err != nil {
		t.Fatal(err)
	}
	parts, other := strings.Split(signed, "."), strings.Split(forged, ".")
	for name, test := range map[string]struct {
		signed string
		want   error
	}{
		"another key":         {forged, ErrUntrusted},
		"signature exchanged": {parts[0] + "." + parts[1] + "." + other[2], ErrUntrusted},
		"a trust bundle":      {bundle, ErrUntrusted},
		"of no entry":         {empty, nil},
		"not a JWS":           {"x", nil},
		"nothing":             {"", nil},
	} {
		if _, _, err := VerifyCheckpoint(test.signed, pin); err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	// Nor is a checkpoint a trust bundle, whatever it says.
	if _, err := Verify(signed, pin); !errors.Is(err, ErrUntrusted) {
		t.Errorf("a checkpoint as a trust bundle: %v", err)
	}
}

func TestCompareCheckpoints(t *testing.T) {
	of := func(issuer, gateway int64) Checkpoint {
		return Checkpoint{Heads: map[string]Head{"issuer": {Seq: issuer}, "gateway": {Seq: gateway}}}
	}
	one := Checkpoint{Heads: map[string]Head{"issuer": {Seq: 1}}}
	for name, test := range map[string]struct {
		a, b Checkpoint
		want int
	}{
		"the same":       {of(1, 1), of(1, 1), 0},
		"behind":         {of(1, 1), of(2, 1), -1},
		"ahead":          {of(1, 2), of(1, 1), 1},
		"of more chains": {of(1, 1), one, 1},
		"of fewer":       {one, of(1, 1), -1},
		"ahead of none":  {one, Checkpoint{}, 1},
	} {
		if got := test.a.Compare(test.b); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

func FuzzVerifyCheckpoint(f *testing.F) {
	key, pin := newKey(f)
	signed, err := SignCheckpoint(key, Checkpoint{Heads: map[string]Head{"issuer": {3, "ab", 5}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, text string) {
		if c, _, err := VerifyCheckpoint(text, pin); err == nil && c.Heads["issuer"].Seq != 3 {
			t.Fatalf("a checkpoint that nobody signed was believed: %+v", c)
		}
	})
}
