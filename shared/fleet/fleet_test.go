package fleet

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

var day0 = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func TestParseDuration(t *testing.T) {
	for _, test := range []struct {
		text string
		want time.Duration
	}{
		{"90d", 90 * Day},
		{"1d12h", 36 * time.Hour},
		{"36h", 36 * time.Hour},
		{"5m", 5 * time.Minute},
		{"0d", 0},
	} {
		got, err := ParseDuration(test.text)
		if err != nil || got.Std() != test.want {
			t.Errorf("ParseDuration(%q) = %v, %v, want %v", test.text, got, err, test.want)
		}
	}
	for _, text := range []string{"", "d", "90", "-1d", "1.5d", "90 d", "-5m", "99999999d", "1d-2h", "ninety"} {
		if got, err := ParseDuration(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseDuration(%q) = %v, %v, want ErrInvalid", text, got, err)
		}
	}
}

func FuzzParseDuration(f *testing.F) {
	for _, seed := range []string{"90d", "1d12h", "36h", "d", "-1d", "9999999999999h"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseDuration(text)
		if err != nil {
			return
		}
		if d < 0 {
			t.Fatalf("%q gave the negative duration %v", text, d)
		}
		again, err := ParseDuration(d.String())
		if err != nil || again != d {
			t.Fatalf("%q: String gave %q, which parses as %v, %v", text, d, again, err)
		}
	})
}

func TestParseShare(t *testing.T) {
	for text, want := range map[string]Share{"61%": 0.61, "0.61": 0.61, "100 %": 1, "0": 0} {
		if got, err := ParseShare(text); err != nil || got != want {
			t.Errorf("ParseShare(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "%", "101%", "-1%", "2", "NaN", "half"} {
		if got, err := ParseShare(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseShare(%q) = %v, %v, want ErrInvalid", text, got, err)
		}
	}
	if got := Share(1.0 / 12).String(); got != "8.33%" {
		t.Errorf("1/12 prints as %s", got)
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"hq", "edge-01", "a", strings.Repeat("a", 63)} {
		if err := CheckName("cluster", name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "Edge", "edge_1", "-a", "a-", "a.b", "a/b", "a*", "_fleet", "ä", strings.Repeat("a", 64), "a\n"} {
		if err := CheckName("cluster", name); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v, want ErrInvalid", name, err)
		}
	}
}

// The default clients are those of AKS on Azure Stack HCI: eight kinds on a
// management cluster, with a node-agent per host, and four on a workload.
func TestDefaultClients(t *testing.T) {
	for want, c := range map[string]Cluster{
		"node-agent/host-2 node-agent/host-1 kms kva cloud-operator caph cert-manager csi cloud-provider": {Name: "hq", Kind: Management, Hosts: []string{"host-2", "host-1"}},
		"kms cert-manager csi cloud-provider": {Name: "edge", Kind: Workload},
	} {
		var got []string
		for _, key := range c.ClientKeys() {
			got = append(got, key.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("clients of a %s cluster, in the order in which they are rotated:\n got %s\nwant %s", c.Kind, strings.Join(got, " "), want)
		}
	}
	own := Cluster{Name: "edge", Kind: Workload, Clients: []ClientKey{{Kind: "mocctl"}}}
	if got := own.ClientKeys(); !slices.Equal(got, own.Clients) {
		t.Errorf("declared clients are %v", got)
	}
}

func TestClientKeyJSON(t *testing.T) {
	in := map[ClientKey]int{{Kind: "kms"}: 1, {Kind: "node-agent", Instance: "host-3"}: 2}
	raw, err := json.Marshal(in)
	if err != nil || string(raw) != `{"kms":1,"node-agent/host-3":2}` {
		t.Fatalf("%s, %v", raw, err)
	}
	var out map[ClientKey]int
	if err := json.Unmarshal(raw, &out); err != nil || out[ClientKey{"node-agent", "host-3"}] != 2 {
		t.Fatalf("%v, %v", out, err)
	}
	if err := json.Unmarshal([]byte(`{"../etc":1}`), &out); err == nil {
		t.Fatal("a path was accepted as a client")
	}
}

// Life of 90 days issued on day 0: states by day, for both credentials.
func TestStateOf(t *testing.T) {
	generation := func(certDays, tokenDays int) Generation {
		return Generation{
			Number: 1, Step: StepProven, At: day0, RenewAt: day0.Add(50 * Day),
			Certificate: Certificate{NotBefore: day0.Add(-Backdate), NotAfter: day0.Add(time.Duration(certDays) * Day)},
			Token:       Token{NotBefore: day0.Add(-Backdate), ExpiresAt: day0.Add(time.Duration(tokenDays) * Day)},
		}
	}
	at := func(d time.Duration) time.Time { return day0.Add(d) }
	for _, test := range []struct {
		name        string
		cert, token int
		now         time.Time
		want        State
	}{
		{"fresh", 90, 90, at(0), StateHealthy},
		{"a second before renewal", 90, 90, at(50*Day - time.Second), StateHealthy},
		{"at the renewal moment", 90, 90, at(50 * Day), StateDue},
		{"F2, F7: token expired, certificate valid", 90, 60, at(60 * Day), StateDegraded},
		{"the last moment of the token", 90, 60, at(60*Day - time.Nanosecond), StateDue},
		{"certificate expired, token valid", 60, 90, at(60*Day + time.Nanosecond), StateRecoverable},
		{"the certificate's last moment counts", 60, 60, at(60 * Day), StateDegraded},
		{"both expired", 60, 60, at(61 * Day), StateLockedOut},
		{"before its beginning", 90, 90, at(-time.Hour), StateLockedOut},
	} {
		record := &Record{Generations: []Generation{generation(test.cert, test.token)}}
		if got := StateOf(record, test.now); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
	revoked := &Record{Generations: []Generation{generation(90, 90)}, Revoked: &Revocation{At: day0}}
	if got := StateOf(revoked, day0); got != StateRevoked {
		t.Errorf("revoked: %s", got)
	}
	if got := StateOf(nil, day0); got != StatePending {
		t.Errorf("no record: %s", got)
	}
}

// F3, F18: what is only issued changes nothing for the client.
func TestF3_IssuedIsNotInUse(t *testing.T) {
	old := Generation{
		Number: 1, Step: StepProven, At: day0, RenewAt: day0.Add(50 * Day),
		Certificate: Certificate{NotBefore: day0, NotAfter: day0.Add(90 * Day)},
		Token:       Token{NotBefore: day0, ExpiresAt: day0.Add(90 * Day)},
	}
	next := old
	next.Number, next.Step = 2, StepDelivered
	record := &Record{Generations: []Generation{old, next}}
	if got := record.InUse().Number; got != 1 {
		t.Errorf("in use is generation %d, want 1", got)
	}
	record.Generations[1].Step = StepInstalled
	if got := record.InUse().Number; got != 2 {
		t.Errorf("in use is generation %d, want 2", got)
	}
	first := &Record{Generations: []Generation{{Number: 1, Step: StepIssued}}}
	if got := StateOf(first, day0); got != StatePending {
		t.Errorf("F15: a client that has only been issued to is %s, want pending", got)
	}
	unseen := &Record{Generations: []Generation{old}}
	unseen.Generations[0].Step = StepInstalled
	if got := StateOf(unseen, day0); got != StatePending {
		t.Errorf("F15, F18: a client that nobody has seen work is %s, want pending", got)
	}
}

func TestSteps(t *testing.T) {
	for i, a := range stepOrder {
		for j, b := range stepOrder {
			if got := a.Before(b); got != (i < j) {
				t.Errorf("%s before %s is %v", a, b, got)
			}
		}
	}
}

// Peers redraw their jitter at each check, and the earliest lucky draw wins.
// Ours depends on nothing but the client and the generation.
func TestDrawRenewalOnceAndEven(t *testing.T) {
	p := DefaultPolicy()
	from, to := day0, day0.Add(90*Day)
	perDay := map[int]int{}
	const clients = 20_000
	for i := range clients {
		key := ClientKey{Kind: "node-agent", Instance: "host-" + string(rune('a'+i%26))}
		cluster := "edge-" + Duration(i).String()
		moment := DrawRenewal(cluster, key, 1, p, from, to)
		if again := DrawRenewal(cluster, key, 1, p, from, to); !again.Equal(moment) {
			t.Fatalf("drawn twice: %v and %v", moment, again)
		}
		if moment.Before(day0.Add(45*Day-time.Second)) || moment.After(day0.Add(Share(0.61).Of(90*Day))) {
			t.Fatalf("drawn outside of the interval: %v", moment)
		}
		perDay[int(moment.Sub(day0)/(Day/4))]++
	}
	mean := float64(clients) / (0.11 * 90 * 4)
	for at, n := range perDay {
		if ratio := float64(n) / mean; ratio > 1.5 {
			t.Errorf("quarter day %d has %.2f times the mean load", at, ratio)
		}
	}
	key := ClientKey{Kind: "kms"}
	if DrawRenewal("edge", key, 1, p, from, to).Equal(DrawRenewal("edge", key, 2, p, from, to)) {
		t.Error("two generations share their draw")
	}
}

func TestWindowOf(t *testing.T) {
	releases := []Release{
		{Version: "2026.03", PublishedAt: day0.Add(30 * Day)}, // not in order on purpose
		{Version: "2026.01", PublishedAt: day0},
		{Version: "2026.02", PublishedAt: day0.Add(15 * Day)},
	}
	p := DefaultPolicy()
	for _, test := range []struct {
		name    string
		release string
		now     time.Duration
		state   WindowState
		missed  int
		left    int
	}{
		{"newest", "2026.03", 300 * Day, WindowCurrent, 0, 0},
		{"nothing newer yet", "2026.01", 14 * Day, WindowCurrent, 0, 0},
		{"the moment of publication", "2026.01", 15 * Day, WindowDue, 1, 60},
		{"the first missed release counts", "2026.01", 31 * Day, WindowDue, 2, 44},
		{"a second before the deadline", "2026.01", 75*Day - time.Second, WindowDue, 2, 0},
		{"at the deadline", "2026.01", 75 * Day, WindowBehind, 2, 0},
		{"a second past it", "2026.01", 75*Day + time.Second, WindowBehind, 2, 0},
		{"fifteen days and a bit past", "2026.01", 90*Day + time.Hour, WindowBehind, 2, -15},
		{"fifteen days past", "2026.01", 90 * Day, WindowBehind, 2, -15},
	} {
		w := WindowOf(&Cluster{Release: test.release}, releases, p, day0.Add(test.now))
		if w.State != test.state || len(w.Missed) != test.missed {
			t.Errorf("%s: %s, missed %v; want %s, %d", test.name, w.State, w.Missed, test.state, test.missed)
		}
		if w.State == WindowCurrent != (w.DaysLeft == nil) {
			t.Errorf("%s: days left %v", test.name, w.DaysLeft)
		}
		if w.DaysLeft != nil && *w.DaysLeft != test.left {
			t.Errorf("%s: %d days left, want %d", test.name, *w.DaysLeft, test.left)
		}
	}
}

func TestMaintenance(t *testing.T) {
	night := Maintenance{Cron: "0 2 * * 6", Duration: Duration(4 * time.Hour), Zone: "Europe/Berlin"}
	if err := night.Validate(); err != nil {
		t.Fatal(err)
	}
	// Saturday 2026-03-07, 02:00 in Berlin is 01:00 UTC.
	open := time.Date(2026, 3, 7, 1, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		now  time.Time
		want bool
	}{
		{open.Add(-time.Second), false},
		{open, true},
		{open.Add(4*time.Hour - time.Second), true},
		{open.Add(4 * time.Hour), false},
		{open.AddDate(0, 0, 1), false},
	} {
		if got := night.Open(test.now); got != test.want {
			t.Errorf("open at %v: %v, want %v", test.now, got, test.want)
		}
	}
	if got := night.Next(open); !got.Equal(open.AddDate(0, 0, 7)) {
		t.Errorf("next after %v is %v", open, got)
	}
	// 2026-03-28 is the Saturday before the clocks go forward, 04-04 the one after.
	if got := night.Next(time.Date(2026, 3, 29, 0, 0, 0, 0, time.UTC)); !got.Equal(time.Date(2026, 4, 4, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("in summer the window opens at %v", got)
	}
	for _, bad := range []Maintenance{
		{Cron: "every night", Duration: Duration(time.Hour)},
		{Cron: "0 2 * * 6"},
		{Cron: "0 2 * * 6", Duration: Duration(time.Hour), Zone: "Mars/Olympus"},
		{Cron: "61 2 * * 6", Duration: Duration(time.Hour)},
	} {
		if err := bad.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v, want ErrInvalid", bad, err)
		}
	}
	if ok, next := MayRenew([]Maintenance{night}, open.Add(-time.Hour)); ok || !next.Equal(open) {
		t.Errorf("MayRenew before the window: %v, %v", ok, next)
	}
	if ok, _ := MayRenew(nil, open); !ok {
		t.Error("no windows must mean always")
	}
}

func TestPolicy(t *testing.T) {
	if err := DefaultPolicy().Validate(); err != nil {
		t.Fatal(err)
	}
	settings := Settings{Policy: Policy{TokenLife: Duration(30 * Day), CertificateLife: Duration(60 * Day)}}
	cluster := &Cluster{Policy: Policy{TokenLife: Duration(10 * Day)}}
	p := PolicyOf(settings, cluster)
	if p.TokenLife != Duration(10*Day) || p.CertificateLife != Duration(60*Day) || p.UpdateWindow != Duration(60*Day) {
		t.Errorf("cluster over fleet over default gave %+v", p)
	}
	for name, change := range map[string]func(*Policy){
		"mode":            func(p *Policy) { p.Mode = "sometimes" },
		"life too short":  func(p *Policy) { p.TokenLife = Duration(time.Minute) },
		"life beyond CA":  func(p *Policy) { p.CertificateLife = Duration(366 * Day) },
		"renewal swapped": func(p *Policy) { p.RenewFrom, p.RenewTo = 0.6, 0.5 },
		"renewal late":    func(p *Policy) { p.RenewTo = 0.9 },
		"order of levels": func(p *Policy) { p.Critical = 0.3 },
		"notice":          func(p *Policy) { p.WindowNotice = Duration(61 * Day) },
		"recovery":        func(p *Policy) { p.Recovery = "never" },
		"no limit":        func(p *Policy) { p.RecoveryLimit = 0 },
		"long permit":     func(p *Policy) { p.RecoveryTokenLife = Duration(2 * Day) },
	} {
		p := DefaultPolicy()
		change(&p)
		if err := p.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

func TestClusterValidate(t *testing.T) {
	good := Cluster{Name: "edge-01", Kind: Workload, Parent: "hq"}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]Cluster{
		"name":              {Name: "Edge", Kind: Workload},
		"kind":              {Name: "edge", Kind: "edge"},
		"management parent": {Name: "hq", Kind: Management, Parent: "x", Hosts: []string{"a"}},
		"no hosts":          {Name: "hq", Kind: Management},
		"workload hosts":    {Name: "edge", Kind: Workload, Hosts: []string{"a"}},
		"host twice":        {Name: "hq", Kind: Management, Hosts: []string{"a", "a"}},
		"client twice":      {Name: "edge", Kind: Workload, Clients: []ClientKey{{Kind: "kms"}, {Kind: "kms"}}},
		"client name":       {Name: "edge", Kind: Workload, Clients: []ClientKey{{Kind: "../x"}}},
		"maintenance":       {Name: "edge", Kind: Workload, Maintenance: []Maintenance{{Cron: "x"}}},
	} {
		if err := bad.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

// Tokens issued before an operator renamed the issuer are still ours.
func TestRenamedIssuer(t *testing.T) {
	var a Authority
	a.Rename("http://a", []string{"rotor"})
	a.Rename("http://b", []string{"rotor", "kube"})
	a.Rename("http://a", []string{"kube"})
	for _, test := range []struct {
		issuer string
		aud    []string
		want   bool
	}{
		{"http://a", []string{"kube"}, true},
		{"http://b", []string{"rotor"}, true},
		{"http://c", []string{"rotor"}, false},
		{"http://a", []string{"other"}, false},
		{"http://a", nil, false},
		{"", []string{"kube"}, false},
	} {
		if got := a.Issued(test.issuer, test.aud); got != test.want {
			t.Errorf("iss %q aud %q: %v, want %v", test.issuer, test.aud, got, test.want)
		}
	}
	if len(a.Former.Issuers) != 2 || len(a.Former.Audience) != 1 {
		t.Errorf("former names are %+v", a.Former)
	}
}
