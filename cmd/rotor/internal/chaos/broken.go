package chaos

import (
	"fmt"
	"sync"
)

// The invariants, as the summary names them when they are broken.
const (
	twoCertificates = "two certificates or tokens of one generation"
	noCredential    = "moments without a valid credential"
	noMatch         = "sets on disk that do not match"
	twoContents     = "event ids with two contents"
	noFact          = "facts that a state implies and nobody told"
	alertLost       = "alerts that did not arrive"
	alertTwice      = "alerts visible twice"
	notHealed       = "parts or clients not healthy 60 s after the storm"
	deadLetters     = "dead letters"
	notBack         = "memory or goroutines not back"
	endedAlone      = "programs that ended by themselves"
	commandFailed   = "commands of users that failed"
)

var invariants = []string{
	twoCertificates, noCredential, noMatch, twoContents, noFact, alertLost, alertTwice, notHealed, deadLetters, notBack, endedAlone, commandFailed,
}

// keptExamples of each kind are shown.
const keptExamples = 5

// broken collects broken invariants. It is safe for concurrent use.
type broken struct {
	mu       sync.Mutex
	count    map[string]int
	examples map[string][]string
}

func (b *broken) add(kind, format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count[kind]++
	if len(b.examples[kind]) < keptExamples {
		b.examples[kind] = append(b.examples[kind], fmt.Sprintf(format, args...))
	}
}

func (b *broken) total() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	total := 0
	for _, n := range b.count {
		total += n
	}
	return total
}
