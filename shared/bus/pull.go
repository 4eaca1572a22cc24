package bus

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// pullWait is how long one request for messages stays with the server.
	pullWait = 30 * time.Second
	// pullBeat is how often the server says that it still has the request. When
	// two beats are missing, the request was lost and is made again.
	pullBeat = 2 * time.Second
)

// pull asks for as many messages as there are free slots and gives each to
// handle, until ctx ends or the server does not answer. It waits for those at
// work.
//
// Each request stands alone. The iterator of the client library (Messages) is
// not used: it forgets to ask again when an answer overtakes the end of its own
// request, and then hangs until it misses a heartbeat, half a minute later. With
// one message at a time that happens about once in a thousand messages.
func (b *Bus) pull(ctx context.Context, c Consumer, consumer jetstream.Consumer, handle func(jetstream.Msg)) error {
	var running sync.WaitGroup
	defer running.Wait()
	parallel := max(c.Parallel, 1)
	slots := make(chan struct{}, parallel)
	for ctx.Err() == nil {
		free := take(ctx, slots)
		if free == 0 {
			break
		}
		taken, err := fetch(ctx, consumer, free, func(msg jetstream.Msg) {
			if ctx.Err() != nil {
				_ = msg.Nak() // it was not touched: let another have it at once
				<-slots
				return
			}
			running.Go(func() {
				defer func() { <-slots }()
				handle(msg)
			})
		})
		for range free - taken {
			<-slots
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// take waits for a free slot and takes all that are free. It returns how many
// those were: none, when ctx has ended.
func take(ctx context.Context, slots chan struct{}) (taken int) {
	select {
	case slots <- struct{}{}:
		taken = 1
	case <-ctx.Done():
		return 0
	}
	for {
		select {
		case slots <- struct{}{}:
			taken++
		default:
			return taken
		}
	}
}

// fetch asks the server for up to n messages, and returns how many it has got.
func fetch(ctx context.Context, consumer jetstream.Consumer, n int, each func(jetstream.Msg)) (taken int, err error) {
	ctx, cancel := context.WithTimeout(ctx, pullWait)
	defer cancel()
	batch, err := consumer.Fetch(n, jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(pullBeat))
	if err != nil {
		return 0, err
	}
	for msg := range batch.Messages() {
		taken++
		each(msg)
	}
	if ctx.Err() != nil {
		return taken, nil // the end of its time, not of its server
	}
	return taken, batch.Error()
}
