package fleetfile

import (
	_ "embed"
	"slices"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

//go:embed sample.yaml
var sample string

// The ages of the sample's releases, in days: edge-03 runs the first, has
// missed the second for more than the 60 days of the update window, and so is
// behind from the first minute.
var sampleAges = [3]int{105, 75, 45}

// Sample returns a commented fleet file whose dates are set relative to now.
func Sample(now time.Time) []byte {
	today := now.UTC().Truncate(fleet.Day)
	ago := func(days int) time.Time { return today.Add(-time.Duration(days) * fleet.Day) }
	date := func(t time.Time) string { return t.Format(time.DateOnly) }
	var versions []string
	for _, age := range sampleAges {
		version := ago(age).Format("2006.01")
		// Thirty days apart, two releases may fall in one month of 31.
		if slices.Contains(versions, version) {
			version += ".2"
		}
		versions = append(versions, version)
	}
	return []byte(strings.NewReplacer(
		"{{v1}}", versions[0], "{{v2}}", versions[1], "{{v3}}", versions[2],
		"{{p1}}", date(ago(sampleAges[0])), "{{p2}}", date(ago(sampleAges[1])), "{{p3}}", date(ago(sampleAges[2])),
		"{{u-hq}}", date(ago(42)), "{{u-edge-01}}", date(ago(41)), "{{u-edge-02}}", date(ago(40)), "{{u-edge-03}}", date(ago(101)),
	).Replace(sample))
}
