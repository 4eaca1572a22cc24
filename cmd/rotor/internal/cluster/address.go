package cluster

import (
	"fmt"
	"net"
	"strconv"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/ports"
	"github.com/rotor-fleet/rotor/shared/daemon"
)

// addresses hands out the addresses of the programs.
type addresses struct {
	ports ports.Ports
	taken map[string]bool // of those that were asked for by number
}

// free returns an address of the loopback that nobody uses.
func (a *addresses) free() (string, error) { return a.ports.Free() }

// nth returns the address that lies n ports above the given one, or a free one
// where that has port 0.
func (a *addresses) nth(what, address string, n int) (string, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("%s %q: write host:port, such as 127.0.0.1:8080", what, address)
	}
	port, err := strconv.Atoi(text)
	if err != nil || port < 0 || port+n > 65535 {
		return "", fmt.Errorf("%s %q: write host:port, such as 127.0.0.1:8080", what, address)
	}
	if port == 0 {
		return a.free()
	}
	address = net.JoinHostPort(host, strconv.Itoa(port+n))
	if a.taken[address] {
		return "", fmt.Errorf("%s: %s is used twice", what, address)
	}
	l, err := daemon.Listen(what, address)
	if err != nil {
		return "", err
	}
	a.taken[address] = true
	return address, l.Close()
}
