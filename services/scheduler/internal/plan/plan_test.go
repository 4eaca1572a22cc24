package plan

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

var (
	t0  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	kms = fleet.ClientKey{Kind: "kms"}
	csi = fleet.ClientKey{Kind: "csi"}
)

func days(d float64) time.Duration { return time.Duration(d * float64(fleet.Day)) }

// generation returns a proven generation of 90 days that is due on day 50.
func generation(number int, at time.Time) fleet.Generation {
	return fleet.Generation{
		Number: number, Step: fleet.StepProven, At: at, RenewAt: at.Add(days(50)), Agent: "agent-1", ProvenAt: at.Add(time.Minute),
		Certificate: fleet.Certificate{Serial: fmt.Sprint("0", number), NotBefore: at.Add(-fleet.Backdate), NotAfter: at.Add(days(90))},
		Token:       fleet.Token{ID: fmt.Sprint("t", number), NotBefore: at.Add(-fleet.Backdate), ExpiresAt: at.Add(days(90))},
	}
}

// input returns a cluster with the client kms at generation 1 of t0, whose next
// request is on file.
func input(now time.Time) Input {
	return Input{
		Cluster:     &fleet.Cluster{Name: "edge-01", Kind: fleet.Workload, Parent: "hq", Clients: []fleet.ClientKey{kms}},
		Credentials: &fleet.Credentials{Clients: map[fleet.ClientKey]*fleet.Record{kms: {Generations: []fleet.Generation{generation(1, t0)}}}},
		Agent:       &fleet.Agent{ID: "agent-1", LastSeen: t0, Requests: map[fleet.ClientKey]fleet.Request{kms: {Generation: 2, Key: "k2"}}},
		Told:        Told{Seen: true},
		Now:         now,
	}
}

func (in Input) with(change func(*Input)) Input { change(&in); return in }

func (in *Input) newest() *fleet.Generation { return in.Credentials.Clients[kms].Newest() }

func asks(d Decision) string {
	var all []string
	for _, is := range d.Issue {
		for _, c := range is.Command.Clients {
			all = append(all, fmt.Sprintf("%s %s#%d", is.Command.Reason, c.Client, c.Generation))
		}
	}
	return strings.Join(all, ", ")
}

func facts(d Decision) string {
	var all []string
	for _, f := range d.Facts {
		var names []string
		for _, c := range f.Data.Clients {
			names = append(names, fmt.Sprintf("%s#%d", c.Client, c.Generation))
		}
		detail := f.Data.Clients[0].Credential
		if level := f.Data.Clients[0].Level; level > 0 {
			detail = fmt.Sprint(level)
		}
		all = append(all, strings.TrimSpace(f.Kind.Row().Verb+" "+detail)+" "+strings.Join(names, "+"))
	}
	return strings.Join(all, ", ")
}

func blocks(d Decision) string {
	var all []string
	for _, b := range d.Blocked {
		all = append(all, fmt.Sprintf("%s#%d: %s", b.Client, b.Generation, b.Why))
	}
	return strings.Join(all, ", ")
}

// Every threshold is crossed at its very moment: not a second before, and not a
// second later (bugs: exact-day match, < against <=).
func TestIssueByTime(t *testing.T) {
	renew, emergency, last := t0.Add(days(50)), t0.Add(days(90*0.95)), t0.Add(days(90*0.98))
	closed := []fleet.Maintenance{{Cron: "0 0 1 1 *", Duration: fleet.Duration(time.Hour)}} // once a year
	never := []fleet.Maintenance{{Cron: "0 0 30 2 *", Duration: fleet.Duration(time.Hour)}}
	for _, tt := range []struct {
		name  string
		mode  fleet.Mode
		maint []fleet.Maintenance
		now   time.Time
		want  string
		block string
	}{
		{"before renewal", "", nil, renew.Add(-time.Second), "", ""},
		{"at renewal", "", nil, renew, "renewal kms#2", ""},
		{"after renewal", "", nil, renew.Add(time.Second), "renewal kms#2", ""},
		{"closed window", "", closed, renew, "", "kms#2: the maintenance window is closed until 2027-01-01T00:00:00Z"},
		{"window that never opens", "", never, renew, "", "kms#2: no maintenance window opens"},
		{"closed, before emergency", "", closed, emergency.Add(-time.Second), "", "kms#2: the maintenance window is closed until 2027-01-01T00:00:00Z"},
		{"closed, at emergency", "", closed, emergency, "emergency kms#2", ""},
		{"closed, after emergency", "", closed, emergency.Add(time.Second), "emergency kms#2", ""},
		{"on-upgrade, due", fleet.ModeOnUpgrade, nil, renew, "", ""},
		{"on-upgrade, at emergency", fleet.ModeOnUpgrade, nil, emergency, "", ""},
		{"on-upgrade, before last resort", fleet.ModeOnUpgrade, nil, last.Add(-time.Second), "", ""},
		{"on-upgrade, at last resort", fleet.ModeOnUpgrade, nil, last, "emergency kms#2", ""},
		{"manual, before last resort", fleet.ModeManual, closed, last.Add(-time.Second), "", ""},
		{"manual, after last resort", fleet.ModeManual, closed, last.Add(time.Second), "emergency kms#2", ""},
		{"locked out", "", closed, t0.Add(days(200)), "recovery kms#2", ""},
		{"locked out, manual", fleet.ModeManual, closed, t0.Add(days(200)), "recovery kms#2", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input(tt.now)
			in.Cluster.Policy.Mode, in.Cluster.Maintenance = tt.mode, tt.maint
			d := Evaluate(in)
			if got := asks(d); got != tt.want {
				t.Errorf("asks %q, want %q", got, tt.want)
			}
			if got := blocks(d); got != tt.block {
				t.Errorf("blocked %q, want %q", got, tt.block)
			}
			if !d.Next.IsZero() && !d.Next.After(tt.now) {
				t.Errorf("next %s is not after now", d.Next)
			}
		})
	}
}

// Waking up at the moments that are asked for, and only then, must find every
// step. A moment that is not later than now would be a busy loop; a rounded
// share would miss its own moment.
func TestNextLeadsThroughALife(t *testing.T) {
	in := input(t0)
	in.Cluster.Maintenance = []fleet.Maintenance{{Cron: "0 0 30 2 *", Duration: fleet.Duration(time.Hour)}}
	in.Agent.Requests = nil
	var seen []string
	for range 100 {
		d := Evaluate(in)
		if f := facts(d); f != "" {
			seen = append(seen, f)
		}
		in.Told = d.Told
		if d.Next.IsZero() {
			break
		}
		if !d.Next.After(in.Now) {
			t.Fatalf("next %s is not after %s", d.Next, in.Now)
		}
		in.Now = d.Next
	}
	want := []string{"due kms#1", "expiring 1 kms#1", "expiring 2 kms#1", "expired both kms#1, locked-out kms#1"}
	if !slices.Equal(seen, want) {
		t.Errorf("told %q, want %q", seen, want)
	}
}

// reinstated makes the client of the input one whose revocation was ended.
func reinstated(in *Input) {
	record := in.Credentials.Clients[kms]
	record.Revoked = &fleet.Revocation{Reason: fleet.KeyCompromise}
	record.Reinstate(fleet.Reinstatement{Operation: "r"})
}

func TestIssueByState(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Input)
		want   string
		block  string
	}{
		{"healthy", func(*Input) {}, "", ""},
		{"no record", func(in *Input) {
			in.Credentials, in.Agent.Requests = nil, map[fleet.ClientKey]fleet.Request{kms: {Generation: 1}}
		}, "enrolment kms#1", ""},
		{"no record, any mode and closed window", func(in *Input) {
			in.Credentials, in.Agent.Requests = nil, map[fleet.ClientKey]fleet.Request{kms: {Generation: 1}}
			in.Cluster.Policy.Mode = fleet.ModeManual
			in.Cluster.Maintenance = []fleet.Maintenance{{Cron: "0 0 30 2 *", Duration: fleet.Duration(time.Hour)}}
		}, "enrolment kms#1", ""},
		{"no agent document", func(in *Input) { in.Credentials, in.Agent = nil, nil }, "", "kms#1: no agent is enrolled for the cluster"},
		{"agent not enrolled", func(in *Input) { in.Credentials, in.Agent = nil, &fleet.Agent{} }, "", "kms#1: no agent is enrolled for the cluster"},
		{"no request", func(in *Input) { in.Agent.Requests, in.Now = nil, t0.Add(days(60)) }, "", "kms#2: the agent has no certificate request for generation 2 on file"},
		{"old request", func(in *Input) {
			in.Agent.Requests, in.Now = map[fleet.ClientKey]fleet.Request{kms: {Generation: 1}}, t0.Add(days(60))
		}, "", "kms#2: the agent has no certificate request for generation 2 on file"},
		{"agent replaced", func(in *Input) { in.Agent.ID = "agent-2" }, "enrolment kms#2", ""},
		{"agent replaced, not proven", func(in *Input) { in.Agent.ID, in.newest().Step = "agent-2", fleet.StepIssued }, "enrolment kms#2", ""},
		{"key lost", func(in *Input) { in.Agent.Requests[kms] = fleet.Request{Generation: 2, Lost: true} }, "enrolment kms#2", ""},
		{"restored", func(in *Input) {
			in.Credentials.Clients[kms].Floor, in.Agent.Requests[kms], in.Now = 1001, fleet.Request{Generation: 1002}, t0.Add(days(60))
		}, "renewal kms#1002", ""},
		{"restored, the agent is ahead", func(in *Input) {
			in.Credentials.Clients[kms].Floor, in.Agent.Requests[kms] = 1001, fleet.Request{Generation: 1010, Lost: true}
		}, "enrolment kms#1010", ""},
		{"key lost and replaced since", func(in *Input) { in.Agent.Requests[kms] = fleet.Request{Generation: 1, Lost: true} }, "", ""},
		{"due, not proven", func(in *Input) { in.newest().Step, in.Now = fleet.StepInstalled, t0.Add(days(60)) }, "", ""},
		{"expired before anybody fetched it", func(in *Input) { in.newest().Step, in.Now = fleet.StepIssued, t0.Add(days(91)) }, "emergency kms#2", ""},
		{"revoked", func(in *Input) { in.Credentials.Clients[kms].Revoked, in.Now = &fleet.Revocation{}, t0.Add(days(60)) }, "", ""},
		{"revoked, agent replaced", func(in *Input) { in.Credentials.Clients[kms].Revoked, in.Agent.ID = &fleet.Revocation{}, "agent-2" }, "", ""},
		{"reinstated: a new generation at once", func(in *Input) {
			reinstated(in)
			in.Agent.Requests[kms] = fleet.Request{Generation: 3}
		}, "enrolment kms#3", ""},
		{"reinstated, only the request of before", func(in *Input) {
			reinstated(in)
			in.Agent.Requests[kms] = fleet.Request{Generation: 2}
		}, "", "kms#3: the agent has no certificate request for generation 3 on file"},
		{"degraded (F7)", func(in *Input) { in.newest().Token.ExpiresAt = t0.Add(-time.Hour) }, "emergency kms#2", ""},
		{"recoverable", func(in *Input) { in.newest().Certificate.NotAfter = t0.Add(-time.Hour) }, "emergency kms#2", ""},
		{"wanted by a rotation", func(in *Input) { in.Wanted = map[fleet.ClientKey]Wanted{kms: {Rotation: "r1", Generation: 2}} }, "rotation kms#2", ""},
		{"wanted and there", func(in *Input) { in.Wanted = map[fleet.ClientKey]Wanted{kms: {Rotation: "r1", Generation: 1}} }, "", ""},
		{"wanted, not proven", func(in *Input) {
			in.Wanted, in.newest().Step = map[fleet.ClientKey]Wanted{kms: {Rotation: "r1", Generation: 2}}, fleet.StepIssued
		}, "", ""},
		{"wanted, asked a moment ago", func(in *Input) {
			in.Wanted, in.Asked = map[fleet.ClientKey]Wanted{kms: {Rotation: "r1", Generation: 2}}, map[fleet.ClientKey]int{kms: 2}
		}, "", ""},
		{"wanted, manual", func(in *Input) {
			in.Wanted, in.Cluster.Policy.Mode = map[fleet.ClientKey]Wanted{kms: {Rotation: "r1", Generation: 2}}, fleet.ModeManual
		}, "rotation kms#2", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input(t0.Add(days(10)))
			tt.change(&in)
			d := Evaluate(in)
			if got := asks(d); got != tt.want {
				t.Errorf("asks %q, want %q", got, tt.want)
			}
			if got := blocks(d); got != tt.block {
				t.Errorf("blocked %q, want %q", got, tt.block)
			}
		})
	}
}

func TestCommandNamesItsClientsInOrder(t *testing.T) {
	now := t0.Add(days(3)).Add(1500 * time.Millisecond)
	in := input(now)
	in.Cluster.Clients = []fleet.ClientKey{csi, kms}
	in.Agent.Requests[csi] = fleet.Request{Generation: 1}
	in.Wanted = map[fleet.ClientKey]Wanted{kms: {Rotation: "r1", Generation: 2}, csi: {Rotation: "r1", Generation: 1}}
	d := Evaluate(in)
	if got := asks(d); got != "enrolment csi#1, rotation kms#2" {
		t.Fatalf("asks %q", got)
	}
	c := d.Issue[1].Command
	at := t0.Add(days(3)).Add(time.Second)
	if !c.At.Equal(at) || c.Rotation != "r1" || d.Issue[0].Command.Rotation != "r1" {
		t.Errorf("command %+v, want at %s for r1", c, at)
	}
	life := c.Clients[0].Life
	if !life.Certificate.Equal(at.Add(days(90))) || !life.Token.Equal(at.Add(days(90))) {
		t.Errorf("life %+v", life)
	}
	if r := c.Clients[0].RenewAt; r.Before(at.Add(days(45))) || r.After(at.Add(days(55))) {
		t.Errorf("renewAt %s", r)
	}
	again := Evaluate(in.with(func(in *Input) { in.Now = now.Add(time.Minute) }))
	if reflect.DeepEqual(again.Issue[1].Meta.Key, d.Issue[1].Meta.Key) {
		t.Error("asked again later under the same id: the stream would drop it")
	}
}

// F24: a short life is renewed at the same share of it, not for ever.
func TestF24_ThresholdsAreSharesOfTheLife(t *testing.T) {
	in := input(t0.Add(20 * time.Minute))
	in.Settings.Policy = fleet.Policy{TokenLife: fleet.Duration(time.Hour), CertificateLife: fleet.Duration(time.Hour)}
	in.Credentials, in.Agent.Requests = nil, map[fleet.ClientKey]fleet.Request{kms: {Generation: 1}}
	c := Evaluate(in).Issue[0].Command.Clients[0]
	if since := c.RenewAt.Sub(in.Now); since < 30*time.Minute || since > 37*time.Minute {
		t.Errorf("renewed after %s of 1h", since)
	}
}

// A maintenance window of local time moves with the summer time of its zone,
// and an interval that was entered while nobody looked still counts.
func TestMaintenanceInLocalTime(t *testing.T) {
	berlin := []fleet.Maintenance{{Cron: "0 3 * * 0", Duration: fleet.Duration(2 * time.Hour), Zone: "Europe/Berlin"}}
	for _, tt := range []struct {
		now  time.Time
		want string
		next time.Time
	}{
		{time.Date(2026, 3, 22, 1, 59, 59, 0, time.UTC), "", time.Date(2026, 3, 22, 2, 0, 0, 0, time.UTC)}, // winter: 03:00 is 02:00 UTC
		{time.Date(2026, 3, 22, 2, 0, 0, 0, time.UTC), "renewal kms#2", time.Time{}},
		{time.Date(2026, 3, 29, 0, 59, 59, 0, time.UTC), "", time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC)}, // the day of the change
		{time.Date(2026, 4, 5, 1, 0, 0, 0, time.UTC), "renewal kms#2", time.Time{}},                        // summer: 03:00 is 01:00 UTC
		{time.Date(2026, 4, 5, 2, 59, 59, 0, time.UTC), "renewal kms#2", time.Time{}},
		{time.Date(2026, 4, 5, 3, 0, 0, 0, time.UTC), "", time.Time{}},
	} {
		in := input(tt.now)
		in.Cluster.Maintenance = berlin
		in.Credentials.Clients[kms].Generations[0] = generation(1, tt.now.Add(-days(52)))
		in.Told.Clients = Evaluate(in).Told.Clients
		d := Evaluate(in)
		if got := asks(d); got != tt.want {
			t.Errorf("%s: asks %q, want %q", tt.now, got, tt.want)
		}
		if !tt.next.IsZero() && !d.Next.Equal(tt.next) {
			t.Errorf("%s: next %s, want %s", tt.now, d.Next, tt.next)
		}
	}
}

// The renewal moments of a fleet are spread evenly, and looking often does not
// move them (bug: jitter drawn per tick).
func TestRenewalsAreSpread(t *testing.T) {
	const clients = 10_000
	hours := map[int]int{}
	for i := range clients {
		in := input(t0)
		in.Cluster.Name = fmt.Sprintf("edge-%05d", i)
		in.Credentials, in.Agent.Requests = nil, map[fleet.ClientKey]fleet.Request{kms: {Generation: 1}}
		c := Evaluate(in).Issue[0].Command.Clients[0]
		hours[int(c.RenewAt.Sub(t0)/(6*time.Hour))]++
		if again := Evaluate(in).Issue[0].Command.Clients[0]; !again.RenewAt.Equal(c.RenewAt) {
			t.Fatal("a second look draws another moment")
		}
	}
	first, last := int(days(45)/(6*time.Hour)), int(days(54.9)/(6*time.Hour))-1
	mean := float64(clients) / (days(9.9).Hours() / 6)
	for hour, n := range hours {
		if hour < first || hour > last+1 {
			t.Errorf("%d renewals in bucket %d, outside of the interval", n, hour)
		}
		if ratio := float64(n) / mean; ratio > 1.5 {
			t.Errorf("bucket %d has %.2f times the mean", hour, ratio)
		}
	}
	in := input(t0.Add(days(45)))
	for ; in.Now.Before(in.newest().RenewAt); in.Now = in.Now.Add(time.Hour) {
		if got := asks(Evaluate(in)); got != "" {
			t.Fatalf("%s: %s: before the stored moment", in.Now, got)
		}
	}
}

func TestToldIsStoredAsItIs(t *testing.T) {
	in := input(t0.Add(days(80)))
	in.Releases = releases
	in.Cluster.Release = "r1"
	told := Evaluate(in).Told
	raw, err := json.Marshal(told)
	if err != nil {
		t.Fatal(err)
	}
	var back Told
	if err := json.Unmarshal(raw, &back); err != nil || !back.Equal(told) {
		t.Errorf("%s comes back as %+v, %v", raw, back, err)
	}
	if back.Equal(Told{}) {
		t.Error("equal to nothing")
	}
}

func BenchmarkEvaluate(b *testing.B) {
	in := input(t0.Add(days(10)))
	in.Releases = releases
	for b.Loop() {
		Evaluate(in)
	}
}
