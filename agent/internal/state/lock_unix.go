//go:build unix

package state

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/rotor-fleet/rotor/agent/internal/durable"
)

// Lock keeps a second agent out of the folder. The lock dies with the process,
// also when it is killed. Where the file system has no locks, as some that are
// mounted over a network, there is none: the server notices two agents.
func (s *Store) Lock() (unlock func(), err error) {
	file, err := os.OpenFile(s.path(lockFile), os.O_CREATE|os.O_RDWR, durable.Mode)
	if err != nil {
		return nil, fmt.Errorf("lock state: %w", err)
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		_ = file.Close()
		return nil, fmt.Errorf("another agent runs with the state in %s: waiting until it ends", s.dir)
	case err != nil:
		s.log.Warn("the folder of the agent's state cannot be locked", "folder", s.dir, "err", err)
	}
	return func() { _ = file.Close() }, nil
}
