package cluster

import "syscall"

// attributes make a program die with us, also when we are killed: nothing of a
// topology stays behind. It has a process group of its own, so that Ctrl-C at
// the terminal reaches only us, and the programs end in the right order.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
