package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/rotor-fleet/rotor/shared/event"
)

// StreamEvents calls f with each event of the stream until ctx ends, the stream
// breaks or f returns an error. after is the id of the last event seen, empty
// to begin with the next; id is what to pass to go on behind this event.
func (c *Client) StreamEvents(ctx context.Context, query url.Values, after string, f func(id string, e event.Event) error) error {
	request, err := c.request(ctx, http.MethodGet, PathEvents+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "text/event-stream")
	if after != "" {
		request.Header.Set("Last-Event-ID", after)
	}
	response, err := c.client().Do(request)
	if err != nil {
		return redact(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 1<<16))
		return ProblemOf(response, body)
	}
	return readEvents(response.Body, f)
}

// maxEvent bounds one line of the stream: a document of 1 MiB and its frame.
const maxEvent = 2 << 20

// readEvents reads the event stream format of the HTML standard, 9.2.6.
func readEvents(r io.Reader, f func(id string, e event.Event) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxEvent)
	id, data := "", ""
	for lines.Scan() {
		line := lines.Text()
		switch {
		case line == "" && data != "":
			e, err := event.Unmarshal([]byte(data))
			if err != nil {
				return fmt.Errorf("read events: %w", err)
			}
			data = ""
			if err := f(id, e); err != nil {
				return err
			}
		case strings.HasPrefix(line, "id:"):
			id = strings.TrimPrefix(strings.TrimPrefix(line, "id:"), " ")
		case strings.HasPrefix(line, "data:"):
			data += strings.TrimPrefix(strings.TrimPrefix(line, "data:"), " ")
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	return io.EOF
}
