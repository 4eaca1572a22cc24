package kube

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/agent/internal/install"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func TestASecretAppearsAndIsUpdatedInPlace(t *testing.T) {
	w := newWorld(t)
	s := w.secret()
	if _, err := s.Read(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read before: %v", err)
	}
	if err := s.Install(t.Context(), newSet(t, 1)); err != nil {
		t.Fatal(err)
	}
	w.wants(t, 1)
	first := w.Get(secretPath)
	if kind := first.Object["type"]; kind != "kubernetes.io/tls" {
		t.Errorf("type %v", kind)
	}
	if l := first.GetLabels(); l[labelManager] != "rotor" || l[labelCluster] != testCluster {
		t.Errorf("labels %v", l)
	}
	if a := first.GetAnnotations(); a[prefix+"generation"] != "1" || a[prefix+"serial"] != "3e9" || a[prefix+"not-after"] != "2100-01-01T00:00:00Z" {
		t.Errorf("annotations %v", a)
	}
	if err := s.Install(t.Context(), newSet(t, 2)); err != nil {
		t.Fatal(err)
	}
	w.wants(t, 2)
	second := w.Get(secretPath)
	if second.GetUID() != first.GetUID() || second.GetResourceVersion() == first.GetResourceVersion() {
		t.Errorf("uid %s then %s, version %s then %s: want one Secret, updated", first.GetUID(), second.GetUID(), first.GetResourceVersion(), second.GetResourceVersion())
	}
	if got, err := w.secret().Read(t.Context()); err != nil || got.Metadata.Generation != 2 {
		t.Errorf("read after a restart: generation %d, %v", got.Metadata.Generation, err)
	}
	calls := len(w.Calls())
	if err := s.Mend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if more := w.Calls()[calls:]; len(more) != 1 || more[0] != "GET "+secretPath {
		t.Errorf("mending what is well made the calls %v; want one read", more)
	}
}

// TestForeignChangesArePutRight changes the Secret as others do.
func TestForeignChangesArePutRight(t *testing.T) {
	data := func(o map[string]any) map[string]any { return o["data"].(map[string]any) }
	for name, change := range map[string]func(o map[string]any) map[string]any{
		"deleted":     func(map[string]any) map[string]any { return nil },
		"key deleted": func(o map[string]any) map[string]any { delete(data(o), "tls.key"); return o },
		"token edited": func(o map[string]any) map[string]any {
			data(o)["token"] = base64.StdEncoding.EncodeToString([]byte("another"))
			return o
		},
		"not base64":    func(o map[string]any) map[string]any { data(o)["metadata.json"] = "%"; return o },
		"no data":       func(o map[string]any) map[string]any { delete(o, "data"); return o },
		"label removed": func(o map[string]any) map[string]any { delete(o["metadata"].(map[string]any), "labels"); return o },
		"annotation edited": func(o map[string]any) map[string]any {
			o["metadata"].(map[string]any)["annotations"].(map[string]any)[prefix+"generation"] = "9"
			return o
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			var log bytes.Buffer
			w.log = slog.New(slog.NewTextHandler(&log, nil))
			s := w.secret()
			if err := s.Install(t.Context(), newSet(t, 1)); err != nil {
				t.Fatal(err)
			}
			before := w.Get(secretPath)
			w.Edit(secretPath, change)
			if err := s.Mend(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.wants(t, 1)
			after := w.Get(secretPath)
			if fmt.Sprint(after.GetLabels(), after.GetAnnotations()) != fmt.Sprint(before.GetLabels(), before.GetAnnotations()) {
				t.Errorf("labels and annotations %v %v", after.GetLabels(), after.GetAnnotations())
			}
			if name != "deleted" && !strings.Contains(log.String(), "changed by somebody else") {
				t.Errorf("nobody is told: %s", log.String())
			}
			if strings.Contains(log.String(), tokenOf(1)) || strings.Contains(log.String(), "another") {
				t.Errorf("a secret in the log: %s", log.String())
			}
		})
	}
}

func TestWhatOthersAddStays(t *testing.T) {
	w := newWorld(t)
	s := w.secret()
	if err := s.Install(t.Context(), newSet(t, 1)); err != nil {
		t.Fatal(err)
	}
	w.Edit(secretPath, func(o map[string]any) map[string]any {
		o["data"].(map[string]any)["keystore.p12"] = "AAAA"
		o["metadata"].(map[string]any)["labels"].(map[string]any)["team"] = "storage"
		return o
	})
	calls := len(w.Calls())
	if err := s.Mend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if more := w.Calls()[calls:]; len(more) != 1 {
		t.Errorf("additions of others were taken for damage: %v", more)
	}
	if err := s.Install(t.Context(), newSet(t, 2)); err != nil {
		t.Fatal(err)
	}
	w.wants(t, 2)
	if u := w.Get(secretPath); u.GetLabels()["team"] != "storage" || w.Data(secretPath, "keystore.p12") == "" {
		t.Error("an addition of others is gone")
	}
}

// TestForeignSecretsAreLeftAlone: a name that was mistyped must not cost
// somebody else's Secret.
func TestForeignSecretsAreLeftAlone(t *testing.T) {
	ours := map[string]any{labelManager: "rotor", labelCluster: testCluster}
	for name, c := range map[string]struct {
		labels map[string]any
		kind   string
		fixed  bool
		says   string
	}{
		"no label":        {nil, tlsType, false, "is not Rotor's"},
		"another manager": {map[string]any{labelManager: "Helm"}, tlsType, false, "is not Rotor's"},
		"another cluster": {map[string]any{labelManager: "rotor", labelCluster: "edge-02"}, tlsType, false, "belongs to cluster edge-02"},
		"another type":    {ours, "Opaque", false, `type "Opaque"`},
		"immutable":       {ours, tlsType, true, "is immutable"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.Edit(secretPath, func(o map[string]any) map[string]any {
				metadata := o["metadata"].(map[string]any)
				if c.labels != nil {
					metadata["labels"] = c.labels
				}
				o["type"] = c.kind
				if c.fixed {
					o["immutable"] = true
				}
				return o
			})
			before := w.Get(secretPath).GetResourceVersion()
			s := w.secret()
			for what, err := range map[string]error{"install": s.Install(t.Context(), newSet(t, 1)), "mend": s.Mend(t.Context())} {
				if !errors.Is(err, fleet.ErrConflict) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "rotor-kms") {
					t.Errorf("%s: %v", what, err)
				}
			}
			if after := w.Get(secretPath).GetResourceVersion(); after != before {
				t.Error("it was changed")
			}
		})
	}
}

// TestTwoClientsOfOneNameDoNotFight: the second is told, the first keeps its set.
func TestTwoClientsOfOneNameDoNotFight(t *testing.T) {
	w := newWorld(t)
	if err := w.secret().Install(t.Context(), newSet(t, 1)); err != nil {
		t.Fatal(err)
	}
	csi := fleet.ClientKey{Kind: "csi"}
	second := NewSecret(SecretOptions{
		Client: w.client(), Log: w.log, Name: "rotor-kms", Cluster: testCluster, Key: csi, Folder: install.New(filepath.Join(t.TempDir(), "csi")),
	})
	_, err := second.Read(t.Context())
	set := newSet(t, 2)
	set.Metadata.Client = csi
	for what, err := range map[string]error{"read": err, "install": second.Install(t.Context(), set)} {
		if !errors.Is(err, fleet.ErrConflict) || !strings.Contains(err.Error(), "is that of client kms") {
			t.Errorf("%s: %v", what, err)
		}
	}
	w.wants(t, 1)
}

func TestASecretMadeBeforehandIsFilled(t *testing.T) {
	w := newWorld(t)
	w.Edit(secretPath, func(o map[string]any) map[string]any {
		o["metadata"].(map[string]any)["labels"] = map[string]any{labelManager: "rotor"}
		o["type"], o["data"] = tlsType, map[string]any{"tls.crt": "", "tls.key": ""}
		return o
	})
	s := w.secret()
	if _, err := s.Read(t.Context()); !errors.Is(err, install.ErrDamaged) {
		t.Errorf("read: %v; want what must be replaced", err)
	}
	if err := s.Install(t.Context(), newSet(t, 1)); err != nil {
		t.Fatal(err)
	}
	w.wants(t, 1)
}

func TestSomebodyElseIsQuicker(t *testing.T) {
	w := newWorld(t)
	s := w.secret()
	once := func(f func()) {
		done := false
		w.Before(func(string, string) {
			if !done {
				done = true
				f()
			}
		})
	}
	label := func(o map[string]any) map[string]any {
		o["metadata"].(map[string]any)["labels"] = map[string]any{labelManager: "rotor"}
		o["type"] = tlsType
		return o
	}
	once(func() { w.Edit(secretPath, label) })
	if err := s.Install(t.Context(), newSet(t, 1)); err != nil {
		t.Fatalf("made by another meanwhile: %v", err)
	}
	once(func() { w.Edit(secretPath, label) })
	if err := s.Install(t.Context(), newSet(t, 2)); err != nil {
		t.Fatalf("changed by another meanwhile: %v", err)
	}
	once(func() { w.Edit(secretPath, func(map[string]any) map[string]any { return nil }) })
	if err := s.Install(t.Context(), newSet(t, 3)); err != nil {
		t.Fatalf("deleted by another meanwhile: %v", err)
	}
	w.wants(t, 3)
}

// TestEveryCallMayFail makes each call of an installation and of the way back
// fail in turn, before or after its effect, and starts the agent anew: readers
// always see one whole set, and the next round ends with the right one.
func TestEveryCallMayFail(t *testing.T) {
	first, second := newSet(t, 1), newSet(t, 2)
	for _, back := range []bool{false, true} {
		for at := 1; ; at++ {
			w := newWorld(t)
			if err := w.secret().Install(t.Context(), first); err != nil {
				t.Fatal(err)
			}
			n := 0
			w.Refuse(func(string, string) int {
				if n++; n >= at {
					return http.StatusInternalServerError
				}
				return 0
			})
			s := w.secret()
			err := s.Install(t.Context(), second)
			if err == nil && back {
				err = s.Back(t.Context(), 2)
			}
			w.Refuse(nil)
			if err == nil {
				if at < 3 {
					t.Errorf("only %d calls", at)
				}
				break
			}
			if set, err := install.Parse(decode(w.Get(secretPath))); err != nil {
				t.Fatalf("call %d: readers see generation %d, %v", at, set.Metadata.Generation, err)
			}
			again := w.secret()
			if err := again.Clean(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := 2
			if back {
				want = 1
				if err := again.Back(t.Context(), 2); err != nil {
					t.Fatalf("call %d: back: %v", at, err)
				}
			}
			if err := again.Mend(t.Context()); err != nil {
				t.Fatalf("call %d: mend: %v", at, err)
			}
			w.wants(t, want)
		}
	}
}

// TestF6_AnAPIServerThatIsAwayStopsNothingElse: what the agent knows does not
// depend on the API server, so that recovery can go on without it, and what was
// issued meanwhile is delivered as soon as it is back.
func TestF6_AnAPIServerThatIsAwayStopsNothingElse(t *testing.T) {
	w := newWorld(t)
	s := w.secret()
	if err := s.Install(t.Context(), newSet(t, 1)); err != nil {
		t.Fatal(err)
	}
	w.Refuse(func(string, string) int { return http.StatusInternalServerError })
	if err := s.Install(t.Context(), newSet(t, 2)); err == nil {
		t.Fatal("installed without an API server")
	}
	if got, err := s.Read(t.Context()); err != nil || got.Metadata.Generation != 2 {
		t.Errorf("read without an API server: generation %d, %v", got.Metadata.Generation, err)
	}
	w.wants(t, 1)
	w.Refuse(nil)
	var log bytes.Buffer
	w.log = slog.New(slog.NewTextHandler(&log, nil))
	if err := w.secret().Mend(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.wants(t, 2)
	if strings.Contains(log.String(), "somebody else") {
		t.Errorf("nobody else was it: %s", log.String())
	}
}

// TestF17_NoSecretsPileUp: one Secret a client, however often it is rotated.
func TestF17_NoSecretsPileUp(t *testing.T) {
	w := newWorld(t)
	s := w.secret()
	for number := 1; number <= 12; number++ {
		if err := errors.Join(s.Install(t.Context(), newSet(t, number)), s.Prune(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	if names := w.Names(); len(names) != 1 {
		t.Errorf("objects %v", names)
	}
	if sets, _ := filepath.Glob(filepath.Join(w.folder, "..g*")); len(sets) != 1 {
		t.Errorf("sets in the state folder: %v", sets)
	}
	w.wants(t, 12)
}

func TestBackNeedsNoSecondSecret(t *testing.T) {
	w := newWorld(t)
	s := w.secret()
	if err := errors.Join(s.Install(t.Context(), newSet(t, 1)), s.Install(t.Context(), newSet(t, 2))); err != nil {
		t.Fatal(err)
	}
	if set, err := s.Previous(t.Context()); err != nil || set.Metadata.Generation != 1 {
		t.Errorf("previous: %d, %v", set.Metadata.Generation, err)
	}
	for range 2 {
		if err := s.Back(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		w.wants(t, 1)
	}
	if names := w.Names(); len(names) != 1 {
		t.Errorf("objects %v", names)
	}
	// The state of an agent is its owner's alone.
	for _, name := range []string{"tls.key", "token"} {
		if info, err := os.Stat(filepath.Join(w.folder, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func TestAfterTheStateIsLostTheSecretIsTakenOver(t *testing.T) {
	w := newWorld(t)
	if err := w.secret().Install(t.Context(), newSet(t, 3)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(w.folder); err != nil {
		t.Fatal(err)
	}
	s := w.secret()
	if set, err := s.Read(t.Context()); err != nil || set.Metadata.Generation != 3 {
		t.Fatalf("read: %d, %v", set.Metadata.Generation, err)
	}
	w.Edit(secretPath, func(map[string]any) map[string]any { return nil })
	if err := s.Mend(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.wants(t, 3)
}

func TestErrorsTellWhoMustActAndNoSecret(t *testing.T) {
	w := newWorld(t)
	s := w.secret()
	for status, c := range map[int]struct {
		is   error
		says string
	}{
		http.StatusUnauthorized:        {fleet.ErrDenied, "renew its service account"},
		http.StatusForbidden:           {fleet.ErrDenied, "see the Role"},
		http.StatusUnprocessableEntity: {fleet.ErrInvalid, "the API server refuses"},
		http.StatusInternalServerError: {nil, "Secret rotor-kms"},
	} {
		w.Refuse(func(string, string) int { return status })
		err := s.Install(t.Context(), newSet(t, 1))
		if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), tokenOf(1)) {
			t.Errorf("%d: %v", status, err)
		}
	}
}

// TestAnswersAreNotQuoted: what stands between the agent and the API server may
// answer with anything, also with what it was sent.
func TestAnswersAreNotQuoted(t *testing.T) {
	w := newWorld(t)
	s := w.secret()
	for status, body := range map[int]string{
		http.StatusOK:                  `{"data":{"token":"` + tokenOf(1) + `"}}`,
		http.StatusBadGateway:          tokenOf(1),
		http.StatusForbidden:           tokenOf(1),
		http.StatusUnprocessableEntity: `{"kind":"Status","apiVersion":"v1","status":"Failure","code":422,"reason":"Invalid","message":"` + tokenOf(1) + `","details":{"causes":[{"field":"data","message":"` + tokenOf(1) + `","reason":"FieldValueTooLong"}]}}`,
	} {
		w.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			kind := "application/json"
			if body == tokenOf(1) {
				kind = "text/plain"
			}
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		})
		if err := s.Install(t.Context(), newSet(t, 1)); err == nil || strings.Contains(err.Error(), tokenOf(1)) {
			t.Errorf("%d: %v", status, err)
		}
	}
}

func TestNamesOfSecretsDiffer(t *testing.T) {
	a, b := SecretName("rotor-", fleet.ClientKey{Kind: "a-b", Instance: "c"}), SecretName("rotor-", fleet.ClientKey{Kind: "a", Instance: "b-c"})
	if a == b || a != "rotor-a-b.c" {
		t.Errorf("%s and %s", a, b)
	}
}
