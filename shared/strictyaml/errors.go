package strictyaml

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Error is one thing that is wrong in a file.
type Error struct {
	Line    int // from 1
	Column  int // from 1
	Message string
}

// Errors are all the things wrong in a file, in the order of their lines.
type Errors []Error

// MaxErrors bounds the errors that one file is told of; a last one then says
// how many more there are.
const MaxErrors = 50

// Error lists them, one a line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = fmt.Sprintf("%d:%d: %s", one.Line, one.Column, one.Message)
	}
	return strings.Join(lines, "\n")
}

// Is makes errors.Is(err, fleet.ErrInvalid) true.
func (e Errors) Is(target error) bool { return target == fleet.ErrInvalid }

// Sorted returns the errors in the order of the file, at most MaxErrors and a
// word about the rest.
func (e Errors) Sorted() Errors {
	slices.SortStableFunc(e, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if len(e) <= MaxErrors {
		return e
	}
	next := e[MaxErrors]
	next.Message = fmt.Sprintf("and %d more errors from here on", len(e)-MaxErrors)
	return append(e[:MaxErrors:MaxErrors], next)
}

// Error makes a single error usable on its own.
func (e *Error) Error() string { return Errors{*e}.Error() }
