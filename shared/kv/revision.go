package kv

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Revision returns the newest revision of the bucket: a mirror that has seen it
// is not behind. It is 0 while nothing was ever written.
func (b *Bucket[T]) Revision(ctx context.Context) (uint64, error) {
	revision, _, err := b.Origin(ctx)
	return revision, err
}

// Origin returns the newest revision of the bucket and when the bucket was made:
// revisions of buckets that were made at different times do not compare.
func (b *Bucket[T]) Origin(ctx context.Context) (revision uint64, made time.Time, err error) {
	status, err := b.kv.Status(ctx)
	if err != nil {
		return 0, made, fmt.Errorf("look at %s: %w", b.name, err)
	}
	s, ok := status.(*jetstream.KeyValueBucketStatus)
	if !ok {
		return 0, made, fmt.Errorf("look at %s: no stream behind the bucket", b.name)
	}
	info := s.StreamInfo()
	return info.State.LastSeq, info.Created, nil
}
