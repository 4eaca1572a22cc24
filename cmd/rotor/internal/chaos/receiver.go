package chaos

import (
	"encoding/json"
	"net"
	"net/http"
	"sync"
	"time"
)

// receiver takes the webhooks of the notifiers, and shows a message once, as
// its Idempotency-Key lets it.
type receiver struct {
	url string

	mu       sync.Mutex
	keys     map[string]int             // how often each message came
	messages map[string]map[string]bool // fingerprint and what it says -> keys
}

func newReceiver() (*receiver, func(), error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	r := &receiver{url: "http://" + l.Addr().String() + "/hook", keys: map[string]int{}, messages: map[string]map[string]bool{}}
	server := &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(l) }()
	return r, func() { _ = server.Close() }, nil
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	var body struct {
		Status string `json:"status"`
		Alert  struct {
			Fingerprint string    `json:"fingerprint"`
			Level       int       `json:"level"`
			Since       time.Time `json:"since"`
		} `json:"alert"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, request.Body, 1<<20)).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	key := request.Header.Get("Idempotency-Key")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys[key]++
	says, _ := json.Marshal([]any{body.Alert.Fingerprint, body.Status, body.Alert.Level, body.Alert.Since})
	if r.messages[string(says)] == nil {
		r.messages[string(says)] = map[string]bool{}
	}
	r.messages[string(says)][key] = true
}

// has reports whether a message about an alert has come.
func (r *receiver) has(fingerprint, status string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for says := range r.messages {
		var parts []any
		if json.Unmarshal([]byte(says), &parts) == nil && parts[0] == fingerprint && parts[1] == status {
			return true
		}
	}
	return false
}
