package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/install"
	"github.com/rotor-fleet/rotor/agent/internal/kube"
	"github.com/rotor-fleet/rotor/agent/internal/truststore"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// trustStore is a place where verifiers read the trust bundle of the fleet.
type trustStore interface {
	// Keep makes it hold the bundle, all of it or nothing. It is called in every
	// round, so it is cheap when all is well.
	Keep(ctx context.Context, b trust.Bundle) error
	// Read returns what verifiers find there, PEM.
	Read(ctx context.Context) ([]byte, error)
	String() string
}

// spreading is what an agent remembers of the trust stores. Losing it costs a
// repeat and nothing else.
type spreading struct {
	version int // of the bundle that all of them hold
	tried   int // of the bundle that was tried last
	pause   backoff
	next    time.Time // when to try again, in real time; zero when all is well
	why     string
}

func (a *agent) trustStores() []trustStore {
	var all []trustStore
	for _, b := range a.config.Settings.TrustBundles {
		switch {
		case b.File != nil:
			f := b.File
			all = append(all, truststore.File{
				Path: f.Path, Access: install.Access{Mode: f.Mode, Owner: f.Owner, Group: f.Group}, Ops: a.ops, Include: f.Include, Log: a.env.Log,
			})
		case b.ConfigMap != nil:
			all = append(all, kube.NewConfigMap(kube.ConfigMapOptions{
				Client: a.kube, Log: a.env.Log, Namespace: b.ConfigMap.Namespace, Name: b.ConfigMap.Name, Key: b.ConfigMap.Key, Cluster: a.config.Cluster,
			}))
		}
	}
	return all
}

// spread sees to it that verifiers find the trust bundle that is loaded. The
// server hears that it is loaded only when all of them have it: the next CA
// begins to sign on that word.
func (a *agent) spread(ctx context.Context) {
	bundle, _ := a.link.Bundle()
	s := &a.spreading
	now := clock.Wall()
	if bundle.Version == 0 || bundle.Version == s.tried && now.Before(s.next) {
		return
	}
	stores := a.trustStores()
	var err error
	for _, store := range stores {
		err = errors.Join(err, store.Keep(ctx, bundle))
	}
	if ctx.Err() != nil {
		return
	}
	s.tried = bundle.Version
	a.env.Health.Check(conditionBundle, err)
	if err == nil {
		if s.version != bundle.Version && len(stores) > 0 {
			a.env.Log.Info("verifiers have the trust bundle", "version", bundle.Version, "places", len(stores))
		}
		*s = spreading{version: bundle.Version, tried: bundle.Version}
		return
	}
	if s.why != err.Error() {
		s.why = err.Error()
		a.env.Log.Warn("the trust bundle cannot be put where verifiers read it; trying again", "err", err)
	}
	s.next = now.Add(s.pause.next(err))
}

// keep puts right what others have changed, while the server cannot be asked
// for work: a client must not suffer twice.
func (a *agent) keep(ctx context.Context) {
	if _, signed := a.link.Bundle(); signed == "" || ctx.Err() != nil {
		return
	}
	a.spread(ctx)
	clients := a.heldClients()
	atOnce(len(clients), func(i int) {
		t := a.target(clients[i])
		if _, err := t.Read(ctx); err != nil {
			return // nothing is there that could be kept
		}
		if err := t.Mend(ctx); err != nil {
			a.env.Log.Debug("cannot keep what is installed", "client", clients[i].String(), "err", err)
		}
	})
}

// heldClients returns the clients that the server has spoken of, or, as long as
// it has not, those with a Secret: a folder keeps its files by itself.
func (a *agent) heldClients() []fleet.ClientKey {
	var keys []fleet.ClientKey
	for _, c := range a.round.work.Clients {
		keys = append(keys, c.Client)
	}
	if a.round.known {
		return keys
	}
	root := filepath.Join(a.config.StateDir, secretsFolder)
	for _, pattern := range []string{"*/tls.crt", "*/*/tls.crt"} {
		found, _ := fs.Glob(os.DirFS(root), pattern)
		for _, name := range found {
			if key, err := fleet.ParseClientKey(path.Dir(name)); err == nil {
				keys = append(keys, key)
			}
		}
	}
	return keys
}
