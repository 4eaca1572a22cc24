package agent

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/config"
	"github.com/rotor-fleet/rotor/agent/internal/durable"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
)

// issueAll issues the next generation of every client at once.
func (g *gateway) issueAll() {
	g.change(func() {
		for _, key := range g.order {
			g.issueLocked(key)
		}
	})
}

// F20: nodes were recreated at a pace that nobody controls. A rotation goes
// through the clients one by one, in the order of the server, and so through one
// host after the other.
func TestF20_OneClientAfterTheOther(t *testing.T) {
	g := newGateway(t, nine...)
	r := newRig(t, g)
	r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	g.change(func() { g.told = nil })
	g.issueAll()
	eventually(t, "generation 2 proven", func() bool { return g.proven(2) })
	var want []string
	for _, name := range nine {
		want = append(want, "installed "+name+" 2", "proven "+name+" 2")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Equal(g.told, want) {
		t.Errorf("told\n%s\nwant\n%s", strings.Join(g.told, "\n"), strings.Join(want, "\n"))
	}
}

// refuseWhile is a bad issuance: what it has made convinces nobody.
func refuseWhile(bad *atomic.Int64) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != api.PathProve || bad.Load() == 0 {
			return false
		}
		refuse(w, http.StatusForbidden, "no good")
		return true
	}
}

// A bad issuance breaks as many clients as is allowed and one, and the others
// say behind whom they wait; they go on when it is over.
func TestF10_BadIssuanceDoesNotBreakEveryClientAtOnce(t *testing.T) {
	for _, c := range []struct{ allowed, broken int }{{0, 1}, {1, 2}, {2, 3}} {
		t.Run(fmt.Sprintf("%d allowed", c.allowed), func(t *testing.T) {
			g := newGateway(t, "kms", "kva", "caph", "csi", "cloud-provider")
			r := newRig(t, g)
			r.config.Settings.MaxFailures = &c.allowed
			r.start()
			eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
			var bad atomic.Int64
			g.change(func() { g.fault = refuseWhile(&bad) })
			bad.Store(1)
			g.issueAll()
			eventually(t, "the last one is held", func() bool {
				return strings.HasPrefix(g.failure("cloud-provider"), "held behind kms, which failed: prove generation 2: ")
			})
			for i, key := range g.order {
				want := 1
				if i < c.broken {
					want = 2
				}
				r.wantSet(key.String(), want)
			}
			eventually(t, "health says so", func() bool { return strings.Contains(r.waiting(), "cloud-provider: held behind kms, which failed: ") })
			bad.Store(0)
			eventually(t, "all proven", func() bool { return g.proven(2) && r.board.Status().Ready })
		})
	}
}

// Whoever has nothing to lose is not held back: what is not there, or ends soon.
func TestHoldingBackNeverLocksOut(t *testing.T) {
	g := newGateway(t, "kms", "kva", "csi")
	g.life = 3 * time.Second
	r := newRig(t, g)
	none := 0
	r.config.Settings.MaxFailures = &none
	stop := r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	stop()
	g.change(func() { g.life = 0 })
	for _, name := range []string{"kms", "kva"} { // both fail from here on
		if err := errors.Join(os.RemoveAll(filepath.Join(r.config.Directory, name)), os.WriteFile(filepath.Join(r.config.Directory, name), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	g.issueAll()
	r.start()
	eventually(t, "csi is proven before it has ended", func() bool { return len(g.history("csi")) == 2 })
}

// switched is a disk that is full, or read-only, for as long as it says so.
type switched struct {
	durable.Disk
	err atomic.Pointer[error]
}

func (d *switched) failing() error {
	if err := d.err.Load(); err != nil {
		return *err
	}
	return nil
}

func (d *switched) Create(path string, data []byte, a durable.Attributes) error {
	if err := d.failing(); err != nil {
		_ = os.WriteFile(path, data[:min(len(data), 7)], 0o600)
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return d.Disk.Create(path, data, a)
}

// Disk full and read-only folder: the failure is told, the old set stays, and
// there is success once there is room again.
func TestDiskThatTakesNothing(t *testing.T) {
	for _, fault := range []error{syscall.ENOSPC, syscall.EROFS, syscall.EDQUOT} {
		t.Run(fault.Error(), func(t *testing.T) {
			g := newGateway(t, "kms", "csi")
			r := newRig(t, g)
			disk := &switched{}
			r.ops = disk
			r.start()
			eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
			first := r.wantSet("kms", 1)
			disk.err.Store(&fault)
			g.issueAll()
			eventually(t, "told", func() bool {
				return strings.HasPrefix(g.failure("kms"), "install generation 2 in "+filepath.Join(r.config.Directory, "kms")) && strings.HasSuffix(g.failure("kms"), fault.Error())
			})
			eventually(t, "health says so", func() bool { return strings.Contains(r.waiting(), fault.Error()) })
			if s := r.wantSet("kms", 1); s.Metadata.Serial != first.Metadata.Serial {
				t.Error("the old set was touched")
			}
			if left, _ := filepath.Glob(filepath.Join(r.config.Directory, "kms", "..tmp-*")); len(left) > 0 {
				t.Errorf("rubbish on a full disk: %v", left)
			}
			disk.err.Store(nil)
			eventually(t, "proven", func() bool { return g.proven(2) && r.board.Status().Ready })
		})
	}
}

// F4: an expired access file blocks its own replacement. What has ended is as
// good as absent, and is replaced by itself.
func TestF4_ExpiredSetIsReplaced(t *testing.T) {
	g := newGateway(t, "kms")
	g.life = 2 * time.Second
	r := newRig(t, g)
	stop := r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	stop()
	s := r.wantSet("kms", 1)
	eventually(t, "it has ended", func() bool { return !s.Metadata.Expiry().After(clock.Wall()) })
	g.change(func() { g.life = 0 })
	g.issue("kms")
	r.start()
	eventually(t, "generation 2 proven", func() bool { return g.proven(2) })
}

// Two entries that meet in one folder are told of, before one of them has
// written over the other.
func TestTwoClientsWithOneFolder(t *testing.T) {
	g := newGateway(t, "kms", "csi", "kva")
	r := newRig(t, g)
	r.config.Settings = settingsOf(map[string]config.Entry{"kms": {Directory: config.Directory{Path: "csi"}}})
	r.start()
	eventually(t, "told", func() bool {
		return strings.Contains(g.failure("kms"), "would install into "+filepath.Join(r.config.Directory, "csi")) && strings.Contains(g.failure("csi"), "would install into")
	})
	eventually(t, "the other one is well", func() bool { return len(g.history("kva")) == 1 })
	if _, err := r.set("csi"); err == nil {
		t.Error("one of them was installed")
	}
}
