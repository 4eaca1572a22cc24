package reload

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

var signals = map[string]syscall.Signal{
	"HUP": syscall.SIGHUP, "INT": syscall.SIGINT, "QUIT": syscall.SIGQUIT, "TERM": syscall.SIGTERM,
	"USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2, "WINCH": syscall.SIGWINCH,
}

// Signal sends a signal, by its name without SIG, to the process whose number
// stands in a file.
func Signal(pidFile, name string) error {
	signal, ok := signals[name]
	if !ok {
		return fmt.Errorf("signal %s is not known", name)
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return fmt.Errorf("send SIG%s: %w", name, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 2 { // 0 and below are groups of processes, 1 is init
		return fmt.Errorf("send SIG%s: %s does not hold the number of a process", name, pidFile)
	}
	if err := syscall.Kill(pid, signal); err != nil {
		if errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("send SIG%s: process %d, which %s names, does not run", name, pid, pidFile)
		}
		return fmt.Errorf("send SIG%s to process %d, which %s names: %w", name, pid, pidFile, err)
	}
	return nil
}
