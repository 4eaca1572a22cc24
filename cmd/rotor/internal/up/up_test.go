package up

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/clock"
)

// The shipped configuration must be one that is read without an error.
func TestShippedConfiguration(t *testing.T) {
	c, err := loadConfig(Options{Config: "../../../../deploy/rotor.yaml", Data: "data"})
	if err != nil {
		t.Fatal(err)
	}
	if c.gateway.ListenAPI != "127.0.0.1:8080" || c.issuer.KeyFile != filepath.Join("data", "issuer.key") {
		t.Errorf("%+v", c.gateway)
	}
}

func TestArgumentsWin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rotor.yaml")
	if err := os.WriteFile(path, []byte("gateway:\n  listenAPI: 127.0.0.1:1\n  listenAgents: 127.0.0.1:2\nserver:\n  listenNATS: 127.0.0.1:3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := loadConfig(Options{Config: path, ListenAPI: "127.0.0.1:4"})
	if err != nil {
		t.Fatal(err)
	}
	if c.gateway.ListenAPI != "127.0.0.1:4" || c.gateway.ListenAgents != "127.0.0.1:2" || c.server.ListenNATS != "127.0.0.1:3" {
		t.Errorf("%+v %+v", c.gateway, c.server)
	}
}

// A restart goes on where a fast clock had come to, also at another rate.
func TestFastClockGoesOn(t *testing.T) {
	dir := t.TempDir()
	if c, err := resumeClock(dir, 0); err != nil || c.Rate() != 1 {
		t.Fatalf("a new folder: %v, %v", c, err)
	}
	first, err := resumeClock(dir, 1e6)
	if err != nil {
		t.Fatal(err)
	}
	seen := first.Now()
	second, err := resumeClock(dir, 0)
	if err != nil || second.Rate() != 1e6 || second.Now().Before(seen) {
		t.Errorf("after a restart: rate %v, %v behind (%v)", second.Rate(), seen.Sub(second.Now()), err)
	}
	seen = second.Now()
	slow, err := resumeClock(dir, 1)
	if err != nil || slow.Rate() != 1 || slow.Now().Before(seen) {
		t.Errorf("at rate 1: rate %v, %v behind (%v)", slow.Rate(), seen.Sub(slow.Now()), err)
	}
	if slow.Now().Sub(clock.Wall()) > 365*24*time.Hour {
		t.Errorf("the clock ran away: %v", slow.Now())
	}
}

func TestOneProcessPerFolder(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir); err == nil {
		t.Error("a second process was let in")
	}
	unlock()
	again, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	again()
}
