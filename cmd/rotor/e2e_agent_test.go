package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdRun starts a program in the background under a name of its own: run NAME
// PROGRAM args...
func cmdRun(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	p := w.start(ts, args[1], args[2:]...)
	w.programs[args[0]] = p
	ts.Defer(func() { ts.Logf("%s has said:\n%s", args[0], tail(p.output.String())) })
}

// cmdPaste runs the command that `rotor join -o json` has printed to a file, as
// somebody would who pastes it: paste NAME FILE PROGRAM args... The program is
// rotor, as printed, or the small binary agent.
func cmdPaste(ts *testscript.TestScript, _ bool, args []string) {
	var join struct {
		Command string `json:"command"`
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &join))
	words := strings.Fields(join.Command)
	if len(words) < 3 || words[0] != "rotor" || words[1] != "agent" {
		ts.Fatalf("this is not the command of an agent: %q", join.Command)
	}
	if args[2] == "agent" {
		words = words[1:]
	}
	cmdRun(ts, false, append(append([]string{args[0]}, words...), args[3:]...))
}

// cmdKill9 kills a program of run or paste without warning: kill9 NAME.
func cmdKill9(ts *testscript.TestScript, _ bool, args []string) {
	worldOf(ts).programs[args[0]].end(syscall.SIGKILL)
}

// cmdHangUp makes a program of run or paste read its configuration again: hup
// NAME.
func cmdHangUp(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(worldOf(ts).programs[args[0]].command.Process.Signal(syscall.SIGHUP))
}

// cmdSaid waits until a program has printed a text: said NAME TEXT. With neg, it
// must not have.
func cmdSaid(ts *testscript.TestScript, neg bool, args []string) {
	p := worldOf(ts).programs[args[0]]
	if neg {
		if strings.Contains(p.output.String(), args[1]) {
			ts.Fatalf("%s has said %q:\n%s", args[0], args[1], p.output)
		}
		return
	}
	eventually(ts, func() error {
		if !strings.Contains(p.output.String(), args[1]) {
			return fmt.Errorf("%s has not said %q:\n%s", args[0], args[1], p.output)
		}
		return nil
	})
}

func tail(text string) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-25):], "\n")
}

// cmdSecrets demands that no secret shows where it must not: secrets FILE... looks
// for what lies in the folders of agents and of the server, and for the join
// tokens that rotor join -o json has printed to files, in all that programs have printed and in the store of NATS.
func cmdSecrets(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	hidden := map[string]string{} // what is looked for -> where it is from
	root := ts.MkAbs(".")
	ts.Check(filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		name := filepath.Base(path)
		if err != nil || d.IsDir() || name != "token" && !strings.HasSuffix(name, ".key") && name != "admin.token" && !strings.HasSuffix(name, ".nk") {
			return err
		}
		raw, err := os.ReadFile(path)
		if err == nil {
			hide(hidden, path, raw)
		}
		return err
	}))
	for _, arg := range args {
		var join struct {
			Token string `json:"token"`
		}
		ts.Check(json.Unmarshal([]byte(ts.ReadFile(arg)), &join))
		hide(hidden, arg, []byte(join.Token))
	}
	if len(hidden) < 20 {
		ts.Fatalf("only %d secrets to look for", len(hidden))
	}
	look := func(where string, text []byte) {
		for secret, from := range hidden {
			if bytes.Contains(text, []byte(secret)) {
				ts.Fatalf("a secret of %s shows in %s", from, where)
			}
		}
	}
	for name, p := range w.programs {
		look("what "+name+" has printed", []byte(p.output.String()))
	}
	blocks := 0
	ts.Check(filepath.WalkDir(ts.MkAbs("var/nats/store"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if strings.HasSuffix(path, ".blk") && len(raw) > 0 {
			blocks++
		}
		look(path, raw)
		return err
	}))
	if blocks < 5 {
		ts.Fatalf("the store has only %d blocks with something in it", blocks)
	}
	ts.Logf("%d secrets show nowhere in %d programs and %d blocks", len(hidden), len(w.programs), blocks)
}

// hide adds a secret in the forms in which it could show: as it is, the line of
// a PEM block with the private part, base64 as in JSON, hexadecimal.
func hide(hidden map[string]string, from string, raw []byte) {
	secret := bytes.TrimSpace(raw)
	if block, _ := pem.Decode(raw); block != nil {
		body := bytes.TrimSpace(pem.EncodeToMemory(&pem.Block{Type: "X", Bytes: block.Bytes}))
		hidden[string(bytes.Split(body, []byte("\n"))[1])] = from
		secret = private(block.Bytes)
	}
	for _, form := range []string{
		string(secret), hex.EncodeToString(secret), base64.RawStdEncoding.EncodeToString(secret[:len(secret)/3*3]), base64.RawURLEncoding.EncodeToString(secret[:len(secret)/3*3]),
	} {
		hidden[form] = from
	}
}

// private returns the part of an encoded key that is secret: what is public lies
// in many places, and should.
func private(der []byte) []byte {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return der // not PKCS #8: a key for HPKE, all of it secret
	}
	switch key := key.(type) {
	case ed25519.PrivateKey:
		return key.Seed()
	case *ecdsa.PrivateKey:
		if raw, err := key.Bytes(); err == nil {
			return raw
		}
	}
	return der
}
