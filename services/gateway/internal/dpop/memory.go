package dpop

import (
	"errors"
	"sync"
	"time"
)

// ErrFull says that more proofs were used within the window than are remembered.
var ErrFull = errors.New("too many proofs at once")

// maxRemembered bounds the memory, to some tens of megabytes. Only whoever holds
// a token gets a proof remembered, and no more often than the limit per client.
const maxRemembered = 1 << 18

// Memory remembers the proofs that were used, for as long as they could be used
// again. It is that of one process: what keeps a proof from being of use at
// another gateway is that a generation is settled by its key. The zero value is
// ready; it is safe for concurrent use.
type Memory struct {
	mu    sync.Mutex
	used  map[string]time.Time // until when it could be used again
	swept time.Time
}

// Use reports whether a proof is used for the first time, and remembers it until
// a moment. The error is ErrFull.
func (m *Memory) Use(p Proof, until, now time.Time) (first bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.used == nil {
		m.used, m.swept = map[string]time.Time{}, now
	}
	id := p.Key + " " + p.ID
	if last, ok := m.used[id]; ok && !now.After(last) {
		return false, nil
	}
	if now.Sub(m.swept) >= time.Minute || len(m.used) >= maxRemembered {
		for other, last := range m.used {
			if now.After(last) {
				delete(m.used, other)
			}
		}
		m.swept = now
	}
	if len(m.used) >= maxRemembered {
		return false, ErrFull
	}
	m.used[id] = until
	return true, nil
}
