package fleetfile

import (
	"strings"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/strictyaml"
)

// authority reads what the fleet sets about its CA; what it does not set stays
// zero.
func (r *reader) authority(n node) fleet.AuthorityPolicy {
	var p fleet.AuthorityPolicy
	f := r.Mapping(n, "the authority", "life", "slack", "mode", "soak")
	for key, to := range map[string]*fleet.Duration{"life": &p.Life, "slack": &p.Slack, "soak": &p.Soak} {
		if value, ok := f[key]; ok {
			*to = r.Duration(value, key)
		}
	}
	if mode, ok := f["mode"]; ok {
		if text, ok := r.Text(mode, "mode"); ok {
			p.Mode = fleet.Mode(text)
			if p.Mode != fleet.ModeAutomatic && p.Mode != fleet.ModeManual {
				r.Fail(mode.Place, "mode %q: use automatic or manual", strictyaml.Clip(text))
				p.Mode = ""
			}
		}
	}
	if err := p.Over(fleet.DefaultAuthorityPolicy()).Validate(); err != nil && f != nil {
		at := n.Place
		message := strings.TrimPrefix(err.Error(), fleet.ErrInvalid.Error()+": authority: ")
		for _, field := range n.Fields {
			if strings.HasPrefix(message, field.Key+" ") {
				at = field.Value.Place
			}
		}
		r.Fail(at, "%s", message)
	}
	return p
}
