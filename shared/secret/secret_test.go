package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const value = "hunter2-the-value"

// Every way in which a value is usually printed by mistake.
func TestTextNeverPrints(t *testing.T) {
	type config struct {
		Password Text
		Inner    *struct{ Token Text }
	}
	c := config{Password: New(value), Inner: &struct{ Token Text }{New(value)}}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("config", "config", c, "secret", c.Password)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("config", "config", c, "secret", c.Password)
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	printed := []string{string(raw), log.String(), fmt.Errorf("login with %v", c.Password).Error()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		printed = append(printed, fmt.Sprintf(verb, c.Password), fmt.Sprintf(verb, c), fmt.Sprintf(verb, *c.Inner))
	}
	for _, text := range printed {
		if strings.Contains(text, value) || strings.Contains(text, fmt.Sprintf("%x", value)) {
			t.Errorf("printed: %s", text)
		}
	}
	if c.Password.Reveal() != value {
		t.Error("Reveal must give the value")
	}
}

func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(value+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := ReadFile(path)
	if err != nil || got.Reveal() != value {
		t.Errorf("%v, %v", got, err)
	}
	// H12: a token file that everybody can read.
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others may read gave %v", err)
	}
}

func TestSeal(t *testing.T) {
	key, err := NewOpenKey()
	if err != nil {
		t.Fatal(err)
	}
	context := TokenContext("edge-01", "kms", 2)
	box, err := Seal(key.SealKey(), context, New(value))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(box, []byte(value)) {
		t.Fatal("the box shows the secret")
	}
	raw, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseOpenKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Open(context, box); err != nil || got.Reveal() != value {
		t.Errorf("open: %v, %v", got, err)
	}
	if _, err := key.Open(TokenContext("edge-01", "kms", 3), box); err == nil {
		t.Error("a box was opened as that of another generation")
	}
	other, err := NewOpenKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open(context, box); err == nil {
		t.Error("a box was opened with another key")
	}
	box[len(box)-1] ^= 1
	if _, err := key.Open(context, box); err == nil {
		t.Error("a changed box was opened")
	}
	if strings.Contains(fmt.Sprintf("%v %+v %#v", key, key, key), "hpke") {
		t.Error("the key prints its inside")
	}
	if CheckSealKey([]byte("short")) == nil {
		t.Error("a wrong public key was accepted")
	}
}

func TestSealerMakesBoxesThatStandAlone(t *testing.T) {
	key, err := NewOpenKey()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := NewSealer(key.SealKey())
	if err != nil {
		t.Fatal(err)
	}
	seal := func(context, text string) []byte {
		t.Helper()
		box, err := sealer.Seal(context, New(text))
		if err != nil {
			t.Fatal(err)
		}
		return box
	}
	one, two, again := seal("one", "first"), seal("two", "second"), seal("one", "third")
	for _, row := range []struct {
		context, text string
		box           []byte
	}{{"two", "second", two}, {"one", "first", one}, {"one", "third", again}} {
		if got, err := key.Open(row.context, row.box); err != nil || got.Reveal() != row.text {
			t.Errorf("%s: %v, %v", row.text, got, err)
		}
	}
	if _, err := key.Open("one", two); err == nil {
		t.Error("a box was opened as another of the same sealer")
	}
	if bytes.Equal(one[encapsulated:encapsulated+12], again[encapsulated:encapsulated+12]) {
		t.Error("one key, two texts, one nonce")
	}
	if _, err := key.Open("one", one[:encapsulated-1]); err == nil {
		t.Error("half a box was opened")
	}
}

func BenchmarkSeal(b *testing.B) {
	key, err := NewOpenKey()
	if err != nil {
		b.Fatal(err)
	}
	text := New(strings.Repeat("t", 700))
	b.Run("alone", func(b *testing.B) {
		for b.Loop() {
			if _, err := Seal(key.SealKey(), "x", text); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("of eight", func(b *testing.B) {
		for b.Loop() {
			sealer, err := NewSealer(key.SealKey())
			for i := 0; err == nil && i < 8; i++ {
				_, err = sealer.Seal("x", text)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/8, "ns/box")
	})
}

func FuzzOpen(f *testing.F) {
	key, err := NewOpenKey()
	if err != nil {
		f.Fatal(err)
	}
	box, err := Seal(key.SealKey(), "x", New(value))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(box)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := key.Open("x", b); err == nil && got.Reveal() != value {
			t.Fatal("a box that nobody sealed was opened")
		}
	})
}
