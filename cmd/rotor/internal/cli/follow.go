package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// askUntilAnswered repeats a call that may be repeated while the server cannot
// be reached or is not ready. What the server answers otherwise is final.
func askUntilAnswered[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	const tries = 3
	for try := 1; ; try++ {
		v, err := call(ctx)
		if err == nil || try == tries || !passing(err) || clock.Sleep(ctx, time.Duration(try)*300*time.Millisecond) != nil {
			return v, err
		}
	}
}

// passing reports whether an error may be over at the next try.
func passing(err error) bool {
	if p, ok := errors.AsType[*api.Problem](err); ok {
		return p.Status >= 500 || p.Status == 429
	}
	return !errors.Is(err, context.Canceled)
}

// follower watches a rotation from afar. The rotation does not depend on it: a
// server that restarts meanwhile is waited for.
type follower struct {
	client *api.Client
	id     string
	limit  time.Duration
	log    io.Writer // progress
	live   bool      // rewrite one line instead of writing many
	quiet  bool
	shown  string
}

// still reports whether a rotation has ended, or goes on no more by itself.
func still(view api.RotationView) bool {
	return view.State.Done() || view.State == fleet.RotationHalted
}

// follow reads the rotation until it has ended or is halted, or, with untilDone unset, until
// it has been planned. The view is the last one that was read.
func (f *follower) follow(ctx context.Context, view api.RotationView, untilDone bool) (api.RotationView, error) {
	limited, cancel := context.WithTimeout(ctx, f.limit)
	defer cancel()
	defer f.endLine()
	for wait := 50 * time.Millisecond; ; wait = min(wait*2, time.Second) {
		f.show(view)
		if still(view) || (!untilDone && underWay(view)) {
			return view, nil
		}
		if clock.Sleep(limited, wait) != nil {
			return view, f.interrupted(ctx)
		}
		next, err := f.client.Rotation(limited, f.id)
		switch {
		case err == nil:
			if next.State != view.State || next.Rotated != view.Rotated {
				wait = 50 * time.Millisecond
			}
			view = next
		case limited.Err() != nil:
			return view, f.interrupted(ctx)
		case !passing(err) && !errors.Is(err, fleet.ErrNotFound): // not found: accepted, but not planned yet
			return view, err
		}
	}
}

// underWay reports whether a rotation has been planned and has work to do. One
// without is about to end, which is worth a moment of waiting.
func underWay(view api.RotationView) bool {
	for _, cluster := range view.Results {
		for _, r := range cluster.Clients {
			if !r.Outcome.Final() {
				return true
			}
		}
	}
	return false
}

// interrupted says that the rotation goes on without whoever followed it.
func (f *follower) interrupted(ctx context.Context) error {
	err := fmt.Errorf("rotation %s has not ended within %s", f.id, f.limit)
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	return &ExitError{Code: exitFailure, Err: err, Hint: "the rotation goes on; look at it with: rotor get rotations " + f.id}
}

func (f *follower) show(view api.RotationView) {
	if f.quiet {
		return
	}
	ended, total, now := 0, 0, ""
	for _, cluster := range view.Results {
		for _, r := range cluster.Clients {
			total++
			if r.Outcome.Final() {
				ended++
			} else if now == "" && r.Step != "" {
				now = fmt.Sprintf(" (%s/%s %s)", cluster.Cluster, r.Client, r.Step)
			}
		}
	}
	text := fmt.Sprintf("%s: %d of %s%s", view.State, ended, plural(total, "client"), now)
	if len(view.Progress) > 0 {
		text = fmt.Sprintf("%s: %s%s", view.State, wavesText(view), now)
	}
	if total == 0 {
		text = fmt.Sprintf("%s: rotation %s", view.State, f.id)
	}
	if text == f.shown {
		return
	}
	f.shown = text
	if f.live {
		_, _ = fmt.Fprintf(f.log, "\r\x1b[K%s", text)
		return
	}
	_, _ = fmt.Fprintln(f.log, text)
}

// endLine removes the line of progress, so that what follows begins on its own.
func (f *follower) endLine() {
	if f.live && f.shown != "" {
		_, _ = fmt.Fprint(f.log, "\r\x1b[K")
	}
}
