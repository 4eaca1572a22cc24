package agent

import (
	"context"
	"fmt"
	"net/http"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// report adds steps to what is reported next, unless the server was told.
func (j *job) report(steps ...fleet.Step) {
	now := clock.Wall()
	for _, s := range steps {
		n := j.note.report
		known := n.generation == j.work.Generation && !fleet.Step(n.what).Before(s) && now.Sub(n.at) < resend
		if !known {
			j.reports = append(j.reports, api.StepReport{Client: j.work.Client, Generation: j.work.Generation, Step: s})
		}
		j.note.expect(now) // until the record shows it
	}
}

// sendReports tells the server of steps and failures, for all clients at once.
func (a *agent) sendReports(ctx context.Context, jobs []*job) error {
	now := clock.Wall()
	word := a.word()
	report := api.ReportSteps{Bundle: word.version, BundleHash: word.hash, BundleError: word.why, Steps: []api.StepReport{}}
	if word.canary.CA != "" {
		report.Canary = &word.canary
	}
	for _, j := range jobs {
		if j.well() && j.note.failure.generation == j.work.Generation {
			// Of a generation that is proven nobody sees another proof.
			j.reports = append(j.reports, api.StepReport{Client: j.work.Client, Generation: j.work.Generation, Step: fleet.StepProven})
		}
		if text := j.failureText(); text != "" && j.note.failure.again(j.generation(), text, now) {
			j.reports = append(j.reports, api.StepReport{Client: j.work.Client, Generation: j.generation(), Step: j.step, Error: text})
		}
		report.Steps = append(report.Steps, j.reports...)
	}
	report.Refused = a.store.Record().Refused
	if len(report.Steps) == 0 && !a.news(word, now) && report.Refused == nil {
		return a.told(nil)
	}
	// One report, one trace: clients that were issued together have the same.
	ctx = telemetry.Follow(ctx, reported(jobs))
	if err := a.link.Call(ctx, http.MethodPost, api.PathSteps, report, nil); err != nil {
		return fmt.Errorf("report steps: %w", a.heal(ctx, err))
	}
	if err := a.told(report.Refused); err != nil {
		return err
	}
	a.round.word, a.round.wordAt = word, now
	for _, j := range jobs {
		for _, s := range j.reports {
			if s.Error != "" {
				j.note.failure = told{s.Generation, s.Error, now}
				continue
			}
			j.note.report = told{s.Generation, string(s.Step), now}
			if s.Step == fleet.StepProven {
				j.note.failure = told{}
			}
		}
		j.reports = nil
	}
	return nil
}

// well reports whether a job with a generation that is long proven has ended
// well.
func (j *job) well() bool {
	return j.err == nil && j.done && !j.work.Step.Before(fleet.StepProven)
}

// reported returns the trace of the first client that has something to report.
func reported(jobs []*job) string {
	for _, j := range jobs {
		if trace := j.trace(); trace != "" && len(j.reports) > 0 {
			return trace
		}
	}
	return ""
}

// generation returns the generation that a failure is about.
func (j *job) generation() int { return max(j.work.Generation, 1) }

// maxError bounds the text of a failure that is sent to the server.
const maxError = 500

func (j *job) failureText() string {
	if j.err == nil {
		return ""
	}
	return clip(j.err.Error())
}

func clip(text string) string { return text[:min(len(text), maxError)] }
