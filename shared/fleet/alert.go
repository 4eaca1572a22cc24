package fleet

import "time"

// Severity orders alerts.
type Severity string

// The severities, least first.
const (
	SeverityInfo     Severity = "info"
	SeverityWarning  Severity = "warning"
	SeverityCritical Severity = "critical"
)

// Rank returns the order of a severity; an unknown or empty one is the least.
func (s Severity) Rank() int {
	switch s {
	case SeverityCritical:
		return 2
	case SeverityWarning:
		return 1
	default:
		return 0
	}
}

// AlertState says whether the cause of an alert persists.
type AlertState string

// The states of an alert.
const (
	AlertFiring   AlertState = "firing"
	AlertResolved AlertState = "resolved"
)

// Alert is one thing that people are told about, keyed by (rule, cluster,
// client, generation): a replaced credential alerts afresh.
type Alert struct {
	Fingerprint string      `json:"fingerprint" doc:"hash of rule, cluster, client and generation"`
	Rule        string      `json:"rule" doc:"e.g. window-missed"`
	Severity    Severity    `json:"severity" enum:"info,warning,critical"`
	State       AlertState  `json:"state" enum:"firing,resolved"`
	Cluster     string      `json:"cluster"`
	Client      *ClientKey  `json:"client,omitempty"`
	Generation  int         `json:"generation,omitempty"`
	Letter      string      `json:"letter,omitempty" doc:"id of the dead letter that it is about"`
	Rotation    string      `json:"rotation,omitempty" doc:"id of the rotation that it is about, where it is about one alone"`
	Level       int         `json:"level" doc:"how often it was escalated"`
	Summary     string      `json:"summary" doc:"one sentence: what, where, since when"`
	Remedy      string      `json:"remedy,omitempty" doc:"what to do"`
	Since       time.Time   `json:"since"`
	Began       time.Time   `json:"began,omitzero" doc:"when its cause began, where that was before it was told of"`
	ResolvedAt  time.Time   `json:"resolvedAt,omitzero"`
	Deliveries  []Delivered `json:"deliveries,omitempty" doc:"what was sent where"`
}

// Beginning returns when the cause of the alert began.
func (a *Alert) Beginning() time.Time {
	if a.Began.IsZero() {
		return a.Since
	}
	return a.Began
}

// DeliveryState is how far one message to one channel has come.
type DeliveryState string

// The states of a message to a channel.
const (
	DeliveryPending DeliveryState = "pending"
	DeliverySent    DeliveryState = "sent"
	DeliveryFailed  DeliveryState = "failed" // given up; it lies in the dead letters
)

// Delivered is one message about one alert to one channel.
type Delivered struct {
	Channel  string        `json:"channel"`
	About    string        `json:"about" doc:"what the message says: firing/<level> or resolved"`
	State    DeliveryState `json:"state" enum:"pending,sent,failed"`
	Attempts int           `json:"attempts"`
	Next     time.Time     `json:"next,omitzero" doc:"when it is tried again, by the machine's time"`
	Holder   string        `json:"holder,omitempty" doc:"notifier that is sending it"`
	SentAt   time.Time     `json:"sentAt,omitzero"`
	Error    string        `json:"error,omitempty" doc:"why the last attempt failed"`
}
