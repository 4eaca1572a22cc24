package signin

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/rotor-fleet/rotor/shared/clock"
)

// The limits, on the machine's time. Many programs may come from one address,
// behind a proxy or in a cluster; one client signs in twice a year.
const (
	addressRate, addressBurst = 20, 200
	clientRate, clientBurst   = 0.5, 10
)

// maxBuckets bounds the memory of a limiter.
const maxBuckets = 1 << 16

// limiter lets each key through so many times a second. It is safe for
// concurrent use.
type limiter struct {
	rate  rate.Limit
	burst int

	mu      sync.Mutex
	buckets map[string]*rate.Limiter
}

// take reports whether the key may pass now, and when to try again if not.
func (l *limiter) take(key string) (wait time.Duration, ok bool) {
	now := clock.Wall()
	l.mu.Lock()
	defer l.mu.Unlock()
	bucket, known := l.buckets[key]
	if !known {
		l.prune(now)
		bucket = rate.NewLimiter(l.rate, l.burst)
		l.buckets[key] = bucket
	}
	if bucket.AllowN(now, 1) {
		return 0, true
	}
	missing := 1 - bucket.TokensAt(now)
	return time.Duration(missing / float64(l.rate) * float64(time.Second)), false
}

// prune makes room: buckets that are full again say nothing. If that is not
// enough, it forgets all of them rather than turn away who has done nothing.
func (l *limiter) prune(now time.Time) {
	if l.buckets == nil {
		l.buckets = map[string]*rate.Limiter{}
	}
	if len(l.buckets) < maxBuckets {
		return
	}
	for key, bucket := range l.buckets {
		if bucket.TokensAt(now) >= float64(l.burst) {
			delete(l.buckets, key)
		}
	}
	if len(l.buckets) >= maxBuckets {
		clear(l.buckets)
	}
}

// addressOf returns the host of a remote address; of IPv6 the network, as one
// caller has all of its addresses.
func addressOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Unmap().Is4() {
		return host
	}
	prefix, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return host
	}
	return prefix.String()
}
