package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rotor-fleet/rotor/shared/health"
)

// probes are what is served beside the work.
type probes struct {
	address string
	board   *health.Board
	metrics prometheus.Gatherer
	log     *slog.Logger
}

// serve serves the probes until stop is called or ctx ends; it does nothing
// without an address.
func (p probes) serve(ctx context.Context) (stop func(), err error) {
	if p.address == "" {
		return func() {}, nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", p.address)
	if err != nil {
		return nil, fmt.Errorf("listen for health: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", p.board.ServeLive)
	mux.HandleFunc("GET /readyz", p.board.ServeReady)
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.metrics, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			p.log.Error("health is not served any more", "err", err)
		}
	}()
	cancel := context.AfterFunc(ctx, func() { _ = server.Close() })
	return func() {
		cancel()
		_ = server.Close()
		<-ended
	}, nil
}
