package state

import "sync"

// Signal wakes those who wait for the change of something that has a name. The
// zero value is ready; it is safe for concurrent use.
type Signal struct {
	mu      sync.Mutex
	waiting map[string]chan struct{}
}

// Wait returns a channel that is closed at the next change of name. Ask for it
// before looking at the state, or a change in between is missed.
func (s *Signal) Wait(name string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting == nil {
		s.waiting = map[string]chan struct{}{}
	}
	c, ok := s.waiting[name]
	if !ok {
		c = make(chan struct{})
		s.waiting[name] = c
	}
	return c
}

// Wake wakes those who wait for name.
func (s *Signal) Wake(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.waiting[name]; ok {
		close(c)
		delete(s.waiting, name)
	}
}

// WakeAll wakes everyone.
func (s *Signal) WakeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, c := range s.waiting {
		close(c)
		delete(s.waiting, name)
	}
}
