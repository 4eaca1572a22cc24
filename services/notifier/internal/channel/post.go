package channel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// maxAnswer bounds what is read of an answer, so that its connection can be
// used again.
const maxAnswer = 64 << 10

// maxAfter bounds what a receiver may ask for: a slip there must not put a
// message off for ever.
const maxAfter = 24 * time.Hour

// poster sends HTTP POSTs for the channels that are webhooks.
type poster struct {
	url    secret.Text // the whole URL is a secret: who has it may post
	client *http.Client
}

func newPoster(u secret.Text) poster {
	return poster{url: u, client: &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute,
			TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true,
		},
		// A redirect would carry the message, its headers and its signature to
		// somebody who was not configured.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// post sends body and returns nil for a status of 2xx.
func (p poster) post(ctx context.Context, body []byte, header http.Header) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url.Reveal(), bytes.NewReader(body))
	if err != nil {
		return Permanent(errors.New("post: the URL is not valid"))
	}
	request.Header = header
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "rotor-notifier")
	response, err := p.client.Do(request)
	if err != nil {
		return fmt.Errorf("post: %w", withoutURL(err))
	}
	defer func() { _ = response.Body.Close() }()
	answer, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer)) // the status says it all
	return judge(response, answer)
}

// judge turns a status into an error. Among the 4xx only those are tried again
// that say so themselves: 408 and 425 and 429 (RFC 9110, 15.5.9; RFC 8470, 5.2;
// RFC 6585, 4).
func judge(response *http.Response, answer []byte) error {
	status := response.StatusCode
	if status >= 200 && status < 300 {
		return nil
	}
	err := fmt.Errorf("post: the receiver answered %d %s%s", status, http.StatusText(status), word(answer))
	retry := status >= 500 || status == http.StatusRequestTimeout || status == http.StatusTooEarly || status == http.StatusTooManyRequests
	if !retry {
		return Permanent(err)
	}
	return &Error{Err: err, After: retryAfter(response.Header.Get("Retry-After"), clock.Wall())}
}

// word returns an answer that is one plain word, such as the error codes of
// Slack. Any other is not shown: it may quote what it was sent.
func word(answer []byte) string {
	text := strings.TrimSpace(string(answer))
	if text == "" || len(text) > 40 || strings.Trim(text, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return ""
	}
	return " (" + text + ")"
}

// retryAfter reads seconds or an HTTP date (RFC 9110, 10.2.3); now is the
// machine's time. It returns 0 for what is neither or lies in the past.
func retryAfter(value string, now time.Time) time.Duration {
	var after time.Duration
	if seconds, err := strconv.ParseUint(strings.TrimSpace(value), 10, 31); err == nil {
		after = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(value); err == nil {
		after = date.Sub(now)
	}
	return min(max(after, 0), maxAfter)
}

// withoutURL takes the URL out of an error of net/http.
func withoutURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}
