package chaos

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func newRun() *run {
	return &run{
		broken: &broken{count: map[string]int{}, examples: map[string][]string{}},
		reader: &reader{seen: map[string]string{}},
	}
}

func issued(t *testing.T, id, serial string) event.Event {
	t.Helper()
	e, err := event.CredentialIssued.New(
		event.Meta{Source: "issuer", Cluster: "edge-01", Key: []string{id}, Time: time.Unix(1, 0)},
		event.Credentials{Clients: []event.Client{{Client: fleet.ClientKey{Kind: "kms"}, Generation: 1, Serial: serial, TokenID: "t"}}})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// A check that never finds anything proves nothing: each must see what it looks
// for.
func TestChecksSeeWhatIsBroken(t *testing.T) {
	client := api.ClientView{
		Cluster: "edge-01", Kind: "kms", Generation: 1, Step: fleet.StepProven,
		Certificate: &fleet.Certificate{Serial: "aa"}, Token: &fleet.Token{ID: "t"},
	}
	for name, c := range map[string]struct {
		events []event.Event
		disk   string
		proven bool
		want   string
	}{
		"all is well":           {[]event.Event{issued(t, "1", "aa")}, "aa t 00", true, ""},
		"a repeat is well":      {[]event.Event{issued(t, "1", "aa"), issued(t, "1", "aa")}, "", true, ""},
		"issued twice":          {[]event.Event{issued(t, "1", "aa"), issued(t, "2", "bb"), issued(t, "3", "aa")}, "", true, twoCertificates},
		"one id, two contents":  {[]event.Event{issued(t, "1", "bb"), issued(t, "1", "aa")}, "", true, twoContents},
		"another in the record": {[]event.Event{issued(t, "1", "bb")}, "", true, twoCertificates},
		"another on the disk":   {[]event.Event{issued(t, "1", "aa")}, "bb t 00", true, twoCertificates},
		"never told of":         {nil, "", true, noFact},
		"proof never told of":   {[]event.Event{issued(t, "1", "aa")}, "", false, noFact},
	} {
		r := newRun()
		told := facts{contents: map[string]string{}, issued: map[string]string{}, proven: map[string]bool{}, missed: map[string]bool{}}
		for _, e := range c.events {
			if err := r.takeFact(told, e); err != nil {
				t.Fatal(err)
			}
		}
		told.proven["edge-01/kms@1"] = c.proven
		if c.disk != "" {
			r.reader.seen["edge-01/kms@1"] = c.disk
		}
		r.checkClient(client, told)
		if c.want == "" && r.broken.total() > 0 || c.want != "" && r.broken.count[c.want] == 0 {
			t.Errorf("%s: %v %v, want %q", name, r.broken.count, r.broken.examples, c.want)
		}
	}
}

func TestReceiverTellsRepeatsFromDoubles(t *testing.T) {
	r, stop, err := newReceiver()
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	for _, key := range []string{"k1", "k1", "k2"} {
		request, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url,
			strings.NewReader(`{"status":"firing","alert":{"fingerprint":"f","level":0,"since":"2026-11-01T00:00:00Z"}}`))
		request.Header.Set("Idempotency-Key", key)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
	}
	if len(r.keys) != 2 || r.keys["k1"] != 2 || !r.has("f", "firing") || r.has("f", "resolved") || len(r.messages) != 1 {
		t.Errorf("%v %v", r.keys, r.messages)
	}
	for _, keys := range r.messages {
		if len(keys) != 2 {
			t.Errorf("%v", keys)
		}
	}
}

// What a proxy that is cut has taken arrives when it is healed, and not before.
func TestProxyHoldsWhatIsCut(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	arrived := make(chan string, 10)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		buffer := make([]byte, 100)
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				close(arrived)
				return
			}
			arrived <- string(bytes.Clone(buffer[:n]))
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p, err := newProxy(ctx, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", p.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "one")
	if got := <-arrived; got != "one" {
		t.Fatalf("got %q", got)
	}
	p.cut()
	_, _ = io.WriteString(conn, "two")
	healed := make(chan struct{})
	go func() { close(healed); p.heal() }()
	select {
	case got := <-arrived:
		select {
		case <-healed:
			if got != "two" {
				t.Errorf("got %q", got)
			}
		default:
			t.Errorf("%q passed a cut", got)
		}
	case <-time.After(time.Minute):
		t.Error("nothing came after the cut")
	}
	_ = conn.Close()
	if got, open := <-arrived; open {
		t.Errorf("got %q after the end", got)
	}
}
