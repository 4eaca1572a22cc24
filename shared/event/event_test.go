package event

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

var update = flag.Bool("update", false, "write the golden files anew")

var moment = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// fill sets every field of a payload, so that the golden files show them all.
func fill(v reflect.Value) {
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(moment))
	case v.Type() == reflect.TypeFor[fleet.ClientKey]():
		v.Set(reflect.ValueOf(fleet.ClientKey{Kind: "node-agent", Instance: "host-1"}))
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case v.Kind() == reflect.Struct:
		for _, field := range v.Fields() {
			fill(field)
		}
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8:
		v.SetBytes([]byte{1, 2, 3})
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case v.Kind() == reflect.String:
		v.SetString("text")
	case v.CanUint():
		v.SetUint(7)
	case v.Kind() == reflect.Int:
		v.SetInt(7)
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	}
}

// The golden files hold the wire form. A change of one is a change for every
// subscriber: fields may be added to a version, nothing else.
func TestGolden(t *testing.T) {
	for _, row := range Catalog() {
		t.Run(row.Type, func(t *testing.T) {
			payload := reflect.New(reflect.TypeOf(row.Payload)).Elem()
			fill(payload)
			e, err := Kind[any]{row}.New(Meta{Source: row.Owners()[0], Cluster: "edge-01", Key: []string{"kms@2"}, Time: moment}, payload.Interface())
			if err != nil {
				t.Fatal(err)
			}
			raw, err := Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			var indented bytes.Buffer
			if err := json.Indent(&indented, raw, "", "  "); err != nil {
				t.Fatal(err)
			}
			indented.WriteByte('\n')
			path := filepath.Join("testdata", row.Type+".json")
			if *update {
				if err := os.WriteFile(path, indented.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			golden, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(golden, indented.Bytes()) {
				t.Errorf("wire form differs from %s:\n%s", path, indented.Bytes())
			}
			decoded, err := Unmarshal(golden)
			if err != nil {
				t.Fatal(err)
			}
			back := reflect.New(reflect.TypeOf(row.Payload))
			if err := json.Unmarshal(decoded.Data(), back.Interface()); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(back.Elem().Interface(), payload.Interface()) {
				t.Errorf("decoded %+v, want %+v", back.Elem(), payload)
			}
		})
	}
}

// Every golden file still has its row: a type is never taken away.
func TestGoldenFilesHaveRows(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if _, ok := Find(strings.TrimSuffix(filepath.Base(file), ".json")); !ok {
			t.Errorf("%s has no row in the catalog", file)
		}
	}
}

func TestCatalog(t *testing.T) {
	seen := map[string]bool{}
	for _, row := range Catalog() {
		if row.Doc == "" || len(row.Owners()) == 0 || seen[row.Type] {
			t.Errorf("%s: no doc, no owner, or twice", row.Type)
		}
		seen[row.Type] = true
	}
	if got := CredentialIssued.Subject("edge-01"); got != "rotor.v1.event.credential.issued.edge-01" {
		t.Errorf("subject %s", got)
	}
	if got := Issue.Subject("*"); got != "rotor.v1.command.issue.*" {
		t.Errorf("subject %s", got)
	}
}

func TestSameOccurrenceSameEvent(t *testing.T) {
	m := Meta{Source: "scheduler", Cluster: "edge-01", Key: []string{"kms@2", "due"}, Time: moment}
	a, errA := CredentialDue.New(m, Credentials{})
	b, errB := CredentialDue.New(m, Credentials{})
	if errA != nil || errB != nil || a.ID() != b.ID() {
		t.Fatalf("%v %v: %s and %s", errA, errB, a.ID(), b.ID())
	}
	m.Key = []string{"kms", "2due"} // parts are kept apart
	if c, _ := CredentialDue.New(m, Credentials{}); c.ID() == a.ID() {
		t.Error("two occurrences share an id")
	}
}

func TestSubjectOfRefuses(t *testing.T) {
	for _, cluster := range []string{"", "a.b", "*", ">", "a b"} {
		e, err := CredentialDue.New(Meta{Source: "scheduler", Cluster: cluster, Time: moment}, Credentials{})
		if err != nil {
			t.Fatal(err)
		}
		if subject, err := SubjectOf(e); err == nil {
			t.Errorf("cluster %q gave the subject %s", cluster, subject)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte(`{"specversion":"1.0"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := Unmarshal(raw)
		if err != nil {
			return
		}
		_, _ = SubjectOf(e)
		for _, kind := range []Kind[Credentials]{CredentialIssued, CredentialDue} {
			_, _ = kind.Decode(e)
		}
		_, _ = Rotate.Decode(e)
		_, _ = Steer.Decode(e)
		if again, err := Marshal(e); err != nil {
			t.Fatalf("what was read cannot be written: %v\n%s", err, again)
		}
	})
}
