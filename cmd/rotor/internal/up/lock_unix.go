//go:build unix

package up

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rotor-fleet/rotor/shared/clock"
)

// The lock is tried for half a second.
const (
	lockAttempts = 10
	lockPause    = 50 * time.Millisecond
)

// lock keeps a second process out of a data folder. The lock dies with the
// process, also when it is killed.
func lock(data string) (unlock func(), err error) {
	path := filepath.Join(data, "lock")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	// The kernel may let go of the lock a moment after a killed process is gone.
	for attempt := 1; ; attempt++ {
		if err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil || attempt == lockAttempts {
			break
		}
		_ = clock.Sleep(context.Background(), lockPause)
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("data folder %s is in use by another rotor: stop that one, or choose another folder with --data", data)
	}
	return func() { _ = file.Close() }, nil
}
