package fleetfile

import (
	"flag"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestSampleGolden(t *testing.T) {
	got := Sample(time.Date(2026, 11, 24, 15, 4, 5, 0, time.UTC))
	const golden = "testdata/sample.golden.yaml"
	if *update {
		if err := os.WriteFile(golden, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("the sample has changed; if meant, run go test -update\n%s", got)
	}
}

// Every day of five years: releases stay distinct where two fall in one month.
func TestSampleParsesOnEveryDay(t *testing.T) {
	start := time.Date(2026, 1, 1, 23, 59, 0, 0, time.UTC)
	for day := range 5 * 366 {
		now := start.Add(time.Duration(day) * fleet.Day)
		f, err := Parse(Sample(now))
		if err != nil {
			t.Fatalf("%s: %v", now, err)
		}
		if err := checkSample(f, now); err != "" {
			t.Fatalf("%s: %s", now, err)
		}
	}
}

func checkSample(f File, now time.Time) string {
	clients := 0
	for i := range f.Clusters {
		c := &f.Clusters[i]
		clients += len(c.ClientKeys())
		w := fleet.WindowOf(c, f.Releases, fleet.PolicyOf(f.Settings, c), now)
		behind := c.Name == "edge-03"
		if (w.State == fleet.WindowBehind) != behind || (w.State == fleet.WindowCurrent) == behind {
			return c.Name + " is " + string(w.State)
		}
		if behind && int(now.Sub(*w.Deadline)/fleet.Day) != 15 {
			return "edge-03 is not behind by 15 days"
		}
		if c.Delivery.Directory != "clusters/"+c.Name {
			return c.Name + " has no folder"
		}
	}
	if clients != 21 || len(f.Releases) != 3 {
		return "want 21 clients and 3 releases"
	}
	return ""
}

var commentedOut = regexp.MustCompile(`(?m)^( *)# (policy:|maintenance:|clients:.*|notify:.*|notifications:|  .*|  *- .*)$`)

// The examples in the comments are right as well.
func TestSampleExamplesParse(t *testing.T) {
	raw := commentedOut.ReplaceAllString(string(Sample(time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC))), "$1$2")
	f, err := Parse([]byte(raw))
	if err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	if len(f.Settings.Routes) != 3 || f.Settings.Policy.Mode != fleet.ModeAutomatic || len(f.Clusters[1].Maintenance) != 1 ||
		f.Clusters[2].Policy.Mode != fleet.ModeOnUpgrade || len(f.Clusters[2].Clients) != 5 || len(f.Clusters[3].Notify) != 1 {
		t.Errorf("an example was not read: %+v", f)
	}
}

func FuzzSample(f *testing.F) {
	f.Add(int64(1_800_000_000))
	f.Fuzz(func(t *testing.T, unix int64) {
		const century = 100 * 365 * 24 * 3600
		now := time.Unix(1_600_000_000+(unix%century+century)%century, 0)
		if _, err := Parse(Sample(now)); err != nil {
			t.Errorf("%s: %v", now, err)
		}
	})
}
