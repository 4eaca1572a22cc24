// Package reload makes the programs that use credentials read them again, and
// looks at what they serve. Whatever it does may be repeated, so it is only of
// use for what does no harm when it is done twice.
package reload

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/rotor-fleet/rotor/shared/secret"
)

// Client says whose credentials have changed.
type Client struct {
	Cluster    string
	Client     string
	Generation int
	Directory  string        // where they are installed; empty, where that is no folder
	Secrets    []secret.Text // that no error may show, even if a program prints them
}

// defaultPath serves an agent that was started without a PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is all that a program is told: of the agent's own environment,
// which may hold a join token, it gets the PATH.
func (c Client) environment() []string {
	path := os.Getenv("PATH")
	if path == "" {
		path = defaultPath
	}
	env := []string{
		"PATH=" + path, "LANG=C.UTF-8",
		"ROTOR_CLUSTER=" + c.Cluster, "ROTOR_CLIENT=" + c.Client, "ROTOR_GENERATION=" + strconv.Itoa(c.Generation),
	}
	if c.Directory != "" {
		env = append(env, "ROTOR_DIRECTORY="+c.Directory)
	}
	return env
}

// afterExit is how long output is waited for after the end of a program: one
// that it has left in the background may hold the pipe for ever.
const afterExit = 2 * time.Second

// Command runs a program, without a shell, until ctx ends. The error tells how
// it ended and the last of what it printed, without any of the secrets.
func Command(ctx context.Context, argv []string, c Client) error {
	var out tail
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...) //nolint:gosec // the operator of this machine has named it
	cmd.Env, cmd.Dir = c.environment(), "/"
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = afterExit
	// Its children end with it: a reload that hangs must not pile up processes.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err := cmd.Run()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	why := err.Error()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		why = "it did not end in time and was killed"
	}
	if text := clean(out.last, c.Secrets); text != "" {
		why += ": " + text
	}
	return fmt.Errorf("run %s: %s", argv[0], why)
}

// tail keeps the last of what is written to it.
type tail struct{ last []byte }

// kept bounds what a program can make the agent keep.
const kept = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.last = append(t.last, p...)
	if over := len(t.last) - kept; over > 0 {
		t.last = append(t.last[:0], t.last[over:]...)
	}
	return len(p), nil
}
