//go:build unix && !linux

package cluster

import "syscall"

// attributes: only Linux ties the life of a program to that of its parent.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
