package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/rotor-fleet/rotor/shared/clock"
)

// Process is one program of the topology. It is started again when it ends by
// itself, as a service manager would do. It is safe for concurrent use.
type Process struct {
	Name   string
	path   string
	args   []string
	output *lines
	said   func(format string, args ...any)

	mu      sync.Mutex
	command *exec.Cmd
	done    chan struct{} // closed when command has ended
	wanted  bool          // it shall run
	ready   bool          // from here on an end is a crash that is mended
	crashes int
}

// restartPause keeps a program that ends at once from taking the machine.
const restartPause = time.Second

// Start starts the program unless it runs.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = true
	return p.start()
}

func (p *Process) start() error {
	if p.running() {
		return nil
	}
	command := exec.Command(p.path, p.args...) //nolint:gosec // programs and arguments are those of the topology
	command.Stdout, command.Stderr = p.output, p.output
	command.SysProcAttr = attributes()
	if err := command.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	done := make(chan struct{})
	p.command, p.done = command, done
	go p.wait(command, done)
	return nil
}

func (p *Process) wait(command *exec.Cmd, done chan struct{}) {
	err := command.Wait()
	close(done)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.command != command || !p.wanted || !p.ready {
		return
	}
	p.crashes++
	p.said("%s has ended (%v); starting it again. Its log: %s", p.Name, err, p.output.path)
	time.AfterFunc(restartPause, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.wanted && p.command == command {
			if err := p.start(); err != nil {
				p.said("%v", err)
			}
		}
	})
}

func (p *Process) running() bool {
	if p.command == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Ended reports whether the program was started and has ended.
func (p *Process) Ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.command != nil && !p.running()
}

// Crashes returns how often the program has ended by itself.
func (p *Process) Crashes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.crashes
}

// Kill ends the program without warning and leaves it dead.
func (p *Process) Kill() {
	if done := p.signal(syscall.SIGKILL, true); done != nil {
		<-done
	}
}

// Pause stops the program where it stands; Resume lets it go on.
func (p *Process) Pause() { p.signal(syscall.SIGSTOP, false) }

// Resume lets a paused program go on.
func (p *Process) Resume() { p.signal(syscall.SIGCONT, false) }

// Stop ends the program as a service manager does: SIGTERM, and SIGKILL when
// ctx ends.
func (p *Process) Stop(ctx context.Context) error {
	done := p.signal(syscall.SIGTERM, true)
	if done == nil {
		return nil
	}
	p.signal(syscall.SIGCONT, true)
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		// Where it stands goes to its log.
		p.signal(syscall.SIGQUIT, true)
		select {
		case <-done:
		case <-time.After(time.Second):
		}
		p.Kill()
		return fmt.Errorf("%s did not end and was killed; see %s:\n%s", p.Name, p.output.path, p.output.dump())
	}
}

// signal sends a signal to the program if it runs, and returns what is closed
// when it has ended.
func (p *Process) signal(s syscall.Signal, final bool) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if final {
		p.wanted = false
	}
	if !p.running() {
		return nil
	}
	if err := p.command.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.said("signal %s: %v", p.Name, err)
	}
	return p.done
}

// settled says that from here on an end of the program is a crash.
func (p *Process) settled() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready = true
}

// eventually calls f until it returns nil or ctx ends; the error is then that
// of f.
func eventually(ctx context.Context, f func(ctx context.Context) error) error {
	for {
		err := f(ctx)
		if err == nil || errors.Is(err, errFinal) {
			return err
		}
		if clock.Sleep(ctx, 50*time.Millisecond) != nil {
			return err
		}
	}
}

// errFinal marks what no waiting will mend.
var errFinal = errors.New("ended at the start")
