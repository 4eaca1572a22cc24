package reload

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/secret"
)

const token = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJlZGdlLTAxL2ttcyJ9.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"

var client = Client{
	Cluster: "edge-01", Client: "kms", Generation: 7, Directory: "/x/kms",
	Secrets: []secret.Text{secret.New(token), secret.New("-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgabcdefghijklmnop\n-----END PRIVATE KEY-----\n")},
}

func TestCommand(t *testing.T) {
	t.Setenv("ROTOR_JOIN_TOKEN", "join-token-of-the-agent")
	for name, c := range map[string]struct {
		argv []string
		want string // of the error; empty for none
	}{
		"goes well":          {[]string{"true"}, ""},
		"environment":        {[]string{"sh", "-c", `test "$ROTOR_CLUSTER-$ROTOR_CLIENT-$ROTOR_GENERATION-$ROTOR_DIRECTORY-$PWD" = edge-01-kms-7-/x/kms-/ && test -z "$ROTOR_JOIN_TOKEN$HOME"`}, ""},
		"no shell":           {[]string{"test", "$(id)", "=", "$(id)"}, ""},
		"fails":              {[]string{"false"}, "run false: exit status 1"},
		"says why":           {[]string{"sh", "-c", "echo one; echo 'two  \x1b[1m' >&2; exit 3"}, "run sh: exit status 3: one two [1m"},
		"says much":          {[]string{"sh", "-c", "yes 0123456789 | head -c 100000; echo last words; exit 1"}, "0123456789last words"},
		"is not there":       {[]string{"/nowhere/at-all"}, "no such file or directory"},
		"prints the token":   {[]string{"sh", "-c", "echo bad token '" + token + "'!; exit 1"}, "run sh: exit status 1: bad token [removed]!"},
		"prints a key":       {[]string{"sh", "-c", "echo 'MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgabcdefghijklmnop'; exit 1"}, "run sh: exit status 1: [removed]"},
		"prints a part":      {[]string{"sh", "-c", "echo 'x" + token[10:40] + "'; exit 1"}, "run sh: exit status 1: x[removed]"},
		"killed by a signal": {[]string{"sh", "-c", "kill -9 $$"}, "run sh: signal: killed"},
	} {
		err := Command(t.Context(), c.argv, client)
		if (err == nil) != (c.want == "") || err != nil && !strings.HasSuffix(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && len(err.Error()) > 300 {
			t.Errorf("%s: %d bytes", name, len(err.Error()))
		}
	}
}

// A reload that hangs ends with everything that it has started.
func TestCommandThatHangsIsKilledWithItsChildren(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	pidFile := filepath.Join(t.TempDir(), "pid")
	err := Command(ctx, []string{"sh", "-c", "sleep 1000 & echo $! > " + pidFile + "; wait"}, client)
	if err == nil || !strings.Contains(err.Error(), "did not end in time and was killed") {
		t.Fatalf("%v", err)
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(must(os.ReadFile(pidFile)))))
	eventually(t, "the child is gone", func() bool { return pid > 1 && gone(pid) })
}

// gone reports whether a process has ended, even if nobody has collected it.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// A program that leaves another in the background has ended well itself.
func TestCommandDoesNotWaitForTheBackground(t *testing.T) {
	if err := Command(t.Context(), []string{"sh", "-c", "sleep 5 & exit 0"}, client); err != nil {
		t.Error(err)
	}
}

func TestSignal(t *testing.T) {
	dir := t.TempDir()
	mark := filepath.Join(dir, "mark")
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `trap 'echo done > "$0"; exit 0' USR1; echo ready; while :; do read x; done`, mark)
	stdin, stdout := must(cmd.StdinPipe()), must(cmd.StdoutPipe())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stdin.Close() }()
	_, _ = stdout.Read(make([]byte, 6)) // the trap is set
	pidFile := filepath.Join(dir, "pid")
	write := func(text string) {
		if err := os.WriteFile(pidFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(strconv.Itoa(cmd.Process.Pid) + "\n")
	if err := Signal(pidFile, "USR1"); err != nil {
		t.Fatal(err)
	}
	_ = stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(mark); err != nil {
		t.Error("the signal did not arrive")
	}
	if err := Signal(pidFile, "HUP"); err == nil || !strings.Contains(err.Error(), "does not run") {
		t.Errorf("a process that has ended: %v", err)
	}
	for _, text := range []string{"", "x", "0", "-1", "1"} { // 0 and -1 are whole groups
		write(text)
		if err := Signal(pidFile, "HUP"); err == nil || !strings.Contains(err.Error(), "does not hold the number of a process") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := Signal(pidFile+"-none", "HUP"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func pair(t *testing.T, serial int64) tls.Certificate {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	return tls.Certificate{Certificate: [][]byte{must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))}, PrivateKey: key}
}

func TestServed(t *testing.T) {
	before, after := pair(t, 16), pair(t, 17)
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			var looks atomic.Int64
			var now atomic.Pointer[tls.Certificate]
			now.Store(&before)
			listener := must(tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
				MinVersion: version, MaxVersion: version, ClientAuth: tls.RequireAnyClientCert,
				GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
					if hello.ServerName != "kms.local" {
						t.Errorf("server name %q", hello.ServerName)
					}
					if looks.Add(1) > 2 {
						now.Store(&after)
					}
					return now.Load(), nil
				},
			}))
			defer func() { _ = listener.Close() }()
			go accept(listener)
			if err := Served(t.Context(), listener.Addr().String(), "kms.local", after); err != nil {
				t.Error(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			err := Served(ctx, listener.Addr().String(), "kms.local", before)
			if err == nil || !strings.Contains(err.Error(), "still serves another certificate, serial 11,") || !strings.Contains(err.Error(), "new one, serial 10") {
				t.Errorf("%v", err)
			}
		})
	}
}

func accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = c.Read(make([]byte, 1))
			_ = c.Close()
		}()
	}
}

func TestServedByNobody(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := Served(ctx, "127.0.0.1:1", "", pair(t, 1))
	if err == nil || !strings.Contains(err.Error(), "look at 127.0.0.1:1: ") || !strings.Contains(err.Error(), syscall.ECONNREFUSED.Error()) {
		t.Errorf("%v", err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("not in time: %s", what)
		}
	}
}
