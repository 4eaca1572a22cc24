package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
)

// eventLine writes an event for people: time, type, cluster, and what matters.
func eventLine(e event.Event) string {
	cluster := e.Subject()
	if cluster == event.FleetWide {
		cluster = "fleet"
	}
	line := fmt.Sprintf("%s  %-22s  %-12s  %s", e.Time().UTC().Format(time.DateTime), shortType(e.Type()), cluster, detail(e))
	return strings.TrimRight(printable(line), " ")
}

// detail says what matters in an event, nothing if its type is not known.
func detail(e event.Event) string {
	row, ok := event.Find(e.Type())
	if !ok {
		return ""
	}
	switch row.Payload.(type) {
	case event.Credentials:
		return read(e, credentialsText)
	case event.Window:
		return read(e, windowDetail)
	case event.Upgrade:
		return read(e, func(u event.Upgrade) string { return fmt.Sprintf("%s -> %s", first(u.From, "?"), u.Release) })
	case event.Release:
		return read(e, func(r event.Release) string { return r.Version + " of " + date(&r.PublishedAt) })
	case event.Cluster:
		return read(e, func(c event.Cluster) string { return strings.TrimSpace(string(c.Kind) + " " + c.Release) })
	case event.Agent:
		return read(e, func(a event.Agent) string { return short(a.Agent) })
	case event.Authority:
		return read(e, func(a event.Authority) string { return a.What + " " + short(a.ID) })
	case event.Rollout:
		return read(e, rolloutDetail)
	case event.Rotation:
		return read(e, func(r event.Rotation) string {
			text := fmt.Sprintf("%s: %d of %s rotated, %d failed", r.Reason, r.Rotated, plural(r.Total, "client"), r.Failed)
			if r.Why != "" {
				text += fmt.Sprintf(", wave %d: %s", r.Wave, r.Why)
			}
			if r.By != "" {
				text += ", by " + r.By
			}
			return text
		})
	case event.Alert:
		return read(e, func(a event.Alert) string {
			return strings.TrimSuffix(fmt.Sprintf("%s %s to %s: %s", a.Rule, a.About, a.Channel, a.Error), ": ")
		})
	case event.Letter:
		return read(e, func(l event.Letter) string {
			return fmt.Sprintf("%s of %s after %s: %s", short(l.Letter), l.Service, plural(l.Attempts, "attempt"), l.Reason)
		})
	default:
		return ""
	}
}

// read decodes the data of an event. What a later version sends in another form
// is shown without details rather than not at all.
func read[T any](e event.Event, text func(T) string) string {
	var data T
	if json.Unmarshal(e.Data(), &data) != nil {
		return ""
	}
	return text(data)
}

func credentialsText(c event.Credentials) string {
	const most = 5
	var parts []string
	for i, client := range c.Clients {
		if i == most {
			parts = append(parts, fmt.Sprintf("and %d more", len(c.Clients)-most))
			break
		}
		part := fmt.Sprintf("%s #%d", client.Client, client.Generation)
		if client.Error != "" {
			part += " (" + client.Error + ")"
		}
		parts = append(parts, part)
	}
	text := strings.Join(parts, ", ")
	if c.Reason != "" {
		text = string(c.Reason) + ": " + text
	}
	return text
}

func rolloutDetail(r event.Rollout) string {
	text := strings.TrimSpace(r.Kind.Name() + " " + string(r.Phase))
	switch {
	case r.Halted != "":
		text += ", halted: " + r.Halted
	case r.Phase == "" && !r.By.IsZero():
		text += " should be replaced by " + date(&r.By)
	}
	var who []string
	for _, l := range r.Missing {
		who = append(who, lagging(l))
	}
	if len(who) > 0 {
		text += ", waiting for " + names(who)
	}
	return text
}

func windowDetail(w event.Window) string {
	text := string(w.State)
	if len(w.Missed) > 0 {
		text += ", missed " + names(w.Missed)
	}
	if !w.Deadline.IsZero() {
		text += ", deadline " + date(&w.Deadline)
	}
	return text
}

// printableLines is printable for a text of several lines.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	return strings.Join(lines, "\n")
}

// printable keeps what others put into a text from moving the cursor.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return ' '
		}
		return r
	}, s)
}
