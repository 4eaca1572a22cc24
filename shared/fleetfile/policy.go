package fleetfile

import (
	"strings"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/strictyaml"
)

// policyKeys are the keys of a policy, as fleet.Policy stores them.
var policyKeys = []string{
	"mode", "tokenLife", "certificateLife", "renewFrom", "renewTo", "warning", "critical",
	"emergency", "lastResort", "updateWindow", "windowNotice", "windowEscalation", "clockSkew",
	"agentSilence", "recovery", "recoveryLimit", "recoveryTokenLife",
}

// policy reads a policy; what it does not set stays zero.
func (r *reader) policy(n node) fleet.Policy {
	var p fleet.Policy
	f := r.Mapping(n, "a policy", policyKeys...)
	if mode, ok := f["mode"]; ok {
		if text, ok := r.Text(mode, "mode"); ok {
			p.Mode = fleet.Mode(text)
			if p.Mode != fleet.ModeAutomatic && p.Mode != fleet.ModeOnUpgrade && p.Mode != fleet.ModeManual {
				r.Fail(mode.Place, "mode %q: use automatic, on-upgrade or manual", strictyaml.Clip(text))
				p.Mode = ""
			}
		}
	}
	if recovery, ok := f["recovery"]; ok {
		if text, ok := r.Text(recovery, "recovery"); ok {
			p.Recovery = fleet.RecoveryMode(text)
			if p.Recovery != fleet.RecoveryAutomatic && p.Recovery != fleet.RecoveryOperator {
				r.Fail(recovery.Place, "recovery %q: use automatic or operator", strictyaml.Clip(text))
				p.Recovery = ""
			}
		}
	}
	for key, to := range map[string]*fleet.Duration{
		"tokenLife": &p.TokenLife, "certificateLife": &p.CertificateLife, "updateWindow": &p.UpdateWindow,
		"windowNotice": &p.WindowNotice, "windowEscalation": &p.WindowEscalation, "clockSkew": &p.ClockSkew,
		"agentSilence": &p.AgentSilence, "recoveryLimit": &p.RecoveryLimit, "recoveryTokenLife": &p.RecoveryTokenLife,
	} {
		if value, ok := f[key]; ok {
			*to = r.Duration(value, key)
		}
	}
	for key, to := range map[string]*fleet.Share{
		"renewFrom": &p.RenewFrom, "renewTo": &p.RenewTo, "warning": &p.Warning,
		"critical": &p.Critical, "emergency": &p.Emergency, "lastResort": &p.LastResort,
	} {
		if value, ok := f[key]; ok {
			*to = r.share(value, key)
		}
	}
	return p
}

func (r *reader) share(n node, key string) fleet.Share {
	text, ok := r.Text(n, key)
	if !ok {
		return 0
	}
	s, err := fleet.ParseShare(text)
	switch {
	case err != nil:
		r.Fail(n.Place, "%s %q: write a part of a life between 0%% and 100%%, such as 61%%", key, strictyaml.Clip(text))
	case s == 0:
		r.Fail(n.Place, "%s %q: must be more than 0%%; leave the key out for the default", key, strictyaml.Clip(text))
	default:
		return s
	}
	return 0
}

// checkPolicy checks a policy laid over its base, and points at the field that
// does not fit where it stands in this policy.
func (r *reader) checkPolicy(n node, own, base fleet.Policy) {
	err := own.Over(base).Validate()
	if err == nil {
		return
	}
	at := n.Place
	message := strings.TrimPrefix(err.Error(), fleet.ErrInvalid.Error()+": policy: ")
	for _, f := range n.Fields {
		if strings.HasPrefix(message, f.Key+" ") {
			at = f.Value.Place
		}
	}
	r.Fail(at, "%s", message)
}
