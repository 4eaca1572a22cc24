package cli

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

const (
	letterOne = "3f0c8a52-0000-5000-8000-000000000001"
	letterTwo = "3f0c8a99-0000-5000-8000-000000000002"
)

func letters() []fleet.Letter {
	one := fleet.Letter{
		ID: letterOne, State: fleet.LetterOpen, Service: "notifier", Source: fleet.SourceChannel, Consumer: "chat", Cluster: "edge-01",
		Subject: "window-missed firing/0", Reason: "post: the receiver answered 400 Bad Request", Attempts: 1, First: now.Add(-time.Hour), Last: now,
	}
	two := one
	two.ID, two.Service, two.Source, two.Consumer, two.Cluster = letterTwo, "issuer", "COMMANDS", "issuer", "hq"
	two.Subject, two.Reason, two.Attempts = "rotor.v1.command.issue.hq", "the handler panicked: \x1b[31mnil map", 150
	return []fleet.Letter{one, two}
}

// deadServer has two letters; a replay of the first succeeds, of the second not.
func deadServer(t *testing.T) *server {
	t.Helper()
	s := newServer(t)
	s.mux.HandleFunc("GET /v1/dead-letters", answer(api.Page[fleet.Letter]{Items: letters()}))
	s.mux.HandleFunc("GET /v1/dead-letters/"+letterOne, answer(api.LetterView{Letter: letters()[0], Body: map[string]any{"version": 1, "text": "a\x1bb"}}))
	settled := func(i int, outcome string) api.LetterView {
		return api.LetterView{Letter: letters()[i], Outcome: outcome}
	}
	s.mux.HandleFunc("POST /v1/dead-letters/"+letterOne+"/replay", answer(settled(0, "replayed")))
	s.mux.HandleFunc("POST /v1/dead-letters/"+letterTwo+"/replay", answer(settled(1, api.OutcomeFailed)))
	s.mux.HandleFunc("DELETE /v1/dead-letters/"+letterTwo, answer(settled(1, "dropped")))
	s.mux.HandleFunc("POST /v1/dead-letters/replay", func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		views := []api.LetterView{settled(0, "replayed"), settled(1, api.OutcomeWaiting)}
		if strings.Contains(string(raw), "chat") {
			views = views[:1]
		}
		answer(api.Page[api.LetterView]{Items: views})(w, r)
	})
	return s
}

func TestDeadLists(t *testing.T) {
	s := deadServer(t)
	got := s.run(t, "alert", "dead")
	want := `LETTER                                STATE  CLUSTER  SERVICE   FROM          ATTEMPTS  FIRST             LAST              REASON
3f0c8a52-0000-5000-8000-000000000001  open   edge-01  notifier  channel chat  1         2026-11-24 11:00  2026-11-24 12:00  post: the receiver answered 400 Bad Request
3f0c8a99-0000-5000-8000-000000000002  open   hq       issuer    COMMANDS      150       2026-11-24 11:00  2026-11-24 12:00  the handler panicked:  [31mnil map
`
	if got.code != 0 || got.out != want {
		t.Errorf("%d %s\n%s", got.code, got.err, got.out)
	}
	got = s.run(t, "alert", "dead", "-o", "json")
	var listed []fleet.Letter
	if err := json.Unmarshal([]byte(got.out), &listed); err != nil || len(listed) != 2 || listed[1].Attempts != 150 {
		t.Errorf("%v: %s", err, got.out)
	}
	got = s.run(t, "alert", "dead", "show", "3f0c8a52")
	if got.code != 0 || !strings.Contains(got.out, "reason    post: the receiver answered 400") || !strings.Contains(got.out, `"version": 1`) || strings.Contains(got.out, "\x1b") {
		t.Errorf("%d %s\n%q", got.code, got.err, got.out)
	}
	empty := newServer(t)
	empty.mux.HandleFunc("GET /v1/dead-letters", answer(api.Page[fleet.Letter]{Items: []fleet.Letter{}}))
	if got := empty.run(t, "alert", "dead"); got.out != "no dead letters\n" || got.code != 0 {
		t.Errorf("%d %s", got.code, got.out)
	}
	if got := empty.run(t, "alert", "dead", "-o", "json"); got.out != "[]\n" || got.code != 0 {
		t.Errorf("%d %s", got.code, got.out)
	}
}

func TestDeadSettles(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"replay " + letterOne, 0, letterOne + "  replayed  edge-01  notifier  channel chat  1         -\n"},
		{"replay 3f0c8a5", 0, letterOne + "  replayed"},
		{"replay 3f0c8a5 3f0c8a99", 1, letterTwo + "  failed    hq       issuer    COMMANDS      150       the handler panicked"},
		{"replay --all", 1, letterTwo + "  waiting   hq       issuer    COMMANDS      150       the issuer has not answered yet"},
		{"replay --all --consumer chat", 0, letterOne + "  replayed"},
		{"replay --all -o json", 1, `"outcome": "waiting"`},
		{"drop 3f0c8a99", 0, letterTwo + "  dropped"},
		{"replay", 2, "name letters, or use --all"},
		{"replay --all " + letterOne, 2, "name letters, or use --all"},
		{"replay --cluster hq " + letterOne, 2, "go with --all"},
		{"replay 3f0c8a", 2, "more than one begins so"},
		{"replay 3f0", 2, "at least 6 characters"},
		{"replay ffffff", 1, `dead letter "ffffff"`},
		{"drop", 2, "LETTER is missing"},
		{"show", 2, "LETTER is missing"},
		{"nonsense", 2, `unknown command "nonsense"`},
		{"--state lost", 2, "use open, replayed, dropped or all"},
	} {
		got := deadServer(t).run(t, append([]string{"alert", "dead"}, strings.Fields(c.args)...)...)
		if got.code != c.code || !strings.Contains(got.out+got.err, c.want) {
			t.Errorf("%s ends with %d, want %d and %q:\n%s%s", c.args, got.code, c.code, c.want, got.out, got.err)
		}
	}
	if got := deadServer(t).run(t, "alert", "nonsense"); got.code != 2 {
		t.Errorf("alert nonsense ends with %d", got.code)
	}
}
