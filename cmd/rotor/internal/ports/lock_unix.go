//go:build unix

package ports

import (
	"os"
	"syscall"
)

// lock reports whether the file is now locked by this opening of it.
func lock(file *os.File) bool {
	return syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}
