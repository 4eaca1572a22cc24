package fleetfile

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/strictyaml"
)

// The parts of a file, short for how often they are named here.
type (
	node  = strictyaml.Node
	place = strictyaml.Place
)

// reader collects what a file says and everything that is wrong with it.
type reader struct {
	strictyaml.Reader

	out      File
	releases map[string]place    // where each release is declared
	clusters map[string]declared // where each cluster is declared
	order    []string            // names of the clusters in the order of the file
	routed   []node              // names of clusters in routes
}

var (
	labelKey   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$`)
	labelValue = regexp.MustCompile(`^[A-Za-z0-9._-]{1,63}$`)
)

// declared is what the checks across clusters need to know of one.
type declared struct {
	at, parentAt, releaseAt, directoryAt, secretsAt place
	kind                                            fleet.ClusterKind
	parent, release, directory                      string
	secrets                                         *fleet.KubernetesDelivery
}

// anyDay stands in where a check needs some date.
var anyDay = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// names returns a list of DNS labels without repeats; the result is never nil
// where the key is present.
func (r *reader) names(n node, key, what string) []string {
	if n.Kind == strictyaml.Absent {
		return nil
	}
	out := []string{}
	for _, item := range r.Texts(n, key, "names") {
		if err := fleet.CheckName(what, item.Text); err != nil {
			r.Reject(item.Place, err)
			continue
		}
		if slices.Contains(out, item.Text) {
			r.Fail(item.Place, "%s %s is named twice", what, item.Text)
			continue
		}
		out = append(out, item.Text)
	}
	return out
}

// labels returns a mapping of texts.
func (r *reader) labels(n node) map[string]string {
	if n.Kind == strictyaml.Absent {
		return nil
	}
	if n.Kind != strictyaml.Mapping {
		r.Fail(n.Place, "labels must be keys and values, such as %q, not %s", "site: berlin", n.Describe())
		return nil
	}
	out := map[string]string{}
	for _, f := range n.Fields {
		if !labelKey.MatchString(f.Key) {
			r.Fail(f.At, "label %q: use 1-63 letters, digits, '.', '_', '/' and '-', starting with a letter or digit", strictyaml.Clip(f.Key))
			continue
		}
		if _, twice := out[f.Key]; twice {
			r.Fail(f.At, "label %q stands twice", f.Key)
			continue
		}
		if text, ok := r.Text(f.Value, "label "+f.Key); ok {
			if !labelValue.MatchString(text) {
				r.Fail(f.Value.Place, "label %s: value %q: use 1-63 letters, digits, '.', '_' and '-'", f.Key, strictyaml.Clip(text))
			}
			out[f.Key] = text
		}
	}
	return out
}

// ParseDate reads a moment as RFC 3339 writes it, or a date, which is its
// midnight in UTC.
func ParseDate(s string) (time.Time, error) {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, s); err == nil && t.Year() >= 1970 {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%w: date %q: write 2026-08-01 or 2026-08-01T06:30:00Z", fleet.ErrInvalid, strictyaml.Clip(s))
}

func (r *reader) date(n node) time.Time {
	if n.Kind != strictyaml.Scalar {
		r.Fail(n.Place, "a date must be a single value such as 2026-08-01, not %s", n.Describe())
		return time.Time{}
	}
	t, err := ParseDate(n.Text)
	if err != nil {
		r.Reject(n.Place, err)
	}
	return t
}
