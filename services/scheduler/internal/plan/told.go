package plan

import (
	"maps"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Stage is a moment in the life of a generation that is told of once.
type Stage string

// The stages of a generation.
const (
	StageDue         Stage = "due"
	StageWarning     Stage = "warning"
	StageCritical    Stage = "critical"
	StageToken       Stage = "token"       // the token has expired
	StageCertificate Stage = "certificate" // the certificate has expired
	StageBoth        Stage = "both"        // both have expired in the same second
)

// Told is what has been told of a cluster: the document of the cluster in the
// bucket "schedule". It is bounded by the clients that the cluster has.
type Told struct {
	Clients  map[fleet.ClientKey]ToldClient `json:"clients,omitempty"`
	Window   ToldWindow                     `json:"window,omitzero"`
	Agent    ToldAgent                      `json:"agent,omitzero"`
	Upgraded time.Time                      `json:"upgraded,omitzero" doc:"completion of the newest upgrade that was seen"`
	Seen     bool                           `json:"seen" doc:"the cluster is not new"`

	// What a scheduler that takes over needs in order to look at nothing else.
	Next   time.Time `json:"next,omitzero" doc:"when to look again though nothing changes; never later than that"`
	Expiry time.Time `json:"expiry,omitzero" doc:"the earliest end of a credential in use: how urgent the cluster is"`
}

// ToldClient is what has been told of the generation that a client uses. A new
// generation starts with no stages, so that it inherits no alert.
type ToldClient struct {
	Generation int         `json:"generation"`
	Stages     []Stage     `json:"stages,omitempty"`
	State      fleet.State `json:"state,omitempty" doc:"degraded or locked-out, until the client has recovered"`
}

// ToldWindow is what has been told of the update window.
type ToldWindow struct {
	Since  time.Time `json:"since,omitzero" doc:"publication of the first missed release"`
	Closes bool      `json:"closing,omitempty" doc:"the notice was told"`
	Missed bool      `json:"missed,omitempty" doc:"the end was told"`
	Level  int       `json:"level,omitempty" doc:"highest level of missed that was told"`
}

// Equal reports whether nothing new was told. When to look again is not told.
func (t Told) Equal(other Told) bool {
	return t.Seen == other.Seen && t.Upgraded.Equal(other.Upgraded) && t.Window.equal(other.Window) && t.Agent.equal(other.Agent) &&
		maps.EqualFunc(t.Clients, other.Clients, func(a, b ToldClient) bool {
			return a.Generation == b.Generation && a.State == b.State && slices.Equal(a.Stages, b.Stages)
		})
}

func (w ToldWindow) equal(other ToldWindow) bool {
	return w.Since.Equal(other.Since) && w.Closes == other.Closes && w.Missed == other.Missed && w.Level == other.Level
}

func (w ToldWindow) rank() int {
	switch {
	case w.Missed:
		return 2
	case w.Closes:
		return 1
	default:
		return 0
	}
}
