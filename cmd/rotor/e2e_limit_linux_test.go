package main

import (
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// cmdFileLimit lets every write of `rotor up`, or of a program of run or paste,
// beyond a size of its file fail, or lifts that again: real failures of a real
// process, without rights of root.
func cmdFileLimit(ts *testscript.TestScript, _ bool, args []string) {
	name := "up"
	if len(args) > 1 {
		name = args[1]
	}
	pid := worldOf(ts).programs[name].command.Process.Pid
	var limit unix.Rlimit
	ts.Check(unix.Prlimit(pid, unix.RLIMIT_FSIZE, nil, &limit))
	limit.Cur = limit.Max
	if args[0] != "none" {
		bytes, err := strconv.ParseUint(args[0], 10, 64)
		ts.Check(err)
		limit.Cur = bytes
	}
	ts.Check(unix.Prlimit(pid, unix.RLIMIT_FSIZE, &limit, nil))
}
