package rule

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// maxSentence bounds a sentence: the shortest limit of any channel is the 3000
// characters of a section in Slack.
const maxSentence = 500

// sentence takes out of a text what could end a header line or a log line, and
// cuts it. Errors of other services become part of sentences.
func sentence(s string) string {
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "?"), func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r)
	}), " ")
	if runes := []rune(s); len(runes) > maxSentence {
		return string(runes[:maxSentence-3]) + "..."
	}
	return s
}

func missedSummary(e event.Event, w event.Window) string {
	return fmt.Sprintf("%s is past its update window since %s: %s", e.Subject(), day(w.Deadline), behind(w))
}

func closingSummary(e event.Event, w event.Window) string {
	return fmt.Sprintf("the update window of %s closes in %s, on %s: %s",
		e.Subject(), span(w.Deadline.Sub(e.Time())), day(w.Deadline), behind(w))
}

// behind says what runs and what was missed: "it runs 2026.07 and has missed
// 2026.08 (published 2026-09-09) and one more".
func behind(w event.Window) string {
	runs := "it runs " + w.Release
	if w.Release == "" {
		runs = "it runs an unknown release"
	}
	if len(w.Missed) == 0 {
		return runs
	}
	text := fmt.Sprintf("%s and has missed %s (published %s)", runs, w.Missed[0], day(w.Since))
	switch more := len(w.Missed) - 1; more {
	case 0:
		return text
	case 1:
		return text + " and one more"
	default:
		return fmt.Sprintf("%s and %d more", text, more)
	}
}

func upgradeRemedy(cluster string, w event.Window) string {
	if len(w.Missed) == 0 {
		return "rotor status"
	}
	return fmt.Sprintf("rotor upgrade %s --release %s", cluster, w.Missed[len(w.Missed)-1])
}

func expiringSummary(e event.Event, c event.Client) string {
	what, end := first(c)
	return fmt.Sprintf("the %s of %s/%s expires in %s, on %s, and its replacement is not in use yet%s",
		what, e.Subject(), c.Client, span(end.Sub(e.Time())), moment(end), why(c))
}

func expiredSummary(e event.Event, c event.Client) string {
	what, end := first(c)
	verb := "has"
	switch c.Credential {
	case "certificate":
		what, end = c.Credential, c.NotAfter
	case "token":
		what, end = c.Credential, c.ExpiresAt
	case "both":
		what, verb = "certificate and token", "have"
	}
	if verb == "has" {
		what = "the " + what
	}
	return fmt.Sprintf("%s of %s/%s %s expired: in use is generation %d, valid until %s%s",
		what, e.Subject(), c.Client, verb, c.Generation, moment(end), why(c))
}

func failedSummary(e event.Event, c event.Client) string {
	return fmt.Sprintf("generation %d of %s/%s could not be issued; the one in use is untouched%s",
		c.Generation, e.Subject(), c.Client, why(c))
}

func degradedSummary(e event.Event, c event.Client) string {
	return fmt.Sprintf("%s/%s is degraded: its token has expired and it will not survive its next restart%s", e.Subject(), c.Client, why(c))
}

func lockedOutSummary(e event.Event, c event.Client) string {
	return fmt.Sprintf("%s/%s is locked out: its certificate and its token have both expired%s", e.Subject(), c.Client, why(c))
}

func rotationSummary(cluster string, r event.Rotation) string {
	if cluster == event.FleetWide {
		return fmt.Sprintf("rotation %s has failed for %s over %s", r.Rotation, count(r.Failed, "client"), count(r.Clusters, "cluster"))
	}
	failed, reason := 0, ""
	for _, f := range r.Failures {
		if f.Cluster != cluster {
			continue
		}
		failed++
		if reason == "" {
			reason = fmt.Sprintf("; %s: %s", f.Client, f.Reason)
		}
	}
	if r.Clusters <= 1 {
		failed = max(failed, r.Failed)
	}
	return fmt.Sprintf("the rotation of %s has failed for %s; what they have stays in use%s", cluster, count(max(failed, 1), "client"), reason)
}

func haltSummary(r event.Rotation) string {
	return fmt.Sprintf("rotation %s over %s was halted in wave %d: %s; what has not begun waits for an operator",
		r.Rotation, count(r.Clusters, "cluster"), r.Wave, r.Why)
}

func letterSummary(e event.Event, l event.Letter) string {
	about := "a message about " + e.Subject()
	if e.Subject() == event.FleetWide {
		about = "a message about more than one cluster"
	}
	if l.Source == fleet.SourceChannel {
		return fmt.Sprintf("%s (%s) was given up by the channel %s after %s: %s", about, l.Subject, l.Consumer, count(l.Attempts, "attempt"), l.Reason)
	}
	return fmt.Sprintf("%s was given up by the %s after %s: %s", about, l.Service, count(l.Attempts, "attempt"), l.Reason)
}

func rotationRemedy(cluster string, r event.Rotation) string {
	if cluster == event.FleetWide {
		return "rotor get rotations"
	}
	for _, f := range r.Failures { // rotating again would come to the same
		if f.Cluster == cluster && f.Outcome == fleet.OutcomeNeedsRecovery {
			return "rotor recover " + cluster
		}
	}
	return "rotor rotate " + cluster
}

// expiredRemedy tells a client that has one half left from one that is locked
// out: the second may need an operator.
func expiredRemedy(e event.Event, c event.Client) string {
	if e.Time().Before(c.NotAfter) || e.Time().Before(c.ExpiresAt) {
		return rotateRemedy(e.Subject(), c)
	}
	return recoverRemedy(e.Subject(), c)
}

func rotateRemedy(cluster string, c event.Client) string {
	return fmt.Sprintf("rotor rotate %s --client %s", cluster, c.Client)
}

func recoverRemedy(cluster string, c event.Client) string {
	return fmt.Sprintf("rotor recover %s --client %s", cluster, c.Client)
}

// first returns which of the two credentials ends first, and when.
func first(c event.Client) (string, time.Time) {
	if c.NotAfter.IsZero() || !c.ExpiresAt.IsZero() && c.ExpiresAt.Before(c.NotAfter) {
		return "token", c.ExpiresAt
	}
	return "certificate", c.NotAfter
}

func why(c event.Client) string {
	if c.Error == "" {
		return ""
	}
	return " (" + c.Error + ")"
}

// span returns whole days, or hours and minutes for less than two days.
func span(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d >= 2*fleet.Day:
		return count(int(d/fleet.Day), "day")
	case d >= 2*time.Hour:
		return count(int(d/time.Hour), "hour")
	default:
		return count(int(d/time.Minute), "minute")
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
