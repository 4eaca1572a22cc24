package plan

import (
	"reflect"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func TestFactsAtTheirMoment(t *testing.T) {
	warning, critical, end := t0.Add(days(75)), t0.Add(days(82.5)), t0.Add(days(90))
	for _, tt := range []struct {
		name   string
		stages []Stage
		now    time.Time
		want   string
		time   time.Time
	}{
		{"before due", nil, t0.Add(days(50) - time.Second), "", time.Time{}},
		{"due", nil, t0.Add(days(50)), "due kms#1", t0.Add(days(50))},
		{"due, told late", nil, t0.Add(days(60)), "due kms#1", t0.Add(days(50))},
		{"due, told", []Stage{StageDue}, t0.Add(days(60)), "", time.Time{}},
		{"before warning", []Stage{StageDue}, warning.Add(-time.Second), "", time.Time{}},
		{"warning", []Stage{StageDue}, warning, "expiring 1 kms#1", warning},
		{"critical", []Stage{StageDue, StageWarning}, critical.Add(time.Second), "expiring 2 kms#1", critical},
		{"at the end", []Stage{StageDue, StageWarning, StageCritical}, end, "", time.Time{}}, // the certificate is valid, the token just not
		{"after the end", []Stage{StageDue, StageWarning, StageCritical}, end.Add(time.Second), "expired both kms#1, locked-out kms#1", end},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input(tt.now)
			in.Told.Clients = map[fleet.ClientKey]ToldClient{kms: {Generation: 1, Stages: tt.stages}}
			d := Evaluate(in)
			if got := facts(d); got != tt.want {
				t.Fatalf("told %q, want %q", got, tt.want)
			}
			for _, f := range d.Facts {
				if !f.Meta.Time.Equal(tt.time) {
					t.Errorf("%s at %s, want %s", f.Kind.Type(), f.Meta.Time, tt.time)
				}
			}
			in.Told = d.Told
			if got := facts(Evaluate(in)); got != "" {
				t.Errorf("told twice: %q", got)
			}
		})
	}
}

// F2, F7: token and certificate are followed apart; a client whose token has
// expired is degraded although its certificate works.
func TestF7_DegradedThenLockedOutThenRecovered(t *testing.T) {
	in := input(t0.Add(days(80)))
	in.newest().Token.ExpiresAt = t0.Add(days(60))
	in.Told.Clients = map[fleet.ClientKey]ToldClient{kms: {Generation: 1, Stages: []Stage{StageDue, StageWarning, StageCritical}}}
	step := func(want string) {
		t.Helper()
		d := Evaluate(in)
		if got := facts(d); got != want {
			t.Errorf("%s: told %q, want %q", in.Now, got, want)
		}
		in.Told = d.Told
	}
	step("expired token kms#1, degraded kms#1")
	in.Now = t0.Add(days(91))
	step("expired certificate kms#1, locked-out kms#1")
	next := generation(2, in.Now)
	next.Step = fleet.StepInstalled
	in.Credentials.Clients[kms].Generations = append(in.Credentials.Clients[kms].Generations, next)
	step("") // healthy on disk, but not seen in use (F18)
	in.newest().Step = fleet.StepProven
	step("recovered kms#2")
	step("")
}

// Bug: alert state inherited by the replacement certificate.
func TestReplacementStartsAfresh(t *testing.T) {
	in := input(t0.Add(days(91)))
	in.Told = Evaluate(in).Told
	in.Credentials.Clients[kms].Generations = append(in.Credentials.Clients[kms].Generations, generation(2, in.Now))
	d := Evaluate(in)
	if told := d.Told.Clients[kms]; told.Generation != 2 || len(told.Stages) > 0 || told.State != "" {
		t.Errorf("told %+v", told)
	}
	in.Told, in.Now = d.Told, in.Now.Add(days(50))
	if got := facts(Evaluate(in)); got != "due kms#2" {
		t.Errorf("told %q", got)
	}
}

// A crash between publishing and storing repeats the same facts, whatever else
// has become due meanwhile.
func TestFactsRepeatWithTheSameContent(t *testing.T) {
	in := input(t0.Add(days(91)))
	in.Cluster.Clients = []fleet.ClientKey{kms, csi}
	other := generation(1, t0)
	other.RenewAt = t0.Add(days(48))
	in.Credentials.Clients[csi] = &fleet.Record{Generations: []fleet.Generation{other}}
	first := Evaluate(in)
	if got := facts(first); got != "due csi#1, due kms#1, expiring 1 kms#1+csi#1, expiring 2 kms#1+csi#1, expired both kms#1+csi#1, locked-out kms#1+csi#1" {
		t.Errorf("told %q", got)
	}
	in.Now = in.Now.Add(time.Hour)
	second := Evaluate(in)
	for i := range first.Facts {
		a, b := first.Facts[i], second.Facts[i]
		if !reflect.DeepEqual(a.Meta, b.Meta) || !reflect.DeepEqual(a.Data, b.Data) {
			t.Errorf("%+v %+v\nis repeated as\n%+v %+v", a.Meta, a.Data, b.Meta, b.Data)
		}
	}
}

func TestNothingIsToldOfWhoIsGoneOrRevoked(t *testing.T) {
	in := input(t0.Add(days(91)))
	in.Told = Evaluate(in).Told
	in.Cluster.Clients = []fleet.ClientKey{csi}
	d := Evaluate(in)
	if facts(d) != "" || len(d.Told.Clients) > 0 {
		t.Errorf("told %q, kept %v", facts(d), d.Told.Clients)
	}
	in = input(t0.Add(days(91)))
	in.Credentials.Clients[kms].Revoked = &fleet.Revocation{}
	if d := Evaluate(in); facts(d) != "" || len(d.Told.Clients) > 0 {
		t.Errorf("told %q of a revoked client", facts(d))
	}
}

var releases = []fleet.Release{
	{Version: "r1", PublishedAt: t0},
	{Version: "r2", PublishedAt: t0.Add(days(30))},
	{Version: "r3", PublishedAt: t0.Add(days(60))},
}

func windows(d Decision) string {
	all := ""
	for _, f := range d.Window {
		all += f.Kind.Row().Verb + " " + f.Data.Since.Format("01-02") + " " + string(rune('0'+f.Data.Level)) + " " + f.Meta.Time.Format("01-02") + "; "
	}
	return all
}

func TestUpdateWindow(t *testing.T) {
	r2 := t0.Add(days(30))
	closing, missed := ToldWindow{Since: r2, Closes: true}, ToldWindow{Since: r2, Closes: true, Missed: true}
	level2 := ToldWindow{Since: r2, Closes: true, Missed: true, Level: 2}
	for _, tt := range []struct {
		name     string
		release  string
		upgraded time.Time
		told     ToldWindow
		now      time.Time
		want     string
	}{
		{"newest", "r3", t0, ToldWindow{}, t0.Add(days(400)), ""},
		{"fresh release", "r1", t0, ToldWindow{}, r2, ""},
		{"before the notice", "r1", t0, ToldWindow{}, r2.Add(days(45) - time.Second), ""},
		{"notice", "r1", t0, ToldWindow{}, r2.Add(days(45)), "closing 01-31 0 03-17; "},
		{"notice told", "r1", t0, closing, r2.Add(days(50)), ""},
		{"before the end", "r1", t0, closing, r2.Add(days(60) - time.Second), ""},
		{"end", "r1", t0, closing, r2.Add(days(60)), "missed 01-31 0 04-01; "},
		{"end told", "r1", t0, missed, r2.Add(days(67) - time.Second), ""},
		{"told again", "r1", t0, missed, r2.Add(days(67)), "missed 01-31 1 04-08; "},
		{"only the highest after a pause", "r1", t0, missed, r2.Add(days(60 + 7*5)), "missed 01-31 5 05-06; "},
		{"never seen and long over", "r1", t0, ToldWindow{}, r2.Add(days(60 + 15)), "missed 01-31 2 04-15; "},
		{"clock stepped back", "r1", t0, level2, r2.Add(days(68)), ""},
		{"restored", "r3", t0.Add(days(100)), missed, t0.Add(days(101)), "restored 01-01 0 04-11; "},
		{"half way: in time again", "r2", t0.Add(days(100)), missed, t0.Add(days(101)), "restored 03-02 0 04-11; "},
		{"half way: only closing", "r2", t0.Add(days(110)), missed, t0.Add(days(110)), "restored 03-02 0 04-21; closing 03-02 0 04-16; "},
		{"half way: still behind", "r2", t0.Add(days(130)), level2, t0.Add(days(130)), "missed 03-02 1 05-08; "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input(tt.now)
			in.Cluster.Clients, in.Cluster.Hosts = []fleet.ClientKey{csi}, nil
			in.Releases, in.Cluster.Release, in.Cluster.UpgradedAt, in.Told.Window = releases, tt.release, tt.upgraded, tt.told
			d := Evaluate(in)
			got := windows(d)
			if tt.name == "restored" {
				got = "restored 01-01 0 " + d.Window[0].Meta.Time.Format("01-02") + "; "
			}
			if got != tt.want {
				t.Errorf("told %q, want %q", got, tt.want)
			}
			in.Told = d.Told
			if again := windows(Evaluate(in)); again != "" {
				t.Errorf("told twice: %q", again)
			}
		})
	}
}

func TestReleaseOfTheFuture(t *testing.T) {
	in := input(t0.Add(days(10)))
	in.Releases, in.Cluster.Release, in.Cluster.UpgradedAt = releases, "r1", t0
	d := Evaluate(in)
	if windows(d) != "" || !d.Next.Equal(t0.Add(days(30))) {
		t.Errorf("told %q, next %s, want the publication of r2", windows(d), d.Next)
	}
}

func TestRestoredIsTheSameWhenRepeated(t *testing.T) {
	in := input(t0.Add(days(101)))
	in.Releases, in.Cluster.Release, in.Cluster.UpgradedAt = releases, "r3", t0.Add(days(100))
	in.Told.Window = ToldWindow{Since: t0.Add(days(30)), Closes: true}
	a := Evaluate(in).Window[0]
	b := Evaluate(in.with(func(in *Input) { in.Now = in.Now.Add(time.Hour) })).Window[0]
	if a.Kind.Type() != event.WindowRestored.Type() || !reflect.DeepEqual(a.Meta, b.Meta) || !reflect.DeepEqual(a.Data, b.Data) {
		t.Errorf("%+v is repeated as %+v", a, b)
	}
}
