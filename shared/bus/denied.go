package bus

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// ErrDenied is the error of a call that the user of the connection may not
// make.
var ErrDenied = errors.New("NATS denies it to this user: its permissions are not those of this version: see `rotor nats config`")

// Denials fails calls at once that NATS has denied. NATS does not answer a
// request that it denies, it tells the connection: without this the caller
// would wait for all of its time-out and then not know why.
type Denials struct {
	mu      sync.Mutex
	waiting map[*wait]struct{}
}

type wait struct {
	subjects []string // what is published
	cancel   context.CancelCauseFunc
}

// deniedSubject finds the subject in what the server says, such as
// nats: permissions violation: Permissions Violation for Publish to "a.b".
var deniedSubject = regexp.MustCompile(`for Publish to "(\S+)"`)

// Guard has the errors of a connection told to what it returns, before they are
// told to the handler that the connection has.
func Guard(nc *nats.Conn) *Denials {
	d := &Denials{waiting: map[*wait]struct{}{}}
	next := nc.ErrorHandler()
	nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		d.tell(err)
		if next != nil {
			next(nc, sub, err)
		}
	})
	return d
}

func (d *Denials) tell(err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	found := deniedSubject.FindStringSubmatch(err.Error())
	if found == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for w := range d.waiting {
		if w.covers(found[1]) {
			w.cancel(fmt.Errorf("publish to %s: %w", found[1], ErrDenied))
		}
	}
}

// Do makes a call that publishes to a subject and waits for the answer; it ends
// with ErrDenied when NATS denies it. A subject that ends in a dot stands for
// all that begin with it.
func (d *Denials) Do(ctx context.Context, subject string, call func(context.Context) error) error {
	return d.DoAny(ctx, []string{subject}, call)
}

// DoAny is Do for a call that publishes to one of several subjects.
func (d *Denials) DoAny(ctx context.Context, subjects []string, call func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := &wait{subjects, cancel}
	d.mu.Lock()
	d.waiting[w] = struct{}{}
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.waiting, w)
	}()
	err := call(ctx)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, ErrDenied) {
		return cause
	}
	return err
}

// covers reports whether a denied subject is one of those that a call uses.
func (w *wait) covers(subject string) bool {
	return slices.ContainsFunc(w.subjects, func(own string) bool {
		return own == subject || strings.HasSuffix(own, ".") && strings.HasPrefix(subject, own)
	})
}
