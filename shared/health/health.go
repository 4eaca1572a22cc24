// Package health collects what the parts of a process wait for, and serves it
// at /livez and /readyz.
package health

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"sync"
)

// Board holds the conditions of every part of a process. Use New; it is safe
// for concurrent use.
type Board struct {
	mu      sync.Mutex
	waiting map[string]map[string]string // part -> condition -> why it is not met
}

// New returns an empty board.
func New() *Board { return &Board{waiting: map[string]map[string]string{}} }

// Part is the view that one part has of the board.
type Part struct {
	board *Board
	name  string
}

// Part registers a part. It is not ready until each condition that it names
// with Wait is met.
func (b *Board) Part(name string) Part {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting[name] == nil {
		b.waiting[name] = map[string]string{}
	}
	return Part{b, name}
}

// Wait says that a condition of the part is not met, and why.
func (p Part) Wait(condition, why string) {
	if p.board == nil {
		return
	}
	p.board.mu.Lock()
	defer p.board.mu.Unlock()
	p.board.waiting[p.name][condition] = why
}

// Met says that a condition is met, perhaps again.
func (p Part) Met(condition string) {
	if p.board == nil {
		return
	}
	p.board.mu.Lock()
	defer p.board.mu.Unlock()
	delete(p.board.waiting[p.name], condition)
}

// Check sets a condition by an error: met if nil.
func (p Part) Check(condition string, err error) {
	if err != nil {
		p.Wait(condition, err.Error())
		return
	}
	p.Met(condition)
}

// Waiting is one condition that is not met.
type Waiting struct {
	For string `json:"for"`
	Why string `json:"why"`
}

// PartStatus is the status of one part.
type PartStatus struct {
	Ready   bool      `json:"ready"`
	Waiting []Waiting `json:"waiting,omitempty"`
}

// Status is the answer of /readyz.
type Status struct {
	Ready bool                  `json:"ready"`
	Parts map[string]PartStatus `json:"parts"`
}

// Status returns the present state of all parts.
func (b *Board) Status() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Status{Ready: true, Parts: map[string]PartStatus{}}
	for name, conditions := range b.waiting {
		part := PartStatus{Ready: len(conditions) == 0}
		for _, condition := range slices.Sorted(maps.Keys(conditions)) {
			part.Waiting = append(part.Waiting, Waiting{For: condition, Why: conditions[condition]})
		}
		s.Ready = s.Ready && part.Ready
		s.Parts[name] = part
	}
	return s
}

// ServeReady answers 200 when every part is ready, else 503, and says what each
// part waits for.
func (b *Board) ServeReady(w http.ResponseWriter, _ *http.Request) {
	s := b.Status()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !s.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(s)
}

// ServeLive answers 200 as long as the process can answer at all.
func (b *Board) ServeLive(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}
