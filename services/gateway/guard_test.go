package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/event"
)

func (w *world) call(t *testing.T, method, path, token string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, w.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

func (w *world) metrics(t *testing.T) string {
	t.Helper()
	response, body := w.call(t, http.MethodGet, "/metrics", "Bearer "+w.client.Token.Reveal())
	if response.StatusCode != http.StatusOK {
		t.Fatalf("metrics: %s", response.Status)
	}
	return body
}

// Every path of the description but the public ones is closed to whoever has no
// token, or a wrong one.
func TestEveryPathNeedsTheToken(t *testing.T) {
	w := start(t)
	response, body := w.call(t, http.MethodGet, api.PathOpenAPI, "Bearer "+w.client.Token.Reveal())
	if response.StatusCode != http.StatusOK {
		t.Fatal(response.Status)
	}
	var doc struct {
		Paths map[string]map[string]struct {
			Tags []string `json:"tags"`
		} `json:"paths"`
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil || len(doc.Paths) < 15 {
		t.Fatalf("%d paths, %v", len(doc.Paths), err)
	}
	doc.Paths[api.PathOpenAPI] = map[string]struct {
		Tags []string `json:"tags"`
	}{"get": {}}
	doc.Paths["/nothing/here"] = doc.Paths[api.PathOpenAPI]
	for path, operations := range doc.Paths {
		for method, operation := range operations {
			path := strings.NewReplacer("{cluster}", "hq", "{id}", "x", "{kind}", "ca").Replace(path)
			for _, token := range []string{"", "Bearer wrong", "Basic " + w.client.Token.Reveal()} {
				response, body := w.call(t, strings.ToUpper(method), path, token)
				open := slices.Contains(operation.Tags, "public")
				if open != (response.StatusCode != http.StatusUnauthorized) {
					t.Errorf("%s %s with %q: %s", method, path, token, response.Status)
				}
				if open {
					continue
				}
				if !strings.HasPrefix(response.Header.Get("WWW-Authenticate"), "Bearer") || !strings.Contains(body, `"status":401`) {
					t.Errorf("%s %s: %v %s", method, path, response.Header, body)
				}
			}
		}
	}
}

func TestPublicDocuments(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	for path, part := range map[string]string{
		api.PathJWKS: `{"keys":[{`, api.PathOpenID: `"jwks_uri":"` + w.url + api.PathJWKS, api.PathTrustPEM: "BEGIN CERTIFICATE",
		api.PathTrustSigned: ".",
	} {
		response, body := w.call(t, http.MethodGet, path, "")
		if response.StatusCode != http.StatusOK || !strings.Contains(response.Header.Get("Cache-Control"), "max-age") {
			t.Errorf("%s: %s %v", path, response.Status, response.Header)
		}
		contains(t, body, part)
		if response.Header.Get("X-Content-Type-Options") != "nosniff" || response.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: headers %v", path, response.Header)
		}
	}
	contains(t, w.metrics(t), `rotor_clients{state="pending"} 13`, `rotor_clusters{window="behind"}`, `http_route="/v1/fleet"`)
}

func TestAdminTokenIsMadeOnce(t *testing.T) {
	w := start(t)
	path := w.dir + "/admin.token"
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", info, err)
	}
	first := w.client.Token.Reveal()
	w.env = w.bus.Env(t, "gateway", w.env.Clock) // a second gateway beside the first
	w.run(t)
	if w.client.Token.Reveal() != first {
		t.Error("a second start has made another token")
	}
	if files, _ := os.ReadDir(w.dir); len(files) != 1 {
		t.Errorf("%d files are left", len(files))
	}
}

var errEnough = errors.New("enough")

func (w *world) follow(t *testing.T, query url.Values, after string, n int) (ids []string, events []event.Event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bustest.Limit)
	defer cancel()
	err := w.client.StreamEvents(ctx, query, after, func(id string, e event.Event) error {
		ids, events = append(ids, id), append(events, e)
		if len(ids) == n {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("%d events, then %v", len(ids), err)
	}
	return ids, events
}

func TestEventsResumeAndFilter(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	all := url.Values{"since": {"all"}}
	ids, events := w.follow(t, all, "", 4)
	rest, again := w.follow(t, nil, ids[1], 2)
	if !slices.Equal(rest, ids[2:]) || again[0].ID() != events[2].ID() {
		t.Errorf("resumed at %v, want %v", rest, ids[2:])
	}
	if zero, _ := w.follow(t, url.Values{"since": {"0"}}, "", 4); !slices.Equal(zero, ids) {
		t.Errorf("since 0: %v", zero)
	}
	for _, name := range []string{"rotor.cluster.registered.v1", "cluster.registered", "cluster"} {
		_, found := w.follow(t, url.Values{"since": {"all"}, "type": {name}, "cluster": {"edge-01"}}, "", 1)
		if found[0].Type() != event.ClusterRegistered.Type() || found[0].Subject() != "edge-01" {
			t.Errorf("%s: %v", name, found[0])
		}
	}
	for query, want := range map[string]int{"type=odd": 422, "cluster=a.b": 422, "since=yesterday": 422} {
		if err := w.client.Call(t.Context(), http.MethodGet, api.PathEvents+"?"+query, nil, nil); status(err) != want {
			t.Errorf("%s: %v", query, err)
		}
	}
}

// What happens after the answer has begun is never missed, also by a follower
// beside one that reads nothing.
func TestEventsFromNowOn(t *testing.T) {
	w := start(t)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+api.PathEvents, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+w.client.Token.Reveal())
	streams := make([]*http.Response, 2)
	for i := range streams {
		if streams[i], err = http.DefaultClient.Do(request); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = streams[i].Body.Close() }()
		if kind := streams[i].Header.Get("Content-Type"); kind != "text/event-stream" {
			t.Fatalf("content type %q", kind)
		}
	}
	w.apply(t, fleetFile)
	buffer, text := make([]byte, 4096), ""
	for !strings.Contains(text, "cluster.registered.v1\ndata: {") || !strings.HasSuffix(text, "\n\n") {
		n, err := streams[1].Body.Read(buffer)
		if err != nil {
			t.Fatal(err, text)
		}
		text += string(buffer[:n])
	}
	if strings.Count(text, "release.published.v1\ndata") != 2 {
		t.Error(text)
	}
	bustest.Eventually(t, func() error {
		if !strings.Contains(w.metrics(t), "rotor_event_streams 2") {
			return fmt.Errorf("streams are not counted")
		}
		return nil
	})
}
