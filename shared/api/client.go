package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// Problem is a problem detail (RFC 9457), as every error of the API.
type Problem struct {
	Type   string         `json:"type,omitempty"`
	Title  string         `json:"title,omitempty"`
	Status int            `json:"status"`
	Detail string         `json:"detail,omitempty"`
	Errors []ProblemError `json:"errors,omitempty"`
}

// ProblemError is one of several errors in a problem.
type ProblemError struct {
	Message  string `json:"message"`
	Location string `json:"location,omitempty" doc:"where: a field, or line:column of a fleet file"`
}

// Error joins what went wrong into one text.
func (p *Problem) Error() string {
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	for _, e := range p.Errors {
		if e.Location != "" {
			text += "\n  " + e.Location + ": " + e.Message
			continue
		}
		text += "\n  " + e.Message
	}
	return text
}

// statuses maps each kind of error to its HTTP status; the gateway uses it one
// way and the client the other.
var statuses = []struct {
	kind   error
	status int
}{
	{fleet.ErrNotFound, http.StatusNotFound},
	{fleet.ErrConflict, http.StatusConflict},
	{fleet.ErrInvalid, http.StatusUnprocessableEntity},
	{fleet.ErrDenied, http.StatusForbidden},
}

// StatusOf returns the HTTP status of an error, 500 if its kind is unknown.
func StatusOf(err error) int {
	for _, s := range statuses {
		if errors.Is(err, s.kind) {
			return s.status
		}
	}
	return http.StatusInternalServerError
}

// Is makes errors.Is see the kind of a problem by its status.
func (p *Problem) Is(target error) bool {
	for _, s := range statuses {
		if target == s.kind {
			return p.Status == s.status || s.kind == fleet.ErrDenied && p.Status == http.StatusUnauthorized
		}
	}
	return false
}

// Client calls the API. It is safe for concurrent use.
type Client struct {
	URL   string // http://127.0.0.1:8080
	Token secret.Text
	HTTP  *http.Client // http.DefaultClient, if nil
	Key   string       // sent as Idempotency-Key with the writes, if set

	Tracer telemetry.Tracer // makes a span of each call but long polls; none, if zero

	headers http.Header // sent as well
}

// maxBody bounds an answer that is read into memory.
const maxBody = 64 << 20

// Call sends one request and reads the answer into out, both as JSON; in and
// out may be nil, and in may be []byte to be sent as YAML. An error of the API
// is a *Problem.
func (c *Client) Call(ctx context.Context, method, path string, in, out any) error {
	route, _, _ := strings.Cut(path, "?")
	if route == PathWork { // it waits; what it brings has a trace of its own
		return c.call(ctx, method, path, in, out)
	}
	ctx, span := c.Tracer.Start(ctx, telemetry.Client, "HTTP "+method)
	telemetry.Set(span, "http.request.method", method, "url.path", route)
	err := c.call(ctx, method, path, in, out)
	telemetry.End(span, err)
	return err
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	request, err := c.request(ctx, method, path, in)
	if err != nil {
		return err
	}
	response, err := c.client().Do(request)
	if err != nil {
		return redact(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	if response.StatusCode >= http.StatusBadRequest {
		return ProblemOf(response, body)
	}
	if out == nil || len(body) == 0 || response.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%s %s: the answer is not what was expected: %w", method, path, err)
	}
	return nil
}

func (c *Client) client() *http.Client {
	if c.HTTP != nil {
		return c.HTTP
	}
	return http.DefaultClient
}

func (c *Client) request(ctx context.Context, method, path string, in any) (*http.Request, error) {
	var body io.Reader
	contentType := ""
	switch v := in.(type) {
	case nil:
	case []byte:
		body, contentType = bytes.NewReader(v), "application/yaml"
	default:
		raw, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
		body, contentType = bytes.NewReader(raw), "application/json"
	}
	request, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.URL, "/")+path, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	if !c.Token.Empty() {
		request.Header.Set("Authorization", "Bearer "+c.Token.Reveal())
	}
	if c.Key != "" && method != http.MethodGet {
		request.Header.Set(HeaderIdempotency, c.Key)
	}
	maps.Copy(request.Header, c.headers)
	telemetry.Inject(ctx, request.Header)
	return request, nil
}

// redact takes the URL's query and user out of an error of net/http.
func redact(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		if parsed, parseErr := url.Parse(u.URL); parseErr == nil {
			return fmt.Errorf("%s %s://%s%s: %w", strings.ToUpper(u.Op), parsed.Scheme, parsed.Host, parsed.Path, u.Err)
		}
	}
	return err
}

// ProblemOf reads the problem from an answer, or makes one from its status.
func ProblemOf(response *http.Response, body []byte) *Problem {
	p := &Problem{}
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if kind != "application/problem+json" || json.Unmarshal(body, p) != nil {
		p = &Problem{Detail: strings.TrimSpace(string(body[:min(len(body), 200)]))}
	}
	if p.Status == 0 {
		p.Status = response.StatusCode
	}
	if p.Title == "" {
		p.Title = http.StatusText(response.StatusCode)
	}
	return p
}

// List reads every page of a list.
func List[T any](ctx context.Context, c *Client, path string, query url.Values) ([]T, error) {
	query = cloneValues(query)
	all := []T{}
	for {
		var page Page[T]
		if err := c.Call(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if page.Next == "" {
			return all, nil
		}
		query.Set("cursor", page.Next)
	}
}

func cloneValues(q url.Values) url.Values {
	clone := url.Values{}
	for k, v := range q {
		clone[k] = append([]string(nil), v...)
	}
	return clone
}

// Apply sends a fleet file.
func (c *Client) Apply(ctx context.Context, file []byte, dryRun, prune bool) (Plan, error) {
	query := url.Values{"dryRun": {strconv.FormatBool(dryRun)}, "prune": {strconv.FormatBool(prune)}}
	var plan Plan
	err := c.Call(ctx, http.MethodPut, PathFleet+"?"+query.Encode(), file, &plan)
	return plan, err
}

// Rotate asks for a rotation.
func (c *Client) Rotate(ctx context.Context, r RotateRequest) (RotationView, error) {
	var view RotationView
	err := c.Call(ctx, http.MethodPost, PathRotations, r, &view)
	return view, err
}

// Recover lets clients of a cluster come back.
func (c *Client) Recover(ctx context.Context, cluster string, r RecoveryRequest) (RecoveryView, error) {
	var view RecoveryView
	err := c.Call(ctx, http.MethodPost, PathClusters+"/"+url.PathEscape(cluster)+"/recoveries", r, &view)
	return view, err
}

// Rotation returns a rotation by its id.
func (c *Client) Rotation(ctx context.Context, id string) (RotationView, error) {
	var view RotationView
	err := c.Call(ctx, http.MethodGet, PathRotations+"/"+url.PathEscape(id), nil, &view)
	return view, err
}

// WorkAfter waits up to wait for work that differs from what tag names, and
// returns it; changed is false when nothing did.
func (c *Client) WorkAfter(ctx context.Context, tag string, wait time.Duration) (work Work, changed bool, err error) {
	return c.WorkOf(ctx, Caller{}, tag, wait)
}

// Caller is what a poll tells of the process that makes it.
type Caller struct {
	fleet.Heard
	Now time.Time // on the clock of the agent
}

// WorkOf is WorkAfter for a caller that tells of itself.
func (c *Client) WorkOf(ctx context.Context, who Caller, tag string, wait time.Duration) (work Work, changed bool, err error) {
	query := url.Values{"after": {tag}, "wait": {wait.String()}}
	if who.Instance != "" {
		query.Set("instance", who.Instance)
		query.Set("starts", strconv.Itoa(who.Starts))
	}
	if !who.Now.IsZero() {
		query.Set("now", who.Now.UTC().Format(time.RFC3339Nano))
	}
	err = c.Call(ctx, http.MethodGet, PathWork+"?"+query.Encode(), nil, &work)
	return work, work.Tag != tag && work.Tag != "", err
}
