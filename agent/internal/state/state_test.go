package state

import (
	"bytes"
	"crypto/ecdsa"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestIdentityIsKeptAndClosedToOthers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	first, err := open(t, dir).Identity()
	if err != nil || !first.Fresh {
		t.Fatalf("fresh %v, %v", first.Fresh, err)
	}
	second, err := open(t, dir).Identity()
	if err != nil || second.Fresh || second.ID != first.ID || !bytes.Equal(second.Seal.SealKey(), first.Seal.SealKey()) {
		t.Errorf("read again: fresh %v, same id %v, %v", second.Fresh, second.ID == first.ID, err)
	}
	for name, want := range map[string]os.FileMode{"": 0o700, "next": 0o700, agentFile: 0o600, sealFile: 0o600} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%q: %v, %v; want mode %o", name, info.Mode(), err, want)
		}
	}
}

// The two keys are lost together, and the keys that wait with them: what is
// sealed to the old one cannot be opened.
func TestLostKeyMeansANewIdentity(t *testing.T) {
	kms := fleet.ClientKey{Kind: "kms"}
	for _, file := range []string{agentFile, sealFile} {
		for name, content := range map[string][]byte{"gone": nil, "garbage": []byte("x"), "half": []byte("-----BEGIN PRIVATE KEY-----\nAA")} {
			dir := t.TempDir()
			s := open(t, dir)
			first, err := s.Identity()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.MakeNextKey(kms, 1); err != nil {
				t.Fatal(err)
			}
			if content == nil {
				err = os.Remove(filepath.Join(dir, file))
			} else {
				err = os.WriteFile(filepath.Join(dir, file), content, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			second, err := s.Identity()
			if err != nil || !second.Fresh || second.ID == first.ID || bytes.Equal(second.Seal.SealKey(), first.Seal.SealKey()) {
				t.Errorf("%s %s: fresh %v, %v", file, name, second.Fresh, err)
			}
			if key, err := s.NextKey(kms, 1); key != nil || err != nil {
				t.Errorf("%s %s: a pending key stayed: %v", file, name, err)
			}
		}
	}
}

func TestSealKeyOfAnotherAgentIsNotTaken(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	first, _ := open(t, one).Identity()
	if _, err := open(t, two).Identity(); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(filepath.Join(two, sealFile))
	if err := os.WriteFile(filepath.Join(one, sealFile), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if me, err := open(t, one).Identity(); err != nil || !me.Fresh || me.ID == first.ID {
		t.Errorf("fresh %v, %v", me.Fresh, err)
	}
}

func TestNextKeysAreKeptPerClientAndGeneration(t *testing.T) {
	s := open(t, t.TempDir())
	one, two := fleet.ClientKey{Kind: "node-agent", Instance: "host-1"}, fleet.ClientKey{Kind: "node-agent", Instance: "host-10"}
	for _, client := range []fleet.ClientKey{one, two} {
		for number := range 3 {
			first, err := s.MakeNextKey(client, number+1)
			if err != nil {
				t.Fatal(err)
			}
			again, err := s.MakeNextKey(client, number+1)
			if public, ok := first.Public().(*ecdsa.PublicKey); err != nil || !ok || !public.Equal(again.Public()) {
				t.Fatalf("made twice: %v", err)
			}
		}
	}
	if err := s.DropNextKeys(one, 2); err != nil {
		t.Fatal(err)
	}
	for client, want := range map[fleet.ClientKey][]bool{one: {false, false, true}, two: {true, true, true}} {
		for i, want := range want {
			if key, err := s.NextKey(client, i+1); (key != nil) != want || err != nil {
				t.Errorf("%s generation %d: there %v, %v", client, i+1, key != nil, err)
			}
		}
	}
}

func TestBrokenFilesCountAsAbsentAndAreLogged(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	s, err := Open(dir, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	kms := fleet.ClientKey{Kind: "kms"}
	for _, name := range []string{recordFile, "next/kms.g1.key"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("secret-looking garbage"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if r := s.Record(); r != (Record{}) {
		t.Errorf("record %+v", r)
	}
	if key, err := s.NextKey(kms, 1); key != nil || err != nil {
		t.Errorf("key: %v", err)
	}
	if key, err := s.MakeNextKey(kms, 1); key == nil || err != nil {
		t.Errorf("not replaced: %v", err)
	}
	if text := log.String(); strings.Count(text, "counts as absent") < 2 || strings.Contains(text, "secret-looking") {
		t.Errorf("log: %s", text)
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"cluster":"edge-01","bundle":3}`))
	f.Add([]byte(`{"bundle":-3}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseRecord(b); err == nil && (r.Bundle < 0 || r.Starts < 0) {
			t.Errorf("took %+v", r)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = parseKey(b) })
}
