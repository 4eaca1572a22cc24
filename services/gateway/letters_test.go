package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// bury puts a letter of a service among the dead ones.
func bury(t *testing.T, w *world, service, cluster, body string) fleet.Letter {
	t.Helper()
	l := fleet.Letter{
		ID: event.ID("letter", service, cluster), Service: service, Source: bus.Commands, Consumer: service, Cluster: cluster,
		Subject: "rotor.v1.command.rotate." + cluster, Reason: "broken", Attempts: 1, First: time.Unix(1000, 0), Body: []byte(body),
	}
	if err := w.bus.Bus.Bury(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	return l
}

// settling runs a scheduler of the test that does nothing but settle letters.
func settling(t *testing.T, w *world, try func() error) {
	t.Helper()
	handler := w.bus.Bus.Settle(bus.Settler{Service: bus.UserScheduler, Try: func(context.Context, fleet.Letter) error { return try() }, Log: bustest.Quiet()})
	bustest.Run(t, func(ctx context.Context) error {
		return w.bus.Bus.Consume(ctx, bus.Consumer{Stream: bus.Commands, Name: bus.UserScheduler, Parallel: 2, Log: bustest.Quiet()}, handler)
	})
}

func (w *world) settle(t *testing.T, method, path string, in any) (v api.LetterView, err error) {
	t.Helper()
	err = w.client.Call(t.Context(), method, api.PathDeadLetters+path, in, &v)
	return v, err
}

func TestDeadLettersAreListed(t *testing.T) {
	w := start(t)
	var page api.Page[fleet.Letter]
	w.get(t, api.PathDeadLetters, &page)
	if page.Items == nil || len(page.Items) != 0 {
		t.Errorf("none is %+v", page)
	}
	for i := range 5 {
		bury(t, w, bus.UserScheduler, fmt.Sprintf("edge-%d", i), `{"a":1}`)
	}
	bury(t, w, bus.UserIssuer, "edge-0", "not an event\x01")
	for query, want := range map[string]int{
		"": 6, "?cluster=edge-0": 2, "?consumer=issuer": 1, "?cluster=edge-0&consumer=issuer&state=open": 1, "?cluster=nowhere": 0,
		"?state=replayed": 0, "?state=all&cluster=edge-0": 2,
	} {
		var page api.Page[fleet.Letter]
		w.get(t, api.PathDeadLetters+query, &page)
		if len(page.Items) != want {
			t.Errorf("%q lists %d letters, want %d", query, len(page.Items), want)
		}
	}
	seen, cursor := map[string]bool{}, ""
	for range 3 {
		var page api.Page[fleet.Letter]
		w.get(t, api.PathDeadLetters+"?limit=2&cursor="+cursor, &page)
		for _, l := range page.Items {
			seen[l.ID] = true
		}
		cursor = page.Next
	}
	if len(seen) != 6 || cursor != "" {
		t.Errorf("pages have shown %d letters of 6, and then %q", len(seen), cursor)
	}
	for service, want := range map[string]string{bus.UserScheduler: `{"a":1}`, bus.UserIssuer: `"not an event\u0001"`} {
		var raw map[string]json.RawMessage
		w.get(t, api.PathDeadLetters+"/"+event.ID("letter", service, "edge-0"), &raw)
		var body bytes.Buffer
		if err := json.Compact(&body, raw["body"]); err != nil || body.String() != want {
			t.Errorf("body of the %s: %s, %v", service, raw["body"], err)
		}
	}
	var s api.Status
	w.get(t, api.PathStatus, &s)
	if s.DeadLetters != 6 || s.Health == api.HealthWell {
		t.Errorf("status: %d dead letters, %s", s.DeadLetters, s.Health)
	}
	for path, want := range map[string]int{"/no-such-letter": 404, "?state=lost": 422, "?cursor=%21": 422} {
		if got := status(w.client.Call(t.Context(), http.MethodGet, api.PathDeadLetters+path, nil, nil)); got != want {
			t.Errorf("%s answers %d, want %d", path, got, want)
		}
	}
}

func TestDeadLettersAreSettled(t *testing.T) {
	w := start(t)
	var broken atomic.Bool
	var tries atomic.Int32
	broken.Store(true)
	settling(t, w, func() error {
		tries.Add(1)
		if broken.Load() {
			return errors.New("still broken")
		}
		return nil
	})
	l := bury(t, w, bus.UserScheduler, "edge-0", "{}")
	v, err := w.settle(t, http.MethodPost, "/"+l.ID+"/replay", nil)
	if err != nil || v.Outcome != api.OutcomeFailed || v.Attempts != 2 || v.Reason != "still broken" || !v.Open() {
		t.Errorf("replay in vain: %+v, %v", v, err)
	}
	broken.Store(false)
	for range 2 { // a repeat has no effect
		v, err = w.settle(t, http.MethodPost, "/"+l.ID+"/replay", nil)
		if err != nil || v.Outcome != "replayed" || v.Open() || v.By != "admin" {
			t.Errorf("replay: %+v, %v", v, err)
		}
	}
	if n := tries.Load(); n != 2 {
		t.Errorf("tried %d times", n)
	}
	dropped := bury(t, w, bus.UserScheduler, "edge-1", "{}")
	for range 2 {
		v, err = w.settle(t, http.MethodDelete, "/"+dropped.ID, nil)
		if err != nil || v.Outcome != "dropped" || v.Open() {
			t.Errorf("drop: %+v, %v", v, err)
		}
	}
	if _, err := w.settle(t, http.MethodPost, "/"+dropped.ID+"/replay", nil); status(err) != http.StatusConflict {
		t.Errorf("replay of a dropped letter: %v", err)
	}
	for i := range 3 {
		bury(t, w, bus.UserScheduler, fmt.Sprintf("edge-1%d", i), "{}")
	}
	var page api.Page[api.LetterView]
	if err := w.client.Call(t.Context(), http.MethodPost, api.PathDeadLetters+"/replay", api.ReplayRequest{Cluster: "edge-11"}, &page); err != nil || len(page.Items) != 1 {
		t.Errorf("replay of one cluster: %+v, %v", page, err)
	}
	if err := w.client.Call(t.Context(), http.MethodPost, api.PathDeadLetters+"/replay", nil, &page); err != nil || len(page.Items) != 2 {
		t.Errorf("replay of all: %+v, %v", page, err)
	}
	for _, v := range page.Items {
		if v.Outcome != "replayed" {
			t.Errorf("replay of all: %+v", v)
		}
	}
	var left api.Page[fleet.Letter]
	w.get(t, api.PathDeadLetters, &left)
	var s api.Status
	w.get(t, api.PathStatus, &s)
	if len(left.Items) != 0 || s.DeadLetters != 0 {
		t.Errorf("letters are left: %+v, status %d", left.Items, s.DeadLetters)
	}
	if _, err := w.settle(t, http.MethodDelete, "/no-such-letter", nil); status(err) != http.StatusNotFound {
		t.Errorf("drop of none: %v", err)
	}
}
