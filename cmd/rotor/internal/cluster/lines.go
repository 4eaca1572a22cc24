package cluster

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// lines writes what a program prints to its log file, and each line with the
// name of the program to where all logs come together.
type lines struct {
	name string
	path string
	file *os.File
	all  *shared

	mu   sync.Mutex
	rest []byte
	last []string // for an error that shows the end of the log
}

// shared is a writer for the lines of many.
type shared struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *shared) line(name string, line []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = fmt.Fprintf(s.w, "%-12s %s\n", name, line)
}

const keptLines = 20

func openLines(dir, name string, all *shared) (*lines, error) {
	path := filepath.Join(dir, name+".log")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", name, err)
	}
	return &lines{name: name, path: path, file: file, all: all}, nil
}

// Write takes a part of the output; it never fails the program.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.file.Write(p)
	l.rest = append(l.rest, p...)
	for {
		line, rest, whole := bytes.Cut(l.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		l.all.line(l.name, line)
		if l.last = append(l.last, string(line)); len(l.last) > keptLines {
			l.last = l.last[1:]
		}
		l.rest = rest
	}
}

func (l *lines) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.last, "\n")
}

// quit is how the runtime of Go begins to say where each goroutine stands.
const quit = "SIGQUIT: quit"

const maxDump = 64 << 10 // bytes

// dump returns where the program said that it stands, or the end of its log. A
// log of a test is gone when somebody wants to read it.
func (l *lines) dump() string {
	raw, err := os.ReadFile(l.path)
	at := bytes.LastIndex(raw, []byte(quit))
	if err != nil || at < 0 {
		return l.tail()
	}
	return string(raw[at:min(len(raw), at+maxDump)])
}
