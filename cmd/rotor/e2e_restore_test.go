package main

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"
)

// keptKey finds what a script has kept of the facts.
type keptKey struct{}

// cmdIssued remembers what was issued (keep), and later wants that nothing of it
// was issued again (fresh): no serial number, no token id, no generation.
func cmdIssued(ts *testscript.TestScript, _ bool, args []string) {
	env := worldOf(ts).env
	now := issuedFacts(ts)
	if args[0] == "keep" {
		env.Values[keptKey{}] = now
		return
	}
	before, _ := env.Values[keptKey{}].(map[string]string)
	used := map[string]string{}
	for name, pair := range before {
		used[pair] = name
	}
	for name, pair := range now {
		if _, again := before[name]; again {
			ts.Fatalf("%s was issued before the restore too", name)
		}
		if other, again := used[pair]; again {
			ts.Fatalf("%s has serial and token id of %s", name, other)
		}
	}
	if len(before) == 0 {
		ts.Fatalf("nothing was kept")
	}
}

// cmdReady waits until /readyz answers with a status and a text.
func cmdReady(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	pattern := regexp.MustCompile(args[1])
	eventually(ts, func() error {
		response, err := http.Get(ts.Getenv("API") + "/readyz")
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		if err == nil && (response.StatusCode != want || !pattern.Match(body)) {
			err = fmt.Errorf("/readyz: %s: %s", response.Status, body)
		}
		return err
	})
}
