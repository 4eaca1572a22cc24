//go:build unix

package up

import (
	"os/signal"
	"syscall"
)

// bearFileLimit lets a write beyond the limit of file sizes fail like one on a
// full disk, where it would otherwise end the process.
func bearFileLimit() { signal.Ignore(syscall.SIGXFSZ) }
