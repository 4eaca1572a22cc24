// Package backup writes the state of a fleet into one encrypted file while it
// runs, and brings it back.
//
// What is stored are documents, not files of the store: they are few, they can
// be merged with what is known better, and they outlive versions of NATS.
package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// order is the order in which buckets are read while others write them; what is
// not named comes last. Each document is read whole, and two documents may be a
// moment apart, so what refers comes before what it refers to: the authority
// before the keys, rotations before the credentials that they wait for, and
// credentials before what waits for pick-up.
var order = []string{
	"KV_" + bus.Authority, "KV_" + bus.Keys, "KV_" + bus.Clusters, "KV_" + bus.Releases, "KV_" + bus.Schedule,
	"KV_" + bus.Rotations, "KV_" + bus.Alerts, "KV_" + bus.Agents, "KV_" + bus.Credentials, "KV_" + bus.Bundles,
}

// streams returns the names of the streams that a backup holds.
func streams() []string {
	names := append([]string(nil), order...)
	known := map[string]bool{}
	for _, name := range order {
		known[name] = true
	}
	for _, name := range bus.Lasting() {
		if !known[name] {
			names = append(names, name)
		}
	}
	return names
}

// Options say what to write where.
type Options struct {
	NATS    *nats.Conn
	File    string
	Key     Key
	KeyFile string // key-encryption key to include; none, if empty
}

// Write writes a backup. The file appears whole or not at all.
func Write(ctx context.Context, o Options) (Header, Manifest, error) {
	h := Header{Format: formatName, Version: formatVersion, CreatedAt: clock.Wall().UTC(), Rotor: daemon.Version()}
	recipients, err := o.Key.recipients()
	if err != nil {
		return h, Manifest{}, err
	}
	if o.KeyFile != "" {
		kek, err := secret.ReadFile(o.KeyFile)
		if err != nil {
			return h, Manifest{}, fmt.Errorf("key-encryption key: %w", err)
		}
		h.KEK = []byte(kek.Reveal())
	}
	file, err := os.CreateTemp(filepath.Dir(o.File), ".rotor-backup-*") // mode 0600
	if err != nil {
		return h, Manifest{}, fmt.Errorf("write backup: %w", err)
	}
	defer func() { _ = os.Remove(file.Name()) }() // gone by its new name, if all went well
	m, err := write(ctx, o.NATS, file, h, func(w io.Writer) (*writer, error) { return newWriter(w, h, recipients) })
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return h, m, fmt.Errorf("write backup: %w", err)
	}
	if err := os.Rename(file.Name(), o.File); err != nil {
		return h, m, fmt.Errorf("write backup: %w", err)
	}
	return h, m, nil
}

func write(ctx context.Context, nc *nats.Conn, to io.Writer, _ Header, open func(io.Writer) (*writer, error)) (Manifest, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return Manifest{}, err
	}
	a, err := open(to)
	if err != nil {
		return Manifest{}, err
	}
	for _, name := range streams() {
		if err := each(ctx, js, name, a.add); err != nil {
			return Manifest{}, err
		}
	}
	if a.counts["KV_"+bus.Authority] == 0 || a.counts["KV_"+bus.Keys] == 0 {
		return Manifest{}, errors.New("the store holds no authority yet: there is nothing to back up")
	}
	return a.end()
}

// each passes on every message of a stream, in its order. A document that is
// written meanwhile comes again: the last one counts.
func each(ctx context.Context, js jetstream.JetStream, name string, f func(Document) error) error {
	var stream jetstream.Stream
	err := bus.Retry(ctx, func(ctx context.Context) (err error) {
		stream, err = js.Stream(ctx, name)
		return err
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	subject := stream.CachedInfo().Config.Subjects[0]
	for seq := uint64(1); ; {
		var msg *jetstream.RawStreamMsg
		err := bus.Retry(ctx, func(ctx context.Context) (err error) {
			msg, err = stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(subject))
			return err
		})
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s at %d: %w", name, seq, err)
		}
		seq = msg.Sequence + 1
		header := map[string][]string{}
		maps.Copy(header, msg.Header)
		if err := f(Document{Stream: name, Subject: msg.Subject, Header: header, Data: msg.Data, Time: msg.Time, Seq: msg.Sequence}); err != nil {
			return err
		}
	}
}
