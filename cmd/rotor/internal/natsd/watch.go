package natsd

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/health"
)

const (
	lookEvery = time.Second
	// probeSize is what must fit on the disk before the store is opened again:
	// less would be full again at the first write.
	probeSize = 1 << 20
)

// Watch looks after the store until ctx ends: a disk that is full or cannot be
// written is shown in the health, and when it can be written again the store is
// opened anew. Without that the server of NATS refuses, after one failed write,
// every further one to that stream until it is started again. Consumers of this
// process are then asked for again at once, not when they miss a beat.
func (s *Server) Watch(ctx context.Context, part health.Part) error {
	broken := ""
	for ctx.Err() == nil {
		why := s.storeError()
		if why != "" && why != broken {
			s.config.Log.Error("the store cannot be written; nothing that was acknowledged is lost, and nothing new is taken", "why", why)
		}
		if why != "" {
			part.Wait("store", "the disk of "+s.config.Dir+" cannot be written: free some space; it goes on by itself: "+why)
			s.reopen()
		}
		if why = s.storeError(); why == "" {
			part.Met("store")
			if broken != "" {
				s.config.Log.Info("the store can be written again")
			}
			broken = ""
		} else {
			broken = why
		}
		_ = clock.Sleep(ctx, lookEvery)
	}
	return nil
}

// storeError says what is wrong with the store, empty if nothing is.
func (s *Server) storeError() string {
	if !s.server.JetStreamEnabled() {
		return "JetStream has stopped"
	}
	h := s.server.Healthz(&server.HealthzOptions{Details: true})
	var all []string
	for _, e := range h.Errors {
		if strings.Contains(e.Error, "write error") {
			all = append(all, e.Error)
		}
	}
	return strings.Join(all, "; ")
}

// reopen opens the store anew if the disk can be written.
func (s *Server) reopen() {
	if probe(s.config.Dir) != nil {
		return // as full as before
	}
	if err := s.server.ShutdownJetStream(); err != nil {
		s.config.Log.Warn("the store cannot be closed", "err", err)
		return
	}
	o := s.options
	err := s.server.EnableJetStream(&server.JetStreamConfig{
		StoreDir: o.StoreDir, SyncInterval: o.SyncInterval, SyncAlways: o.SyncAlways,
		MaxMemory: o.JetStreamMaxMemory, MaxStore: o.JetStreamMaxStore, Strict: !o.NoJetStreamStrict,
	})
	if err != nil {
		s.config.Log.Warn("the store cannot be opened", "err", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, nc := range s.connections {
		if nc.IsClosed() {
			continue
		}
		if err := nc.ForceReconnect(); err != nil {
			s.config.Log.Warn("a connection cannot be made anew", "err", err)
		}
	}
}

// probe writes and syncs a file beside the store, and removes it.
func probe(dir string) error {
	file, err := os.CreateTemp(dir, ".probe-*")
	if err != nil {
		return err
	}
	_, err = file.Write(make([]byte, probeSize))
	return errors.Join(err, file.Sync(), file.Close(), os.Remove(file.Name()))
}
