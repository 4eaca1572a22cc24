package api

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// JoinRequest asks for a one-time join token.
type JoinRequest struct {
	Replace bool `json:"replace,omitempty" doc:"the new agent may take the place of an enrolled one"`
	Hosted  bool `json:"hosted,omitempty" doc:"for the agent that the server itself hosts, where the fleet file says delivery"`
}

// JoinReply holds a join token. It is shown once and stored nowhere.
type JoinReply struct {
	Command   string    `json:"command" doc:"starts the agent; only --dir FOLDER is to be added"`
	Token     string    `json:"token"`
	Cluster   string    `json:"cluster"`
	ExpiresAt time.Time `json:"expiresAt"`
	Server    string    `json:"server" doc:"where agents reach the server; several with commas"`
	CAHash    string    `json:"caHash" doc:"pin of the fleet key, for the agent"`
	FleetKey  string    `json:"fleetKey" doc:"the same as caHash"`
}

// AgentCommand returns the command that starts an agent, but for its folder.
func AgentCommand(server, token, caHash string) string {
	return fmt.Sprintf("rotor agent --server %s --join %s --ca-hash %s", server, token, caHash)
}

// JoinToken returns the text of a join token: cluster, version of the trust
// bundle, and what is secret. The first two tell the agent where it belongs and
// that an older bundle is a replay; the server looks at the whole only.
func JoinToken(cluster string, bundle int, random string) string {
	return fmt.Sprintf("%s.%d.%s", cluster, bundle, random)
}

// ReadJoinToken returns what a join token says; nothing, for one of another
// form, and no bundle for one that names none.
func ReadJoinToken(token string) (cluster string, bundle int) {
	parts := strings.Split(token, ".")
	if len(parts) < 2 {
		return "", 0
	}
	if len(parts) > 2 {
		if version, err := strconv.Atoi(parts[1]); err == nil && version > 0 {
			bundle = version
		}
	}
	return parts[0], bundle
}
