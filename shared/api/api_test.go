package api

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

func TestProblemsKeepTheirKind(t *testing.T) {
	for _, kind := range []error{fleet.ErrNotFound, fleet.ErrConflict, fleet.ErrInvalid, fleet.ErrDenied} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(StatusOf(kind))
			_, _ = io.WriteString(w, `{"detail":"cluster edge-9","errors":[{"message":"no such","location":"3:5"}]}`)
		}))
		err := (&Client{URL: server.URL}).Call(t.Context(), http.MethodGet, "/x", nil, nil)
		server.Close()
		if !errors.Is(err, kind) || err.Error() != "cluster edge-9\n  3:5: no such" {
			t.Errorf("%v came back as %v", kind, err)
		}
		for _, other := range []error{fleet.ErrNotFound, fleet.ErrConflict, fleet.ErrInvalid, fleet.ErrDenied} {
			if !errors.Is(other, kind) && errors.Is(err, other) {
				t.Errorf("%v came back as %v as well", kind, other)
			}
		}
	}
	if got := StatusOf(errors.New("x")); got != http.StatusInternalServerError {
		t.Errorf("unknown error is %d", got)
	}
}

// The token and what stands in a query never show in an error.
func TestErrorsHideTheToken(t *testing.T) {
	c := &Client{URL: "http://user:hunter2@127.0.0.1:1", Token: secret.New("hunter2")}
	err := c.Call(t.Context(), http.MethodGet, "/x?token=hunter2", nil, nil)
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

func TestListReadsAllPages(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("state") != "due" {
			t.Errorf("the filter was lost: %s", r.URL)
		}
		if r.URL.Query().Get("cursor") == "" {
			_, _ = io.WriteString(w, `{"items":[1,2],"next":"b"}`)
			return
		}
		_, _ = io.WriteString(w, `{"items":[3]}`)
	}))
	defer server.Close()
	got, err := List[int](t.Context(), &Client{URL: server.URL}, "/x", url.Values{"state": {"due"}})
	if err != nil || len(got) != 3 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestReadEvents(t *testing.T) {
	const e = `{"specversion":"1.0","id":"1","source":"/rotor/issuer","type":"rotor.credential.issued.v1","subject":"edge-01"}`
	stream := ": hello\n\nid: 7\nevent: x\ndata: " + e + "\n\nid:8\ndata:" + e + "\n\n"
	var ids []string
	err := readEvents(strings.NewReader(stream), func(id string, _ event.Event) error {
		ids = append(ids, id)
		return nil
	})
	if !errors.Is(err, io.EOF) || strings.Join(ids, ",") != "7,8" {
		t.Errorf("%v, %v", ids, err)
	}
}

func FuzzReadEvents(f *testing.F) {
	f.Add("id: 7\ndata: {}\n\n")
	f.Add(": c\n\ndata: {\"specversion\":\"1.0\"}\n\n")
	f.Fuzz(func(_ *testing.T, stream string) {
		_ = readEvents(strings.NewReader(stream), func(string, event.Event) error { return nil })
	})
}
