package rollout

import (
	"strconv"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Told is what was told of the dates of the CA that signs.
type Told struct {
	CA    string `json:"ca,omitempty" doc:"id of the CA"`
	Stage int    `json:"stage,omitempty" doc:"1: that it is due; 2: that it is late; 3: that it is very late"`
}

// calm is the share of the life of a generation that has to pass before what an
// operator has taken back begins again by itself: 7 days of 365.
const calm = 7.0 / 365

func (e *evaluation) policy() fleet.AuthorityPolicy {
	return e.Settings.Authority.Over(fleet.DefaultAuthorityPolicy())
}

// Dates returns the dates of the CA that signs, and false while none does.
func (in Input) Dates() (fleet.AuthorityDates, bool) {
	ca := in.Authority.ActiveCA()
	if ca == nil || ca.NotAfter.IsZero() {
		return fleet.AuthorityDates{}, false
	}
	slack := in.Settings.Authority.Over(fleet.DefaultAuthorityPolicy()).Slack
	return fleet.DatesOf(ca, in.Leaf, slack.Std()), true
}

// due tells of the dates of the CA, in every mode, and also while a rollout goes
// on: until another CA signs. After a pause only the last of them is told.
func (e *evaluation) due() {
	dates, ok := e.Dates()
	if !ok || e.Kind != fleet.RolloutCA {
		return
	}
	ca := e.Authority.ActiveCA()
	told := e.Told
	if told.CA != ca.ID {
		told = Told{CA: ca.ID}
	}
	moments := []time.Time{dates.Start, dates.Warning, dates.Critical}
	if !dates.Keepable() {
		moments = moments[:1]
	}
	for i, at := range moments {
		if e.passed(at) && told.Stage <= i {
			told.Stage = i + 1
			at = later(at, ca.ActivatedAt) // it may sign again, as its successor was taken back
			e.out.Facts = []Fact{{
				Kind: event.AuthorityDue,
				Meta: event.Meta{Source: source, Cluster: event.FleetWide, Key: []string{ca.ID, strconv.Itoa(i), ca.ActivatedAt.UTC().Format(time.RFC3339)}, Time: at},
				Data: event.Rollout{Kind: fleet.RolloutCA, From: ca.ID, Level: i, By: dates.ActiveBy, End: dates.End},
			}}
		}
	}
	if told != e.Told && told.Stage > 0 {
		e.out.Told = &told
	}
}

// begin begins a rollout by itself when its time has come. The next one of a
// generation has an id that follows from it: whoever begins it begins the same.
func (e *evaluation) begin() {
	if e.policy().Mode != fleet.ModeAutomatic {
		return
	}
	from, at, life := e.turn()
	if from == "" {
		return
	}
	id := event.ID("rollout", string(e.Kind), from)
	if last := e.Rollout; last != nil && last.From == from {
		at = later(at, last.EndedAt.Add(time.Duration(calm*float64(life))))
		id = event.ID("rollout", string(e.Kind), from, last.ID)
	}
	if !e.passed(at) {
		return
	}
	e.out.Rollout = &fleet.Rollout{
		ID: id, Kind: e.Kind, Reason: fleet.RolloutScheduled, Phase: fleet.RolloutPrepare, By: "schedule", CreatedAt: e.Now,
		Steps: []fleet.RolloutStep{{Phase: fleet.RolloutPrepare, At: e.Now}}, From: from,
	}
}

// turn returns the generation that signs, and when its replacement begins.
func (e *evaluation) turn() (from string, at time.Time, life time.Duration) {
	if e.Kind == fleet.RolloutCA {
		ca := e.Authority.ActiveCA()
		dates, ok := e.Dates()
		if !ok || len(ca.Anchor) > 0 { // its successor comes from the operator's offline root, not from here
			return "", at, life
		}
		return ca.ID, dates.Start, ca.NotAfter.Sub(ca.PreparedAt())
	}
	if e.CA != nil && !e.CA.Phase.Done() {
		return "", at, life // one after the other
	}
	if k := e.Authority.ActiveKey(); k != nil {
		life = e.policy().Life.Std()
		return k.ID, later(k.CreatedAt, k.ActivatedAt).Add(life / 2), life
	}
	return "", at, life
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
