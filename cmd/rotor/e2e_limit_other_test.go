//go:build !linux

package main

import "github.com/rogpeppe/go-internal/testscript"

func cmdFileLimit(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Fatalf("filelimit needs Linux: the limits of another process cannot be set here")
}
