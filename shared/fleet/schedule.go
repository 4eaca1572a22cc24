package fleet

import (
	"fmt"
	"time"
)

// AuthorityPolicy is what a fleet may set about its CA. A zero field means that
// the default holds.
type AuthorityPolicy struct {
	Life  Duration `json:"life,omitempty" doc:"life of a CA certificate"`
	Slack Duration `json:"slack,omitempty" doc:"how long before the last moment at which leaves are not cut a new CA shall sign"`
	Mode  Mode     `json:"mode,omitempty" enum:"automatic,manual" doc:"whether the CA is rotated by itself"`
	Soak  Duration `json:"soak,omitempty" doc:"how long nobody has used the old CA before it is trusted no more: connections that were opened with it live on until then"`
}

// MinAuthorityLife is the least life of a CA: what holds for leaves has to fit
// into it several times.
const MinAuthorityLife = 4 * time.Hour

// Over returns p with the fields that it does not set taken from base.
func (p AuthorityPolicy) Over(base AuthorityPolicy) AuthorityPolicy {
	if p.Life == 0 {
		p.Life = base.Life
	}
	if p.Slack == 0 {
		p.Slack = base.Slack
	}
	if p.Mode == "" {
		p.Mode = base.Mode
	}
	if p.Soak == 0 {
		p.Soak = base.Soak
	}
	return p
}

// DefaultAuthorityPolicy returns what holds where nobody set another: a CA of 365
// days with 15 days of slack beside leaves of 90 must be replaced by day 260.
func DefaultAuthorityPolicy() AuthorityPolicy {
	return AuthorityPolicy{Life: Duration(AuthorityLife), Slack: Duration(15 * Day), Mode: ModeAutomatic, Soak: Duration(5 * time.Second)}
}

// Validate checks a policy whose fields are all set.
func (p AuthorityPolicy) Validate() error {
	switch {
	case p.Life.Std() < MinAuthorityLife || p.Life.Std() > 10*AuthorityLife:
		return fmt.Errorf("%w: authority: life %s: use %s to %s", ErrInvalid, p.Life, Duration(MinAuthorityLife), Duration(10*AuthorityLife))
	case p.Slack < 0 || p.Slack.Std() > p.Life.Std()/4:
		return fmt.Errorf("%w: authority: slack %s: use at most a quarter of the life, %s", ErrInvalid, p.Slack, p.Life/4)
	case p.Soak < 0 || p.Soak.Std() > p.Life.Std()/12:
		return fmt.Errorf("%w: authority: soak %s: use at most a twelfth of the life, %s", ErrInvalid, p.Soak, p.Life/12)
	case p.Mode != ModeAutomatic && p.Mode != ModeManual:
		return fmt.Errorf("%w: authority: mode %q: use automatic or manual", ErrInvalid, p.Mode)
	}
	return nil
}

// AuthorityDates are the moments of a CA's life. They all follow from ActiveBy:
// the last moment at which another CA has to sign, so that no leaf is cut, less
// the slack. With the default lives that is day 260 of 365.
type AuthorityDates struct {
	Start    time.Time `json:"start" doc:"when a rotation begins by itself: day 182 of 365"`
	Warning  time.Time `json:"warning" doc:"when it is late: day 230"`
	Critical time.Time `json:"critical" doc:"when it is very late: day 255"`
	ActiveBy time.Time `json:"activeBy" doc:"when the next CA should sign at the latest: day 260"`
	CutsFrom time.Time `json:"cutsFrom" doc:"from when on new leaves outlive the CA and are cut: day 275"`
	End      time.Time `json:"end" doc:"when it expires"`
}

// DatesOf returns the dates of a CA, where leaf is the longest life of a leaf.
// Where a leaf lives nearly as long as the CA, no date can be kept, and a CA that
// is as young as that would be rotated again and again: then it begins at half of
// the life, and nothing is late.
func DatesOf(ca *CA, leaf, slack time.Duration) AuthorityDates {
	begin := ca.PreparedAt()
	life := ca.NotAfter.Sub(begin)
	cuts := max(life-leaf, 0)
	by := max(cuts-slack, 0)
	if by < life/8 {
		half := begin.Add(life / 2).UTC().Truncate(time.Second)
		return AuthorityDates{Start: half, Warning: half, Critical: half, ActiveBy: half, CutsFrom: begin.Add(cuts), End: ca.NotAfter}
	}
	at := func(part float64) time.Time {
		return begin.Add(time.Duration(part * float64(by))).UTC().Truncate(time.Second)
	}
	return AuthorityDates{
		Start: at(startPart), Warning: at(warningPart), Critical: at(criticalPart), ActiveBy: at(1),
		CutsFrom: begin.Add(cuts), End: ca.NotAfter,
	}
}

// Keepable reports whether a rotation in time keeps leaves from being cut.
func (d AuthorityDates) Keepable() bool { return d.Warning.After(d.Start) }

// JWKSLifetime is how long a verifier may keep a copy of the public token keys,
// and of the trust bundle: the max-age of their HTTP responses (RFC 9111, 5.2.2.1).
const JWKSLifetime = 5 * time.Minute

// The parts of the time until ActiveBy: day 182, 230 and 255 of 260.
const (
	startPart    = 182.0 / 260
	warningPart  = 230.0 / 260
	criticalPart = 255.0 / 260
)
