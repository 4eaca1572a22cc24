package ports

import (
	"net"
	"sync"
	"testing"
)

// Users side by side never get the same port, though none of them listens yet.
func TestNoPortIsGivenTwice(t *testing.T) {
	const users, each = 4, size + size/2 // more than one block
	var mu sync.Mutex
	owner := map[string]int{}
	var all sync.WaitGroup
	for user := range users {
		p := &Ports{}
		t.Cleanup(p.Close)
		all.Go(func() {
			for range each {
				address, err := p.Free()
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if other, taken := owner[address]; taken {
					t.Errorf("%s was given to %d and to %d", address, other, user)
				}
				owner[address] = user
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(owner) != users*each {
		t.Errorf("%d ports, want %d", len(owner), users*each)
	}
}

func TestAPortThatIsInUseIsLeftOut(t *testing.T) {
	p := &Ports{}
	defer p.Close()
	first, err := p.Free()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", first)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for range size {
		if address, err := p.Free(); err != nil || address == first {
			t.Fatalf("%s, %v", address, err)
		}
	}
}
