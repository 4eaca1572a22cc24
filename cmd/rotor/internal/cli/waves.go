package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// waveName is how a wave is called.
func waveName(w *fleet.Waves, wave int) string {
	if w.Canary(wave) {
		return "canary"
	}
	return fmt.Sprintf("wave %d", wave)
}

// waveText says in a table which wave is under way.
func waveText(r fleet.Rotation) string {
	if r.Waves == nil || r.Wave == 0 {
		return "-"
	}
	return fmt.Sprintf("%d of %d", r.Wave, len(r.Waves.Sizes))
}

// wavesText says how far the waves have come, in clusters: those that have not
// begun but the next are left out.
func wavesText(v api.RotationView) string {
	var parts []string
	for _, p := range v.Progress {
		if p.Wave > max(v.Wave, 1) {
			break
		}
		text := fmt.Sprintf("%s %d/%d", waveName(v.Waves, p.Wave), p.Ended, p.Clusters)
		if p.Failed > 0 {
			text += fmt.Sprintf(" (%s failed)", plural(p.Failed, "client"))
		}
		if p.Held > 0 {
			text += fmt.Sprintf(" (%d wait for their window)", p.Held)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

// printPlan says how a rotation would go in waves.
func printPlan(w io.Writer, v api.RotationView) error {
	if v.Waves == nil {
		return nil
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	for i := range v.Waves.Sizes {
		from, to := v.Waves.Range(i + 1)
		if _, err := fmt.Fprintf(w, "%s: %s\n", waveName(v.Waves, i+1), names(v.Clusters[min(from, len(v.Clusters)):min(to, len(v.Clusters))])); err != nil {
			return err
		}
	}
	windows := "each waits for its maintenance window"
	if v.Waves.IgnoreMaintenance {
		windows = "maintenance windows are ignored"
	}
	_, err := fmt.Fprintf(w, "%s at once at most; %s; halts when a client of the canary fails, later above %s of failed clients\n",
		plural(v.Waves.MaxParallel, "cluster"), windows, v.Waves.MaxFailures)
	return err
}

// printWaves says how far the waves have come, and whom an operator left out.
func printWaves(w io.Writer, v api.RotationView) error {
	var lines []string
	if len(v.Progress) > 0 {
		lines = append(lines, wavesText(v))
	}
	for _, cluster := range slices.Sorted(maps.Keys(v.Exclusions)) {
		x := v.Exclusions[cluster]
		lines = append(lines, fmt.Sprintf("%s is left out by %s since %s: %s", cluster, x.By, moment(x.At), x.Reason))
	}
	if len(lines) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "\n%s\n", printableLines(strings.Join(lines, "\n")))
	return err
}

// printRotation shows one rotation as it stands, and what to do about a halt.
func (a *app) printRotation(w io.Writer, v api.RotationView) error {
	if len(v.Results) > 0 {
		if err := a.printResults(w, v); err != nil {
			return err
		}
	}
	if err := printWaves(w, v); err != nil {
		return err
	}
	if len(v.Results) > 0 {
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintf(w, "rotation %s of %s is %s\n", v.ID, names(v.Clusters), summary(v)); err != nil {
		return err
	}
	return printHalt(w, v)
}

func printHalt(w io.Writer, v api.RotationView) error {
	switch {
	case v.Cancel != nil:
		reason := ""
		if v.Cancel.Reason != "" {
			reason = ": " + v.Cancel.Reason
		}
		_, err := fmt.Fprintf(w, "it was ended by %s at %s%s\n", v.Cancel.By, moment(v.Cancel.At), printable(reason))
		return err
	case v.State != fleet.RotationHalted || v.Halt == nil:
		return nil
	}
	exclude := "CLUSTER"
	for _, part := range v.Results {
		if part.State == fleet.RotationFailed {
			exclude = part.Cluster
			break
		}
	}
	_, err := fmt.Fprintf(w, `it was halted at %s: %s
  what has not begun waits; what has begun goes on
  to accept the failures and go on:  rotor rotation resume %[3]s
  to try what failed again:          rotor rotation resume %[3]s --retry
  to leave a cluster out:            rotor rotation exclude %[3]s %[4]s --reason REASON
  to end it:                         rotor rotation cancel %[3]s
`, moment(v.Halt.At), printable(v.Halt.Reason), v.ID, exclude)
	return err
}
