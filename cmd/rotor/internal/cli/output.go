package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// terminal reports whether a stream is a terminal.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// styled reports whether w may show colours (https://no-color.org).
func styled(w io.Writer) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && terminal(w)
}

// format is the flag -o.
type format struct {
	value   string
	allowed []string
}

func formatFlag(c *cobra.Command, allowed ...string) *format {
	f := &format{allowed: allowed}
	c.Flags().StringVarP(&f.value, "output", "o", allowed[0], "format of the output: "+strings.Join(allowed, ", "))
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(allowed, cobra.ShellCompDirectiveNoFileComp))
	return f
}

// check returns a usage error for a format that the command does not have.
func (f *format) check(c *cobra.Command) error {
	if slices.Contains(f.allowed, f.value) {
		return nil
	}
	return usage(c, "output %q: use %s", f.value, orList(f.allowed))
}

// document prints v as JSON or YAML; done is false for any other format.
func (f *format) document(w io.Writer, v any) (done bool, err error) {
	if f.value != "json" && f.value != "yaml" {
		return false, nil
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return true, fmt.Errorf("print: %w", err)
	}
	if f.value == "yaml" {
		if raw, err = yaml.JSONToYAML(raw); err == nil {
			_, err = w.Write(raw)
		}
		return true, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return true, fmt.Errorf("print: %w", err)
	}
	out.WriteByte('\n')
	_, err = out.WriteTo(w)
	return true, err
}

// table prints aligned columns without spaces at the end of a line.
type table struct {
	rows   [][]string
	styled bool
}

func (a *app) table(head ...string) *table { return &table{rows: [][]string{head}, styled: a.Styled} }

// add appends a row. Some of what is shown was written by agents far away:
// nothing in a cell may move the cursor or break the row.
func (t *table) add(cells ...string) {
	for i, cell := range cells {
		cells[i] = first(printable(cell), "-")
	}
	t.rows = append(t.rows, cells)
}

func (t *table) print(w io.Writer) error {
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var out strings.Builder
	for number, row := range t.rows {
		for i, cell := range row {
			text := cell
			if t.styled {
				text = paint(cell, number == 0)
			}
			out.WriteString(text)
			if i < len(row)-1 {
				out.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		out.WriteByte('\n')
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// paint colours a cell by what it says: red for what is broken, yellow for what
// wants attention, green for what is well.
func paint(cell string, head bool) string {
	code := ""
	switch {
	case head:
		code = "1"
	case containsAny(cell, "behind", "locked-out", "degraded", "recoverable", "critical", "failed", "broken", "expired"):
		code = "31"
	case containsAny(cell, "left", "due", "pending", "warning", "attention", "waiting", "running", "accepted", "not-yet-valid"):
		code = "33"
	case containsAny(cell, "healthy", "current", "rotated", "proven", "completed", "resolved", "well"):
		code = "32"
	}
	if code == "" || cell == "not-due" {
		return cell
	}
	return "\x1b[" + code + "m" + cell + "\x1b[0m"
}

func containsAny(s string, words ...string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(s, w) })
}

func contains(list []string, s string) bool { return slices.Contains(list, s) }

// orList writes "a, b or c".
func orList(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// plural writes "1 client" and "2 clients".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func date(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateOnly)
}

func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04")
}

// span writes a duration in its greatest unit, and what takes less than ten
// seconds to a tenth of one.
func span(d time.Duration) string {
	switch d = d.Abs(); {
	case d >= 2*fleet.Day:
		return fmt.Sprintf("%d days", d/fleet.Day)
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%d minutes", d/time.Minute)
	case d >= 10*time.Second:
		return fmt.Sprintf("%d seconds", d/time.Second)
	default:
		return fmt.Sprintf("%.1f seconds", d.Seconds())
	}
}

// relative writes a moment as seen from now: "in 89 days (2027-01-12)".
func relative(t *time.Time, now time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	if t.After(now) {
		return fmt.Sprintf("in %s (%s)", span(t.Sub(now)), date(t))
	}
	return fmt.Sprintf("%s ago (%s)", span(now.Sub(*t)), date(t))
}

// windowText says how a cluster stands to its update window at now.
func windowText(w fleet.Window, now time.Time) string {
	if w.State == fleet.WindowCurrent || w.Deadline == nil {
		return string(fleet.WindowCurrent)
	}
	if days := int(w.Deadline.Sub(now).Abs() / fleet.Day); days > 0 {
		text := plural(days, "day")
		if w.State == fleet.WindowBehind {
			return text + " behind"
		}
		return text + " left"
	}
	if w.State == fleet.WindowBehind {
		return "behind since today"
	}
	return "less than a day left"
}

// sheet is what one document of the API is for people.
type sheet[T any] struct {
	path  string
	print func(io.Writer, *T) error
}

// show fetches a document and prints it, and returns it for what follows from it.
// What the server sends is printed as it is, whatever its version.
func show[T any](a *app, c *cobra.Command, output *format, what sheet[T]) (*T, error) {
	if err := output.check(c); err != nil {
		return nil, err
	}
	client, err := a.client()
	if err != nil {
		return nil, err
	}
	var raw json.RawMessage
	if err := client.Call(c.Context(), http.MethodGet, what.path, nil, &raw); err != nil {
		return nil, err
	}
	value := new(T)
	if err := json.Unmarshal(raw, value); err != nil {
		return nil, fmt.Errorf("%s: %w", what.path, err)
	}
	done, err := output.document(c.OutOrStdout(), raw)
	if !done && err == nil {
		err = what.print(c.OutOrStdout(), value)
	}
	return value, err
}
