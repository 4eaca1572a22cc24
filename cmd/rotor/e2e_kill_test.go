package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// cmdKillRotation kills `rotor up` in the middle of a forced rotation of the
// whole fleet, as soon as N sets on disk have been replaced, and starts it
// again: killrotation N. A reader looks at every set all the time.
func cmdKillRotation(ts *testscript.TestScript, _ bool, args []string) {
	replaced, err := strconv.Atoi(args[0])
	ts.Check(err)
	w := worldOf(ts)
	before := w.clients(ts)
	stop := readAllTheTime(ts, before)

	if _, stderr, code := w.run(ts, "rotor", "rotate", "--all", "--force"); code != 0 {
		ts.Fatalf("rotate --all --force: %s", stderr)
	}
	eventually(ts, func() error {
		n := 0
		for _, c := range before {
			if s, err := readSet(c.dir(ts)); err == nil && s.meta.Generation > c.Generation {
				n++
			}
		}
		if n < replaced {
			return fmt.Errorf("%d sets of %d replaced", n, replaced)
		}
		return nil
	})
	cmdCrash(ts, false, nil)
	cmdUp(ts, false, []string{"--fleet", "fleet.yaml"})
	eventually(ts, func() error {
		for i, c := range w.clients(ts) {
			if c.State != "healthy" || c.Step != "proven" || c.Generation != before[i].Generation+1 {
				return fmt.Errorf("%s %s is %s, step %s, generation %d after %d", c.Cluster, c.Kind, c.State, c.Step, c.Generation, before[i].Generation)
			}
		}
		return nil
	})
	stop()
	for _, c := range w.clients(ts) {
		s, err := readSet(c.dir(ts))
		ts.Check(err)
		if s.meta.Generation != c.Generation || s.meta.Serial != c.Certificate.Serial {
			ts.Fatalf("%s: generation %d with serial %s on disk, %d with %s in the record", c.dir(ts), s.meta.Generation, s.meta.Serial, c.Generation, c.Certificate.Serial)
		}
	}
	oneCertificateEach(ts)
}

type clientRow struct {
	Cluster, Kind, Instance, State, Step string
	Generation                           int
	Certificate                          struct{ Serial string }
}

func (c clientRow) dir(ts *testscript.TestScript) string {
	return ts.MkAbs(filepath.Join("var", "clusters", c.Cluster, c.Kind, c.Instance))
}

// clients returns what `rotor get clients` shows; nothing while the server does
// not answer.
func (w *world) clients(ts *testscript.TestScript) []clientRow {
	stdout, stderr, code := w.run(ts, "rotor", "get", "clients", "-o", "json")
	if code != 0 {
		ts.Fatalf("get clients: %s", stderr)
	}
	var rows []clientRow
	ts.Check(json.Unmarshal([]byte(stdout), &rows))
	return rows
}

// readAllTheTime reads every set over and over. A reader must always find a
// matching set; one that met a swap looks again.
func readAllTheTime(ts *testscript.TestScript, clients []clientRow) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	var mu sync.Mutex
	var failed error
	all.Go(func() {
		for ctx.Err() == nil {
			for _, c := range clients {
				_, err := readSet(c.dir(ts))
				if err != nil {
					_, err = readSet(c.dir(ts))
				}
				if err != nil {
					mu.Lock()
					failed = errors.Join(failed, err)
					mu.Unlock()
					return
				}
			}
		}
	})
	return func() {
		cancel()
		all.Wait()
		ts.Check(failed)
	}
}

// oneCertificateEach reads every fact there is: no generation was ever issued
// with two serials or two token ids, and no event id has two contents.
func oneCertificateEach(ts *testscript.TestScript) { issuedFacts(ts) }

// issuedFacts returns serial and token id of each generation, by
// cluster/client@generation.
func issuedFacts(ts *testscript.TestScript) map[string]string {
	client := &api.Client{URL: ts.Getenv("API"), Token: secret.New(ts.Getenv("TOKEN"))}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// All stored facts have come when none comes for a while; the first may take
	// long on a busy machine.
	quiet := time.AfterFunc(patience/3, cancel)
	issued, contents := map[string]string{}, map[string]string{}
	err := client.StreamEvents(ctx, url.Values{"since": {"all"}}, "", func(_ string, e event.Event) error {
		quiet.Reset(3 * time.Second)
		if earlier, seen := contents[e.ID()]; seen && earlier != e.String() {
			return fmt.Errorf("event %s has two contents:\n%s\n%s", e.ID(), earlier, e)
		}
		contents[e.ID()] = e.String()
		if !event.CredentialIssued.Is(e) {
			return nil
		}
		data, err := event.CredentialIssued.Decode(e)
		if err != nil {
			return err
		}
		for _, c := range data.Clients {
			name := fmt.Sprintf("%s/%s@%d", e.Subject(), c.Client, c.Generation)
			if earlier, seen := issued[name]; seen && earlier != c.Serial+c.TokenID {
				return fmt.Errorf("%s was issued twice: %s and %s", name, earlier, c.Serial+c.TokenID)
			}
			issued[name] = c.Serial + c.TokenID
		}
		return nil
	})
	if err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		ts.Fatalf("%v", err)
	}
	if len(issued) == 0 {
		ts.Fatalf("no fact was read")
	}
	return issued
}
