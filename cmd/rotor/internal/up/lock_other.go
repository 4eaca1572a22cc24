//go:build !unix

package up

// lock does nothing where the system has no advisory locks that die with their
// process; the embedded NATS server's own store is the guard there.
func lock(string) (unlock func(), err error) { return func() {}, nil }
