package chaos

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Kind is a kind of fault.
type Kind string

// The kinds of faults.
const (
	Kill      Kind = "kill"      // kill -9, and a start after a while
	Stop      Kind = "stop"      // SIGSTOP, and SIGCONT after a while
	Restart   Kind = "restart"   // SIGTERM, and a start
	Partition Kind = "partition" // nothing passes between two parts for a while
)

// Fault is one fault of a schedule.
type Fault struct {
	At     time.Duration // since the start of the storm
	For    time.Duration
	Kind   Kind
	Target string
	Peer   string // of a partition
}

func (f Fault) String() string {
	target := f.Target
	if f.Peer != "" {
		target += " | " + f.Peer
	}
	return fmt.Sprintf("%6.1fs  %-9s %s for %.1fs", f.At.Seconds(), f.Kind, target, f.For.Seconds())
}

// plan says what a schedule is made of.
type plan struct {
	length  time.Duration
	targets []string
	pairs   [][2]string
}

// schedule returns the faults of a storm. It depends on nothing but its
// arguments, so that a seed brings the same storm again.
func schedule(seed uint64, p plan) []Fault {
	random := rand.New(rand.NewPCG(seed, 0x726f746f72))
	between := func(low, high time.Duration) time.Duration {
		return low + time.Duration(random.Int64N(int64(high-low)))
	}
	var faults []Fault
	busy := map[string]time.Duration{} // until when a part has a fault
	for at := between(0, 2*time.Second); at < p.length; at += between(300*time.Millisecond, 2500*time.Millisecond) {
		f := Fault{At: at, For: between(500*time.Millisecond, 8*time.Second)}
		switch n := random.IntN(100); {
		case n < 35:
			f.Kind = Kill
		case n < 60:
			f.Kind = Stop
		case n < 72:
			f.Kind = Restart
		default:
			f.Kind = Partition
		}
		if f.Kind == Partition {
			pair := p.pairs[random.IntN(len(p.pairs))]
			f.Target, f.Peer = pair[0], pair[1]
		} else {
			f.Target = p.targets[random.IntN(len(p.targets))]
		}
		f.For = min(f.For, p.length-at)
		if place(busy, f) {
			faults = append(faults, f)
		}
	}
	return faults
}

// place reports whether the parts of a fault are free, and takes them. The nodes
// of NATS are taken together: what two of three cannot do is not asked of them.
func place(busy map[string]time.Duration, f Fault) bool {
	names := map[string]bool{}
	for _, name := range []string{f.Target, f.Peer} {
		switch {
		case name == "":
		case strings.HasPrefix(name, "nats-") && (f.Peer == "" || strings.HasPrefix(f.Target, "nats-")):
			names["nats"] = true
		default:
			names[name] = true
		}
	}
	for name := range names {
		if f.At < busy[name] {
			return false
		}
	}
	// A node that was away needs a while to catch up before another may go.
	for name := range names {
		busy[name] = f.At + f.For + time.Second
		if name == "nats" {
			busy[name] += 4 * time.Second
		}
	}
	return true
}
