// Package ports hands out ports of the loopback to programs that start a moment
// later, and must find them again after a kill.
//
// To let the system choose (port 0) and to pass the number on does neither: in
// the moment between the release of a port and the start of its program another
// one may get it, and while the program is away an outgoing connection may sit
// there. So ports come from below those that the system gives to connections
// (32768 on Linux), in blocks that one user at a time claims.
package ports

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

const (
	lowest  = 12000
	highest = 32000
	size    = 50 // ports in a block
	blocks  = (highest - lowest) / size
)

// Ports are the ports of one user. The zero value has none yet and is ready. It
// is safe for concurrent use.
type Ports struct {
	mu     sync.Mutex
	left   []int      // of the blocks that are claimed
	claims []*os.File // a lock each, which ends with the process
}

// Free returns an address that nobody listens at and that no other Ports gives
// away, in this process or another, until Close.
func (p *Ports) Free() (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for len(p.left) > 0 {
			port := p.left[len(p.left)-1]
			p.left = p.left[:len(p.left)-1]
			address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
			if l, err := net.Listen("tcp", address); err == nil {
				return address, l.Close()
			}
		}
		if err := p.claim(); err != nil {
			return "", err
		}
	}
}

// claim takes a block that nobody has.
func (p *Ports) claim() error {
	dir := filepath.Join(os.TempDir(), "rotor-ports-"+strconv.Itoa(os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("claim ports: %w", err)
	}
	for _, n := range rand.Perm(blocks) {
		file, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(n)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return fmt.Errorf("claim ports: %w", err)
		}
		if !lock(file) {
			_ = file.Close()
			continue
		}
		p.claims = append(p.claims, file)
		for i := range size {
			p.left = append(p.left, lowest+n*size+i)
		}
		return nil
	}
	return fmt.Errorf("claim ports: all %d blocks between %d and %d are in use: see %s", blocks, lowest, highest, dir)
}

// Close lets others have the ports.
func (p *Ports) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, file := range p.claims {
		_ = file.Close()
	}
	p.claims, p.left = nil, nil
}
