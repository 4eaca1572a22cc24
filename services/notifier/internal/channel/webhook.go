package channel

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// The headers of a webhook.
const (
	HeaderKey       = "Idempotency-Key" // the id of the message
	HeaderSignature = "Rotor-Signature" // "sha256=" and the HMAC-SHA256 of the body, hexadecimal
)

// webhookVersion is raised when a field changes its meaning; fields may be
// added at any time.
const webhookVersion = 1

// Webhook posts JSON of a fixed form to any receiver.
type Webhook struct {
	name    string
	post    poster
	headers map[string]secret.Text
	key     secret.Text
}

// WebhookConfig says where a Webhook posts and how.
type WebhookConfig struct {
	URL     secret.Text
	Headers map[string]secret.Text // sent along, such as Authorization
	Secret  secret.Text            // key of the signature; none, if empty
}

// NewWebhook returns a channel that posts JSON.
func NewWebhook(name string, c WebhookConfig) *Webhook {
	return &Webhook{name: name, post: newPoster(c.URL), headers: c.Headers, key: c.Secret}
}

// Name returns the name of the channel.
func (w *Webhook) Name() string { return w.name }

// Body is the body of a webhook.
type Body struct {
	Version int              `json:"version"`
	ID      string           `json:"id"`
	Status  fleet.AlertState `json:"status"`
	Title   string           `json:"title"`
	Link    string           `json:"link,omitempty"`
	Alert   BodyAlert        `json:"alert"`
}

// BodyAlert is the alert in the body of a webhook.
type BodyAlert struct {
	Fingerprint string           `json:"fingerprint"`
	Rule        string           `json:"rule"`
	Severity    fleet.Severity   `json:"severity"`
	Cluster     string           `json:"cluster"`
	Client      *fleet.ClientKey `json:"client,omitempty"`
	Generation  int              `json:"generation,omitempty"`
	Level       int              `json:"level"`
	Summary     string           `json:"summary"`
	Remedy      string           `json:"remedy,omitempty"`
	Since       time.Time        `json:"since"`
	ResolvedAt  time.Time        `json:"resolvedAt,omitzero"`
}

// NewBody returns the body for a message. It holds no secret.
func NewBody(m Message) Body {
	a := m.Alert
	b := Body{Version: webhookVersion, ID: m.ID, Status: fleet.AlertFiring, Title: m.Title(), Link: m.Link, Alert: BodyAlert{
		Fingerprint: a.Fingerprint, Rule: a.Rule, Severity: a.Severity, Cluster: a.Cluster, Client: a.Client,
		Generation: a.Generation, Level: a.Level, Summary: a.Summary, Remedy: m.Remedy(), Since: a.Since.UTC(),
	}}
	if m.Resolved() {
		b.Status, b.Alert.ResolvedAt = fleet.AlertResolved, a.ResolvedAt.UTC()
	}
	return b
}

// Message returns the message that a body is of, as it would be sent now.
func (b Body) Message(link string) Message {
	a := b.Alert
	m := Message{ID: b.ID, About: "resolved", Link: link, Alert: fleet.Alert{
		Fingerprint: a.Fingerprint, Rule: a.Rule, Severity: a.Severity, State: b.Status, Cluster: a.Cluster, Client: a.Client,
		Generation: a.Generation, Level: a.Level, Summary: a.Summary, Remedy: a.Remedy, Since: a.Since, ResolvedAt: a.ResolvedAt,
	}}
	if b.Status == fleet.AlertFiring {
		m.About = "firing/" + strconv.Itoa(a.Level)
	}
	return m
}

// Send posts the message with its id as Idempotency-Key.
func (w *Webhook) Send(ctx context.Context, m Message) error {
	body, err := json.Marshal(NewBody(m))
	if err != nil {
		return Permanent(fmt.Errorf("render: %w", err))
	}
	header := http.Header{}
	secrets := []string{w.post.url.Reveal(), w.key.Reveal()}
	for _, name := range slices.Sorted(maps.Keys(w.headers)) {
		header.Set(name, w.headers[name].Reveal())
		secrets = append(secrets, w.headers[name].Reveal())
	}
	header.Set(HeaderKey, m.ID)
	if !w.key.Empty() {
		header.Set(HeaderSignature, Sign(w.key, body))
	}
	return scrub(w.post.post(ctx, body, header), secrets...)
}

// Sign returns the value of HeaderSignature for a body.
func Sign(key secret.Text, body []byte) string {
	mac := hmac.New(sha256.New, []byte(key.Reveal()))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}
