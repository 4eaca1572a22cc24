package strictyaml

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Reader reads values and collects everything that is wrong with them, so that
// one look at a file tells of all its errors.
type Reader struct{ Errs Errors }

// Fail tells of an error at a place.
func (r *Reader) Fail(at Place, format string, args ...any) {
	r.Errs = append(r.Errs, Error{at.Line, at.Column, fmt.Sprintf(format, args...)})
}

// Reject tells an error of package fleet, without the name of its kind.
func (r *Reader) Reject(at Place, err error) {
	r.Fail(at, "%s", strings.ReplaceAll(err.Error(), fleet.ErrInvalid.Error()+": ", ""))
}

// Mapping returns the fields of a mapping by key, nil if it is something else.
// Unknown and repeated keys are errors; a key without a value counts as absent.
func (r *Reader) Mapping(n Node, what string, known ...string) map[string]Node {
	if n.Kind != Mapping {
		r.Fail(n.Place, "%s must be keys and values, such as %q, not %s", what, known[0]+": ...", n.Describe())
		return nil
	}
	fields, at := map[string]Node{}, map[string]Place{}
	for _, f := range n.Fields {
		if !slices.Contains(known, f.Key) {
			r.Fail(f.At, "unknown key %q in %s: %s", Clip(f.Key), what, Suggest(f.Key, known))
			continue
		}
		if first, twice := at[f.Key]; twice {
			r.Fail(f.At, "key %q stands twice in %s: the first time on line %d", f.Key, what, first.Line)
			continue
		}
		at[f.Key] = f.At
		if f.Value.Kind != Absent {
			fields[f.Key] = f.Value
		}
	}
	return fields
}

// List returns the items of a list; an absent one has none.
func (r *Reader) List(n Node, key, want string) []Node {
	switch n.Kind {
	case List:
		return n.Items
	case Absent:
		return nil
	default:
		r.Fail(n.Place, "%s must be a list of %s, not %s", key, want, n.Describe())
		return nil
	}
}

// Text returns the text of a scalar.
func (r *Reader) Text(n Node, key string) (string, bool) {
	if n.Kind == Scalar && n.Text != "" {
		return n.Text, true
	}
	r.Fail(n.Place, "%s must be a single value, not %s", key, n.Describe())
	return "", false
}

// Required is like text, and an error if the key is absent.
func (r *Reader) Required(parent Node, fields map[string]Node, key, want string) (Node, bool) {
	n, ok := fields[key]
	if !ok {
		r.Fail(parent.Place, "%s is missing: write %s", key, want)
		return n, false
	}
	_, ok = r.Text(n, key)
	return n, ok
}

// Texts returns the items of a list of single values.
func (r *Reader) Texts(n Node, key, want string) []Node {
	var out []Node
	for _, item := range r.List(n, key, want) {
		if _, ok := r.Text(item, "an entry of "+key); ok {
			out = append(out, item)
		}
	}
	return out
}

// Duration reads a duration. Zero is refused: a policy stores it as "not set",
// which would silently mean the default.
func (r *Reader) Duration(n Node, key string) fleet.Duration {
	text, ok := r.Text(n, key)
	if !ok {
		return 0
	}
	d, err := fleet.ParseDuration(text)
	switch {
	case err != nil:
		r.Fail(n.Place, "%s %q: write days, hours or minutes, such as 90d, 36h or 30m", key, Clip(text))
	case d == 0:
		r.Fail(n.Place, "%s %q: must be longer than nothing; leave the key out for the default", key, Clip(text))
	default:
		return d
	}
	return 0
}

// Describe says in an error what stands in the file.
func (n Node) Describe() string {
	switch {
	case n.Kind == Mapping:
		return "keys and values"
	case n.Kind == List:
		return "a list"
	case n.Kind == Scalar && n.Text != "":
		return fmt.Sprintf("%q", Clip(n.Text))
	default:
		return "nothing"
	}
}
