package state

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/health"
)

// wire dials NATS, and can be cut.
type wire struct {
	mu   sync.Mutex
	cut  bool
	open []net.Conn
}

func (w *wire) Dial(network, address string) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		return nil, errors.New("cut")
	}
	c, err := (&net.Dialer{}).Dial(network, address)
	w.open = append(w.open, c)
	return c, err
}

func (w *wire) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	for _, c := range w.open {
		_ = c.Close()
	}
	w.open = nil
}

// A gateway that is cut off from NATS knows it, and is back by itself.
func TestTouchIsLostAndFound(t *testing.T) {
	server, w := bustest.NewAt(t, t.TempDir(), false), &wire{}
	nc, err := nats.Connect(server.Server.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.SetCustomDialer(w))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	board := health.New()
	s, err := Open(t.Context(), nc, board.Part("gateway"))
	if err != nil {
		t.Fatal(err)
	}
	s.touch.rhythm = rhythm{beat: 100 * time.Millisecond, silence: time.Second}
	bustest.Run(t, s.Run)
	if why := s.InTouch(t.Context()); why != "" {
		t.Fatal(why)
	}
	lost := func(want string) {
		t.Helper()
		bustest.Eventually(t, func() error {
			known, shown := s.touch.lost(clock.Wall()), strings.Join(whys(board.Status().Parts["gateway"]), "; ")
			if want == "" && known+shown != "" || !strings.Contains(known, want) || want != "" && !strings.Contains(shown, "store: "+want) {
				return fmt.Errorf("%q, shown: %q; want %q", known, shown, want)
			}
			return nil
		})
	}
	lost("")
	w.set(true)
	lost("NATS was last heard at")
	w.set(false)
	lost("")
}

func whys(p health.PartStatus) []string {
	var all []string
	for _, w := range p.Waiting {
		all = append(all, w.For+": "+w.Why)
	}
	return all
}

// A process that was stopped and goes on finds out by its clock.
func TestTouchEnds(t *testing.T) {
	heard := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	touch := touch{rhythm: usual}
	if why := touch.lost(heard); why != "the buckets are read for the first time" {
		t.Error(why)
	}
	touch.mark(heard)
	for after, want := range map[time.Duration]string{
		0: "", usual.silence - 1: "", usual.silence: "NATS was last heard at 2026-03-01T12:00:00Z", 9 * time.Hour: "NATS was last heard at 2026-03-01T12:00:00Z",
	} {
		if why := touch.lost(heard.Add(after)); why != want {
			t.Errorf("after %s: %q, want %q", after, why, want)
		}
	}
	s := &State{}
	s.touch.rhythm = usual
	go s.touch.mark(clock.Wall())
	if why := s.InTouch(context.Background()); why != "" {
		t.Errorf("who waits a moment hears %q", why)
	}
}
