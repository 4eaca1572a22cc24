package gateway

import (
	"fmt"
	"net/http"

	"github.com/rotor-fleet/rotor/services/gateway/internal/agents"
	"github.com/rotor-fleet/rotor/services/gateway/internal/rest"
	"github.com/rotor-fleet/rotor/services/gateway/internal/signin"
)

// OpenAPI returns the descriptions of the API and of the agents' endpoints, in
// JSON, as they follow from the Go types.
func OpenAPI() (api, forAgents []byte, err error) {
	programs := signin.New(signin.Env{})
	if api, err = (&rest.API{}).Register(http.NewServeMux(), programs.Register).MarshalJSON(); err != nil {
		return nil, nil, fmt.Errorf("describe the API: %w", err)
	}
	if forAgents, err = (&agents.Service{}).Register(http.NewServeMux(), programs.Register).MarshalJSON(); err != nil {
		return nil, nil, fmt.Errorf("describe the agents' endpoints: %w", err)
	}
	return api, forAgents, nil
}
