package audit

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// canonical returns the form of RFC 8785 of a decoded JSON value. Of numbers it
// takes integers below 2^53 only, whose form leaves nothing to choose.
func canonical(value any) ([]byte, error) { return appendValue(nil, value, 0) }

// maxDepth bounds how deep an entry nests.
const maxDepth = 16

func appendValue(b []byte, value any, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("%w: audit entry: nested deeper than %d", fleet.ErrInvalid, maxDepth)
	}
	var err error
	switch v := value.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case string:
		return appendString(b, v), nil
	case json.Number:
		n, err := strconv.ParseInt(v.String(), 10, 64)
		if err != nil || n <= -1<<53 || n >= 1<<53 || strconv.FormatInt(n, 10) != v.String() {
			return nil, fmt.Errorf("%w: audit entry: number %.40q is no integer below 2^53", fleet.ErrInvalid, v.String())
		}
		return strconv.AppendInt(b, n, 10), nil
	case []any:
		b = append(b, '[')
		for i, item := range v {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendValue(b, item, depth+1); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case map[string]any:
		b = append(b, '{')
		for i, name := range slices.SortedFunc(maps.Keys(v), byUTF16) {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendValue(append(appendString(b, name), ':'), v[name], depth+1); err != nil {
				return nil, err
			}
		}
		return append(b, '}'), nil
	}
	return nil, fmt.Errorf("%w: audit entry: %T has no canonical form", fleet.ErrInvalid, value)
}

// byUTF16 is the order of names (RFC 8785, 3.2.3): that of their UTF-16 units.
func byUTF16(a, b string) int {
	return slices.Compare(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)))
}

// appendString quotes a string (RFC 8785, 3.2.2.2): nothing is escaped that
// need not be.
func appendString(b []byte, s string) []byte {
	const hexadecimal = "0123456789abcdef"
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\b':
			b = append(b, `\b`...)
		case r == '\f':
			b = append(b, `\f`...)
		case r == '\n':
			b = append(b, `\n`...)
		case r == '\r':
			b = append(b, `\r`...)
		case r == '\t':
			b = append(b, `\t`...)
		case r < 0x20:
			b = append(b, '\\', 'u', '0', '0', hexadecimal[r>>4], hexadecimal[r&0xf])
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}
