package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/services/gateway"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// ready returns status and body of /readyz.
func (w *world) ready(t *testing.T) (status int, body string) {
	t.Helper()
	response, err := http.Get(w.url + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(raw)
}

// A gateway that was stopped while the CA was rotated and the one before retired
// shows nobody what it has, and is not ready, until it has a certificate of now.
func TestServerCertificateOfARetiredCAIsNotShown(t *testing.T) {
	w := start(t)
	next := w.prepare(t, "ca-2")
	w.showsCanary(t, "", w.issuer.ca, "")
	busy := make(chan struct{})
	done := sync.OnceFunc(func() { close(busy) })
	t.Cleanup(done)
	w.issuer.busy.Store(&busy)
	w.phases(t, map[string]fleet.Phase{"ca-1": fleet.PhaseOutgoing, "ca-2": fleet.PhaseActive})
	w.showsCanary(t, "", w.issuer.ca, "") // still trusted
	w.phases(t, map[string]fleet.Phase{"ca-1": fleet.PhaseRetired})
	w.showsCanary(t, "", w.issuer.ca, noCanary)
	bustest.Eventually(t, func() error {
		if status, body := w.ready(t); status != http.StatusServiceUnavailable || !strings.Contains(body, "trusted no more") {
			return fmt.Errorf("/readyz: %d %s", status, body)
		}
		return nil
	})
	w.issuer.signer.Store(next)
	done()
	w.showsCanary(t, "", next.cert, "")
	bustest.Eventually(t, func() error {
		if status, body := w.ready(t); status != http.StatusOK {
			return fmt.Errorf("/readyz: %d %s", status, body)
		}
		return nil
	})
}

// A gateway that does not know the fleet yet says so, and neither that an agent is
// unknown, which would have it enrol anew, nor that there are no clusters.
func TestNothingIsSaidWithoutTheBuckets(t *testing.T) {
	w := &world{bus: bustest.NewDenying(t, "$JS.API.CONSUMER.CREATE.KV_agents.>"), dir: t.TempDir()}
	w.env, w.issuer = w.bus.Env(t, "gateway", clock.Real()), newIssuer(t, w.bus)
	config := gateway.Defaults()
	config.AdminTokenFile = filepath.Join(w.dir, "admin.token")
	config.APIListener, config.AgentsListener = listen(t), listen(t)
	w.url, w.agents = "http://"+config.APIListener.Addr().String(), config.AgentsListener.Addr().String()
	bustest.Run(t, func(ctx context.Context) error { return gateway.Run(ctx, w.env, config) })
	bustest.Eventually(t, func() error {
		response, err := http.Get(w.url + api.PathTrustPEM)
		if err != nil {
			return err
		}
		if _ = response.Body.Close(); response.StatusCode != http.StatusOK {
			return errors.New(response.Status) // what is signed is free
		}
		return nil
	})
	w.showsCanary(t, "", w.issuer.ca, "")
	token, err := secret.ReadFile(config.AdminTokenFile)
	if err != nil {
		t.Fatal(err)
	}
	w.client = &api.Client{URL: w.url, Token: token}
	agent, heard := w.newAgent(t), make(chan error, 2)
	go func() {
		_, _, err := agent.WorkAfter(t.Context(), "", time.Second)
		heard <- err
	}()
	go func() { heard <- w.client.Call(t.Context(), http.MethodGet, api.PathClusters, nil, nil) }()
	for range 2 {
		if err := <-heard; status(err) != http.StatusServiceUnavailable || !strings.Contains(err.Error(), "for the first time") {
			t.Errorf("somebody hears %v", err)
		}
	}
	if text := w.metrics(t); !strings.Contains(text, "rotor_clients") {
		t.Errorf("no metrics: %s", text)
	}
	if status, body := w.ready(t); status != http.StatusServiceUnavailable || !strings.Contains(body, `"store"`) {
		t.Errorf("/readyz: %d %s", status, body)
	}
}
