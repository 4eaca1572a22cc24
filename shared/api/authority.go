package api

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// The paths of the authority.
const (
	PathRollouts   = "/v1/authority/rotations"                   // GET the last of each kind, POST to begin one
	PathRollback   = "/v1/authority/rotations/{kind}/rollback"   // POST
	PathResume     = "/v1/authority/rotations/{kind}/resume"     // POST
	PathExclusions = "/v1/authority/rotations/{kind}/exclusions" // POST, DELETE .../{cluster}
	PathRetirement = "/v1/authority/rotations/{kind}/retirement" // POST
	PathExternal   = "/v1/authority/csr"                         // POST
)

// AuthorityStatus is the answer of PathAuthority: what there is to know about
// the authority without a secret.
type AuthorityStatus struct {
	AuthorityView
	Now     time.Time             `json:"now" doc:"time on the clock of the fleet"`
	Policy  fleet.AuthorityPolicy `json:"policy" doc:"that holds, with the defaults"`
	Dates   *fleet.AuthorityDates `json:"dates,omitempty" doc:"of the CA that signs"`
	CA      *fleet.Rollout        `json:"rotation,omitempty" doc:"the rotation of the CA that is under way, or was last"`
	Token   *fleet.Rollout        `json:"tokenRotation,omitempty" doc:"of the token key"`
	Pending *fleet.PendingCA      `json:"pending,omitempty" doc:"a CA that waits for the signature of an offline root"`

	Attention []string     `json:"attention,omitempty" doc:"what an operator should look at: a rotation that has halted, waits for somebody for long, or is late"`
	Next      []Suggestion `json:"next,omitempty" doc:"what an operator can do now"`
}

// Suggestion is a command that an operator may want to run.
type Suggestion struct {
	Command string `json:"command"`
	Why     string `json:"why" doc:"what it does, or when it is of use"`
}

// RolloutRequest asks for a rotation of the authority.
type RolloutRequest struct {
	Kind        fleet.RolloutKind `json:"kind,omitempty" enum:"ca,token" doc:"ca, if absent"`
	Canary      string            `json:"canary,omitempty" maxLength:"63" doc:"cluster that is reissued first; chosen, if absent"`
	MaxParallel int               `json:"maxParallel,omitempty" minimum:"0" maximum:"20000" doc:"clusters that are reissued at once; 0 for the default"`
	Taint       bool              `json:"taint,omitempty" doc:"a CA is compromised: nothing is proven first, and all is reissued as fast as agents can; also while another rotation is under way, which it turns into this one or takes over"`
	CA          string            `json:"ca,omitempty" maxLength:"64" doc:"of taint: id of the CA that is compromised, may be absent while one alone is trusted"`
	Certificate string            `json:"certificate,omitempty" maxLength:"65536" doc:"PEM of a CA whose request came from PathExternal, and of those between it and its root"`
	Root        string            `json:"root,omitempty" maxLength:"65536" doc:"PEM of the offline root"`
}

// Exclude asks that a cluster is not waited for.
type Exclude struct {
	Cluster string `json:"cluster" maxLength:"63"`
	Reason  string `json:"reason" minLength:"1" maxLength:"200" doc:"why; it goes into the ledger"`
}

// ExternalRequest is a certificate request for an offline root.
type ExternalRequest struct {
	Number int    `json:"number" doc:"of the CA"`
	CSR    string `json:"csr" doc:"PKCS #10, PEM (RFC 2986)"`
}

// RolloutPath returns a path of a kind of rotation of the authority: one of the
// patterns above, with what follows.
func RolloutPath(pattern string, kind fleet.RolloutKind, more ...string) string {
	parts := []string{strings.Replace(pattern, "{kind}", url.PathEscape(string(kind)), 1)}
	for _, part := range more {
		parts = append(parts, url.PathEscape(part))
	}
	return strings.Join(parts, "/")
}

// Authority returns what there is to know about the authority.
func (c *Client) Authority(ctx context.Context) (s AuthorityStatus, err error) {
	return s, c.Call(ctx, http.MethodGet, PathAuthority, nil, &s)
}

// BeginRollout asks for a rotation of the authority.
func (c *Client) BeginRollout(ctx context.Context, r RolloutRequest) (out fleet.Rollout, err error) {
	return out, c.Call(ctx, http.MethodPost, PathRollouts, r, &out)
}

// SteerRollout has a rotation of the authority go on in another way: path is that
// of PathRollback, PathResume or PathRetirement.
func (c *Client) SteerRollout(ctx context.Context, path string, kind fleet.RolloutKind) (out fleet.Rollout, err error) {
	return out, c.Call(ctx, http.MethodPost, RolloutPath(path, kind), nil, &out)
}

// ExcludeFromRollout has a rotation of the CA wait no more for a cluster.
func (c *Client) ExcludeFromRollout(ctx context.Context, e Exclude) (out fleet.Rollout, err error) {
	return out, c.Call(ctx, http.MethodPost, RolloutPath(PathExclusions, fleet.RolloutCA), e, &out)
}

// IncludeInRollout takes an exclusion back.
func (c *Client) IncludeInRollout(ctx context.Context, cluster string) (out fleet.Rollout, err error) {
	return out, c.Call(ctx, http.MethodDelete, RolloutPath(PathExclusions, fleet.RolloutCA, cluster), nil, &out)
}

// External returns the request of a CA that an offline root shall sign.
func (c *Client) External(ctx context.Context) (out ExternalRequest, err error) {
	return out, c.Call(ctx, http.MethodPost, PathExternal, nil, &out)
}
