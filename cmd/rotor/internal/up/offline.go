package up

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/nats-io/nats.go"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/natsd"
	"github.com/rotor-fleet/rotor/shared/bus"
)

// Offline runs f on the store of a data folder while nothing else does. Streams
// that are missing are made.
func Offline(ctx context.Context, data string, log *slog.Logger, f func(*nats.Conn) error) error {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	unlock, err := lock(data)
	if err != nil {
		return err
	}
	defer unlock()
	server, err := natsd.Start(natsd.Config{Dir: filepath.Join(data, "nats"), Listen: "127.0.0.1:0", Log: log})
	if err != nil {
		return err
	}
	defer server.Stop()
	if err := server.Make(ctx); err != nil {
		return err
	}
	nc, err := server.Connect(log, bus.UserRestore)
	if err != nil {
		return err
	}
	defer nc.Close()
	return f(nc)
}
