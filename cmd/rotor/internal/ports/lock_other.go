//go:build !unix

package ports

import "os"

// lock always succeeds where the system has no locks that end with their
// process: there a block is chosen by chance alone.
func lock(*os.File) bool { return true }
