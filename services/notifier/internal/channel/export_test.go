package channel

import "encoding/json"

// RenderForTest returns every form of a message.
func RenderForTest(m Message) (subject, text, html string, slack []byte, err error) {
	if text, html, err = render(m); err != nil {
		return "", "", "", nil, err
	}
	slack, err = json.Marshal(slackMessage(m))
	return oneLine(m.Title()), text, html, slack, err
}
