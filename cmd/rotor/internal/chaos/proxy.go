package chaos

import (
	"context"
	"fmt"
	"net"
	"sync"
)

// proxy lies between two parts and can be cut, as a network is: what was sent
// does not arrive, nobody is told, and when the cut is over it arrives late.
type proxy struct {
	to       string
	listener net.Listener

	mu   sync.Mutex
	open chan struct{} // closed while the way is free
}

// newProxy returns a proxy that serves until ctx ends.
func newProxy(ctx context.Context, to string) (*proxy, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy to %s: %w", to, err)
	}
	p := &proxy{to: to, listener: l, open: make(chan struct{})}
	close(p.open)
	context.AfterFunc(ctx, func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			go p.serve(ctx, conn)
		}
	}()
	return p, nil
}

// Cut stops everything on its way; heal lets it go on. Several cuts at once are
// one.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
		p.open = make(chan struct{})
	default:
	}
}

func (p *proxy) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
	default:
		close(p.open)
	}
}

// pass waits until the way is free.
func (p *proxy) pass(ctx context.Context) bool {
	p.mu.Lock()
	open := p.open
	p.mu.Unlock()
	select {
	case <-open:
		return true
	case <-ctx.Done():
		return false
	}
}

func (p *proxy) serve(ctx context.Context, from net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() { _ = from.Close() }()
	if !p.pass(ctx) {
		return
	}
	to, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.to)
	if err != nil {
		return // as refused: the caller sees the end of its connection
	}
	defer func() { _ = to.Close() }()
	stop := context.AfterFunc(ctx, func() { _, _ = from.Close(), to.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { p.carry(ctx, cancel, to, from) })
	both.Go(func() { p.carry(ctx, cancel, from, to) })
	both.Wait()
}

// carry carries bytes one way. An end is carried as well, after a cut.
func (p *proxy) carry(ctx context.Context, end context.CancelFunc, to, from net.Conn) {
	defer end()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if !p.pass(ctx) {
			return
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
