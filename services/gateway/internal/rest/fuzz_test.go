package rest

import (
	"net/url"
	"strings"
	"testing"
)

// Whatever a verifier sends: there is one token or none, and no error shows what
// was sent.
func FuzzFormToken(f *testing.F) {
	for _, body := range []string{"token=abc", "token=a&token=b", "token=%zz", "", "token=", "x=y;token=z", "token_type_hint=a&token=b%20c"} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		token, err := formToken(body)
		if err != nil {
			if len(body) > 12 && strings.Contains(err.Error(), string(body)) {
				t.Errorf("%v shows %q", err, body)
			}
			return
		}
		form, err := url.ParseQuery(string(body))
		if err != nil || token == "" || len(form["token"]) != 1 || form.Get("token") != token {
			t.Errorf("%q gives %q, %v", body, token, err)
		}
	})
}
