package channel

import (
	"context"
	"log/slog"
)

// Terminal writes messages to the log of the process.
type Terminal struct {
	name string
	log  *slog.Logger
}

// NewTerminal returns a channel that writes to a log.
func NewTerminal(name string, log *slog.Logger) *Terminal { return &Terminal{name: name, log: log} }

// Name returns the name of the channel.
func (t *Terminal) Name() string { return t.name }

// Send writes one line. It never fails.
func (t *Terminal) Send(ctx context.Context, m Message) error {
	level := slog.LevelWarn
	if m.Resolved() {
		level = slog.LevelInfo
	}
	attributes := []any{"rule", m.Alert.Rule, "since", m.Since()}
	if remedy := m.Remedy(); remedy != "" {
		attributes = append(attributes, "remedy", remedy)
	}
	t.log.Log(ctx, level, m.Status()+" "+m.Alert.Summary, attributes...)
	return nil
}
