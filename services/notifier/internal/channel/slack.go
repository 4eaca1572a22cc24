package channel

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/slack-go/slack"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// Slack sends to an incoming webhook of Slack, or of a program that speaks as
// Slack does.
type Slack struct {
	name string
	post poster
}

// NewSlack returns a channel that posts to the URL of an incoming webhook.
func NewSlack(name string, webhook secret.Text) *Slack {
	return &Slack{name: name, post: newPoster(webhook)}
}

// Name returns the name of the channel.
func (s *Slack) Name() string { return s.name }

// Send posts the message. Slack has no field for an id: a message that was
// accepted just before a crash appears twice, and says its id in the footer.
func (s *Slack) Send(ctx context.Context, m Message) error {
	body, err := json.Marshal(slackMessage(m))
	if err != nil {
		return Permanent(fmt.Errorf("render: %w", err))
	}
	return s.post.post(ctx, body, http.Header{})
}

// maxHeader is the limit of the text of a header block.
const maxHeader = 150

func slackMessage(m Message) *slack.WebhookMessage {
	emoji, _ := look(m)
	fields := []*slack.TextBlockObject{
		field("Cluster", m.Subject()),
		field("Rule", m.Alert.Rule),
		field("Since", m.Since()),
	}
	if client := m.Client(); client != "" {
		fields = append(fields, field("Client", client))
	}
	if ended := m.Ended(); ended != "" {
		fields = append(fields, field("Until", ended))
	}
	if remedy := m.Remedy(); remedy != "" {
		fields = append(fields, markdown("*Remedy*\n`"+escape(strings.ReplaceAll(remedy, "`", "'"))+"`"))
	}
	context := []slack.MixedElement{markdown("Rotor · " + m.ID)}
	if m.Link != "" {
		context = append(context, markdown("<"+m.Link+"|Open in Rotor>"))
	}
	header := fmt.Sprintf("%s %s: %s", emoji, m.Status(), m.Subject())
	blocks := &slack.Blocks{BlockSet: []slack.Block{
		slack.NewHeaderBlock(slack.NewTextBlockObject(slack.PlainTextType, cut(header, maxHeader), true, false)),
		slack.NewSectionBlock(markdown(escape(m.Alert.Summary)), fields, nil),
		slack.NewContextBlock("", context...),
	}}
	return &slack.WebhookMessage{
		Text:   escape(m.Title()), // what notifications and screen readers show
		Blocks: blocks,
	}
}

// look returns the emoji and the colour of a message.
func look(m Message) (emoji, color string) {
	switch {
	case m.Resolved():
		return ":white_check_mark:", "#2eb67d"
	case m.Alert.Severity == fleet.SeverityCritical:
		return ":red_circle:", "#e01e5a"
	case m.Alert.Severity == fleet.SeverityWarning:
		return ":large_yellow_circle:", "#ecb22e"
	default:
		return ":information_source:", "#36c5f0"
	}
}

func field(name, value string) *slack.TextBlockObject {
	return markdown("*" + name + "*\n" + escape(value))
}

func markdown(text string) *slack.TextBlockObject {
	return slack.NewTextBlockObject(slack.MarkdownType, text, false, false)
}

// escape replaces the three characters that Slack's markup gives a meaning to
// beyond the look: they make links and mentions.
func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}

func cut(s string, limit int) string {
	if runes := []rune(s); len(runes) > limit {
		return string(runes[:limit-1]) + "…"
	}
	return s
}
