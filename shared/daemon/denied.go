package daemon

import (
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
)

// NewDenied returns the counter of what NATS has denied to the parts of a process.
func NewDenied() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rotor_nats_denied_total", Help: "What NATS has denied to the user of a part; not 0 means that its permissions are wrong.",
	}, []string{"part"})
}

// tellDenials counts what NATS denies to a part and has the part not ready: its
// permissions are not those of this version, and something does not work. A new
// connection may have better ones.
func (p *Process) tellDenials(part string, nc *nats.Conn) {
	const condition = "permissions"
	board, count := p.Board.Part(part), p.denied.WithLabelValues(part)
	failed := nc.ErrorHandler()
	nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrPermissionViolation) {
			count.Inc()
			board.Wait(condition, err.Error()+"; see `rotor nats config`")
		}
		if failed != nil {
			failed(nc, sub, err)
		}
	})
	restored := nc.ReconnectHandler()
	nc.SetReconnectHandler(func(nc *nats.Conn) {
		board.Met(condition)
		if restored != nil {
			restored(nc)
		}
	})
}
