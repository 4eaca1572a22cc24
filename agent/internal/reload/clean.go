package reload

import (
	"strings"
	"unicode"

	"github.com/rotor-fleet/rotor/shared/secret"
)

const (
	shown   = 200 // runes of an output that an error tells
	gram    = 12  // letters of a secret in a row that count as it
	removed = "[removed]"
)

// clean returns the end of an output in one line, without any part of a secret:
// a program may print the file that it cannot read, and an output may begin in
// the middle of one.
func clean(out []byte, secrets []secret.Text) string {
	grams := map[string]bool{}
	for _, s := range secrets {
		for line := range strings.Lines(s.Reveal()) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "-----") {
				continue // begin and end of PEM
			}
			for i := 0; i+gram <= len(line); i++ {
				grams[line[i:i+gram]] = true
			}
		}
	}
	hidden := make([]bool, len(out))
	for i := 0; i+gram <= len(out); i++ {
		if grams[string(out[i:i+gram])] {
			for j := range gram {
				hidden[i+j] = true
			}
		}
	}
	var b strings.Builder
	for i, c := range out {
		switch {
		case !hidden[i]:
			b.WriteByte(c)
		case i == 0 || !hidden[i-1]:
			b.WriteString(removed)
		}
	}
	text := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(b.String(), "?"))
	runes := []rune(strings.Join(strings.Fields(text), " "))
	if len(runes) > shown {
		return "..." + string(runes[len(runes)-shown:])
	}
	return string(runes)
}
