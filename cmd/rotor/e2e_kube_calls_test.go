//go:build kube

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// caller calls the API server as one user, who may read one object there: so that
// an answer says that the API server knows who it is.
type caller struct {
	world     *verifier
	user, dir string
	transport *http.Transport // kept connections
	serial    string          // of the certificate of transport
}

func newCaller(w *verifier, user, dir string) *caller {
	return &caller{world: w, user: user, dir: dir}
}

// fresh forgets the connections, as a program that has just started.
func (c *caller) fresh() *caller {
	if c.transport != nil {
		c.transport.CloseIdleConnections()
	}
	c.transport = nil
	return c
}

// answered is a call that was answered, but not with the object.
type answered struct{ status int }

func (e answered) Error() string { return fmt.Sprintf("the API server answers %d", e.status) }

// unauthorized returns an error unless err is the answer 401.
func unauthorized(err error) error {
	var a answered
	if errors.As(err, &a) && a.status == http.StatusUnauthorized {
		return nil
	}
	return fmt.Errorf("want the answer 401, not %w", errors.Join(errors.New("this"), err))
}

// withCertificate reads the object by mutual TLS. A program that is made to
// reload makes new connections: so does this, when the set is another.
func (c *caller) withCertificate(ctx context.Context, s set) error {
	if c.serial != s.meta.Serial {
		c.fresh()
	}
	c.serial = s.meta.Serial
	return c.get(ctx, []tls.Certificate{s.pair}, "")
}

// withToken reads the object with a token alone.
func (c *caller) withToken(ctx context.Context, token string) error { return c.get(ctx, nil, token) }

func (c *caller) get(ctx context.Context, certificates []tls.Certificate, token string) error {
	if c.transport == nil {
		c.transport = &http.Transport{
			TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: certificates}, // it makes its own serving certificate
			ForceAttemptHTTP2: true,
		}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.world.address+"/api/v1/namespaces/rotor/configmaps/"+objectOf(c.user), nil)
	if err != nil {
		return err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return answered{response.StatusCode}
	}
	return nil
}

// kubectl reads the object by kubectl, whose kubeconfig names the files as they
// are installed. It opens certificate and key one after the other: if the set is
// swapped in between, it is run again, as by hand.
func (c *caller) kubectl(ctx context.Context, user string) error {
	err := c.kubectlOnce(ctx, user)
	if err != nil && strings.Contains(err.Error(), "private key does not match public key") {
		err = c.kubectlOnce(ctx, user)
	}
	return err
}

func (c *caller) kubectlOnce(ctx context.Context, user string) error {
	name := "kubectl." + objectOf(c.user) + "." + user
	config := strings.NewReplacer("SERVER", c.world.address, "AT", c.dir, "USER", user).Replace(kubectlConfig)
	path := c.world.path(name + ".yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, filepath.Join(c.world.programs, "kubectl"), "--kubeconfig", path, "--cache-dir", c.world.path(name+".cache"),
		"get", "configmap", objectOf(c.user), "-o", "name").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "configmap/"+objectOf(c.user) {
		return fmt.Errorf("kubectl: %w: %s", err, out)
	}
	return nil
}

const kubectlConfig = `apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://SERVER", insecure-skip-tls-verify: true}}]
users:
  - {name: certificate, user: {client-certificate: AT/tls.crt, client-key: AT/tls.key}}
  - {name: token, user: {tokenFile: AT/token}}
contexts: [{name: test, context: {cluster: test, user: USER, namespace: rotor}}]
current-context: test
`

// calls are those of all users in all ways, and what became of them.
type calls struct {
	clock  clock.Clock
	cancel context.CancelFunc
	all    sync.WaitGroup
	begun  time.Duration // how much later the next of them begins, so that they are spread

	mu       sync.Mutex
	made     []made
	failures []string
}

// made is one call, on the clock of the fleet.
type made struct {
	way          string
	begun, ended time.Time
}

// callAll has every user call: ten times a second by each way over new
// connections, and as often over kept ones; with kubectl once a second.
func (w *verifier) callAll(dirs map[string]string) *calls {
	ctx, cancel := context.WithCancel(context.Background())
	c := &calls{clock: w.clock, cancel: cancel}
	w.whole.Cleanup(c.stop)
	for user, dir := range dirs {
		for way, call := range map[string]func(context.Context, *caller, set) error{
			"certificate": func(ctx context.Context, c *caller, s set) error { return c.withCertificate(ctx, s) },
			"token":       func(ctx context.Context, c *caller, s set) error { return c.withToken(ctx, s.token) },
		} {
			kept := newCaller(w, user, dir)
			c.every(ctx, 100*time.Millisecond, way, user, func(ctx context.Context) error {
				s, err := readTwice(dir)
				if err != nil {
					return err
				}
				once := newCaller(w, user, dir)
				defer once.fresh()
				return call(ctx, once, s)
			})
			c.every(ctx, 100*time.Millisecond, way+", kept connection", user, func(ctx context.Context) error {
				s, err := readTwice(dir)
				if err != nil {
					return err
				}
				return call(ctx, kept, s)
			})
		}
	}
	for _, way := range []string{"certificate", "token"} {
		c.every(ctx, time.Second, "kubectl, "+way, "edge-01/kms", func(ctx context.Context) error {
			return newCaller(w, "edge-01/kms", dirs["edge-01/kms"]).kubectl(ctx, way)
		})
	}
	return c
}

// spread keeps calls apart that are made at the same pace: a phase of a rotation
// may be over after some hundredths of a second.
const spread = 3 * time.Millisecond

// maxTold bounds the failed calls that are told.
const maxTold = 20

func (c *calls) every(ctx context.Context, pause time.Duration, way, user string, call func(context.Context) error) {
	c.begun = (c.begun + spread) % (100 * time.Millisecond)
	later := c.begun
	c.all.Go(func() {
		_ = clock.Sleep(ctx, later)
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for ctx.Err() == nil {
			begun := c.clock.Now()
			err := call(ctx)
			if ctx.Err() != nil {
				return
			}
			c.mu.Lock()
			c.made = append(c.made, made{way, begun, c.clock.Now()})
			if err != nil {
				c.failures = append(c.failures, fmt.Sprintf("%s %s by %s: %v", begun.Format(time.TimeOnly), user, way, err))
			}
			c.mu.Unlock()
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
}

func (c *calls) stop() {
	c.cancel()
	c.all.Wait()
}

// check wants that no call has failed, and that some were made in each phase of
// both rotations.
func (c *calls) check(t *testing.T, status api.AuthorityStatus) {
	t.Helper()
	for _, r := range []*fleet.Rollout{status.Token, status.CA} {
		for i, step := range r.Steps {
			if step.Phase.Done() {
				continue
			}
			next := r.Steps[i+1].At
			ways, all := map[string]int{}, 0
			for _, m := range c.made {
				if m.begun.Before(next) && !m.ended.Before(step.At) {
					ways[m.way]++
					all++
				}
			}
			t.Logf("%s %s, %s: %d calls %v", r.Kind, step.Phase, c.clock.Wait(next.Sub(step.At)).Round(time.Millisecond), all, ways)
			if all == 0 {
				t.Errorf("no call was made in phase %s of %s", step.Phase, r.Kind)
			}
		}
	}
	total := map[string]int{}
	for _, m := range c.made {
		total[m.way]++
	}
	for _, way := range slices.Sorted(maps.Keys(total)) {
		t.Logf("%-28s %5d calls", way, total[way])
	}
	t.Logf("%d calls, %d failures", len(c.made), len(c.failures))
	if len(c.failures) > 0 {
		t.Errorf("%d calls failed:\n%s", len(c.failures), strings.Join(c.failures[:min(len(c.failures), maxTold)], "\n"))
	}
}
