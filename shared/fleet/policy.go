package fleet

import (
	"fmt"
	"time"
)

// Mode says what may start the renewal of a cluster's credentials.
type Mode string

// The modes. In each of them an operator may rotate at any time, and the last
// resort (Policy.LastResort) renews rather than lets a client lock itself out.
const (
	ModeAutomatic Mode = "automatic"  // by schedule, ahead of expiry
	ModeOnUpgrade Mode = "on-upgrade" // by an upgrade of the cluster only, as in the monthly way of AKS on Azure Stack HCI
	ModeManual    Mode = "manual"     // by an operator only
)

// RecoveryMode says who lets a client come back whose certificate and token have
// both expired.
type RecoveryMode string

// The modes of recovery. A client that is degraded or recoverable still proves
// itself with what has not expired, and needs nobody in either.
const (
	RecoveryAutomatic RecoveryMode = "automatic" // its agent, by its enrolment key, up to Policy.RecoveryLimit
	RecoveryOperator  RecoveryMode = "operator"  // an operator only
)

// Policy holds what may be set per fleet and per cluster. A zero field means
// "not set here": the cluster's value wins over the fleet's, which wins over
// the default.
type Policy struct {
	Mode             Mode     `json:"mode,omitempty" enum:"automatic,on-upgrade,manual" doc:"what may start a renewal"`
	TokenLife        Duration `json:"tokenLife,omitempty" doc:"life of a token"`
	CertificateLife  Duration `json:"certificateLife,omitempty" doc:"life of a client certificate"`
	RenewFrom        Share    `json:"renewFrom,omitempty" doc:"start of the renewal interval, as a share of the life"`
	RenewTo          Share    `json:"renewTo,omitempty" doc:"end of the renewal interval"`
	Warning          Share    `json:"warning,omitempty" doc:"share of the life left at which a warning is due"`
	Critical         Share    `json:"critical,omitempty" doc:"share of the life left at which the warning becomes critical"`
	Emergency        Share    `json:"emergency,omitempty" doc:"share of the life left at which maintenance windows are ignored"`
	LastResort       Share    `json:"lastResort,omitempty" doc:"share of the life left at which the mode is ignored as well"`
	UpdateWindow     Duration `json:"updateWindow,omitempty" doc:"time to install a release"`
	WindowNotice     Duration `json:"windowNotice,omitempty" doc:"age of a missed release at which a notice is due"`
	WindowEscalation Duration `json:"windowEscalation,omitempty" doc:"how often a missed window is told again"`
	ClockSkew        Duration `json:"clockSkew,omitempty" doc:"allowed difference between two clocks"`

	AgentSilence      Duration     `json:"agentSilence,omitempty" doc:"how long an agent may be silent before that is told"`
	Recovery          RecoveryMode `json:"recovery,omitempty" enum:"automatic,operator" doc:"who lets a client come back that is locked out"`
	RecoveryLimit     Duration     `json:"recoveryLimit,omitempty" doc:"how long after it was locked out a client comes back by itself"`
	RecoveryTokenLife Duration     `json:"recoveryTokenLife,omitempty" doc:"how long an operator's word that a client may come back holds, with or without a token; on the machine's time"`
}

// AuthorityLife is the life of a CA certificate: "365 d: validity of the cloud
// agent CA certificate" in the documents of AKS on Azure Stack HCI.
const AuthorityLife = 365 * Day

// Backdate is how long before its issue a credential begins to be valid, so
// that a verifier whose clock is slow accepts it.
const Backdate = 5 * time.Minute

// DefaultPolicy returns the values that hold where nobody set another.
//
// Renewal is drawn from day 45 to 55 of 90: an outage of 30 days that starts at
// the latest moment still ends before the expiry. An agent calls every minute:
// one that was silent for three days has missed more than a weekend, and a month
// is left until anything of its cluster expires.
func DefaultPolicy() Policy {
	return Policy{
		Mode:             ModeAutomatic,
		TokenLife:        Duration(90 * Day),
		CertificateLife:  Duration(90 * Day),
		RenewFrom:        0.50,
		RenewTo:          0.61,
		Warning:          1.0 / 6,
		Critical:         1.0 / 12,
		Emergency:        0.05,
		LastResort:       0.02,
		UpdateWindow:     Duration(60 * Day),
		WindowNotice:     Duration(45 * Day),
		WindowEscalation: Duration(7 * Day),
		ClockSkew:        Duration(5 * time.Minute),

		AgentSilence:      Duration(3 * Day),
		Recovery:          RecoveryAutomatic,
		RecoveryLimit:     Duration(400 * Day),
		RecoveryTokenLife: Duration(time.Hour),
	}
}

// Over returns p with every field that is not set taken from base.
func (p Policy) Over(base Policy) Policy {
	return Policy{
		Mode:             first(p.Mode, base.Mode),
		TokenLife:        first(p.TokenLife, base.TokenLife),
		CertificateLife:  first(p.CertificateLife, base.CertificateLife),
		RenewFrom:        first(p.RenewFrom, base.RenewFrom),
		RenewTo:          first(p.RenewTo, base.RenewTo),
		Warning:          first(p.Warning, base.Warning),
		Critical:         first(p.Critical, base.Critical),
		Emergency:        first(p.Emergency, base.Emergency),
		LastResort:       first(p.LastResort, base.LastResort),
		UpdateWindow:     first(p.UpdateWindow, base.UpdateWindow),
		WindowNotice:     first(p.WindowNotice, base.WindowNotice),
		WindowEscalation: first(p.WindowEscalation, base.WindowEscalation),
		ClockSkew:        first(p.ClockSkew, base.ClockSkew),

		AgentSilence:      first(p.AgentSilence, base.AgentSilence),
		Recovery:          first(p.Recovery, base.Recovery),
		RecoveryLimit:     first(p.RecoveryLimit, base.RecoveryLimit),
		RecoveryTokenLife: first(p.RecoveryTokenLife, base.RecoveryTokenLife),
	}
}

// LongestLife returns how long a certificate or a token lives at most.
func (p Policy) LongestLife() time.Duration { return max(p.CertificateLife, p.TokenLife).Std() }

func first[T comparable](own, base T) T {
	var unset T
	if own != unset {
		return own
	}
	return base
}

// MinLife is the shortest life a credential may have: below it the shares of a
// life become shorter than the back-dating and the skew that is allowed.
const MinLife = time.Hour

// Validate checks a complete policy, that is one laid over the default.
func (p Policy) Validate() error {
	check := func(ok bool, format string, args ...any) error {
		if ok {
			return nil
		}
		return fmt.Errorf("%w: policy: "+format, append([]any{ErrInvalid}, args...)...)
	}
	lifeOK := func(d Duration) bool { return d.Std() >= MinLife && d.Std() <= AuthorityLife }
	for _, err := range []error{
		check(p.Mode == ModeAutomatic || p.Mode == ModeOnUpgrade || p.Mode == ModeManual,
			"mode %q: use automatic, on-upgrade or manual", p.Mode),
		check(lifeOK(p.TokenLife), "tokenLife %s: use 1h to %s, the life of the CA", p.TokenLife, Duration(AuthorityLife)),
		check(lifeOK(p.CertificateLife), "certificateLife %s: use 1h to %s, the life of the CA", p.CertificateLife, Duration(AuthorityLife)),
		check(p.RenewFrom > 0 && p.RenewFrom <= p.RenewTo, "renewFrom %s: must lie above 0%% and not above renewTo %s", p.RenewFrom, p.RenewTo),
		check(p.RenewTo < 1-p.Warning, "renewTo %s: must lie before the warning, at %s of the life", p.RenewTo, 1-p.Warning),
		check(p.Warning > p.Critical && p.Critical > p.Emergency && p.Emergency > p.LastResort && p.LastResort > 0,
			"warning %s, critical %s, emergency %s, lastResort %s: each must be smaller than the one before", p.Warning, p.Critical, p.Emergency, p.LastResort),
		check(p.WindowNotice.Std() < p.UpdateWindow.Std(), "windowNotice %s: must be shorter than updateWindow %s", p.WindowNotice, p.UpdateWindow),
		check(p.WindowEscalation.Std() >= time.Hour, "windowEscalation %s: use at least 1h", p.WindowEscalation),
		check(p.ClockSkew.Std() >= 0 && p.ClockSkew.Std() <= time.Hour, "clockSkew %s: use at most 1h", p.ClockSkew),
		check(p.Recovery == RecoveryAutomatic || p.Recovery == RecoveryOperator, "recovery %q: use automatic or operator", p.Recovery),
		check(p.AgentSilence.Std() >= time.Hour, "agentSilence %s: use at least 1h", p.AgentSilence),
		check(p.RecoveryLimit > 0, "recoveryLimit %s: must be longer than nothing; to let no client come back by itself, set recovery to operator", p.RecoveryLimit),
		check(p.RecoveryTokenLife.Std() >= time.Minute && p.RecoveryTokenLife.Std() <= Day, "recoveryTokenLife %s: use 1m to 1d", p.RecoveryTokenLife),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}
