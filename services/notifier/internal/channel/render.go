package channel

import (
	_ "embed" // the templates
	"fmt"
	html "html/template"
	"strings"
	text "text/template"
)

var (
	//go:embed templates/alert.txt
	textSource string
	//go:embed templates/alert.html
	htmlSource string
)

// render returns the two forms of a mail.
func render(m Message) (plain, rich string, err error) {
	t, err := text.New("alert.txt").Parse(textSource)
	if err != nil {
		return "", "", fmt.Errorf("template: %w", err)
	}
	h, err := html.New("alert.html").Parse(htmlSource)
	if err != nil {
		return "", "", fmt.Errorf("template: %w", err)
	}
	var a, b strings.Builder
	if err := t.Execute(&a, m); err != nil {
		return "", "", fmt.Errorf("template: %w", err)
	}
	if err := h.Execute(&b, m); err != nil {
		return "", "", fmt.Errorf("template: %w", err)
	}
	return a.String(), b.String(), nil
}

// Color returns the colour of the severity.
func (m Message) Color() string {
	_, color := look(m)
	return color
}
