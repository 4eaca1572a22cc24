// Package api is the HTTP contract between the gateway and its callers: paths,
// the shapes that are not nouns of package fleet, problem details, and a typed
// client. Gateway, command line and agent share it, so that a change is one
// change.
package api

import (
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// The paths that need more than one caller to agree.
const (
	PathStatus      = "/v1/status"
	PathFleet       = "/v1/fleet"
	PathClusters    = "/v1/clusters"
	PathClients     = "/v1/clients"
	PathReleases    = "/v1/releases"
	PathRotations   = "/v1/rotations"
	PathAlerts      = "/v1/alerts"
	PathAgents      = "/v1/agents"
	PathAuthority   = "/v1/authority"
	PathEvents      = "/v1/events"
	PathIntrospect  = "/v1/introspect"
	PathAudit       = "/v1/audit"
	PathRecords     = "/v1/records"
	PathSigned      = "/v1/signed"
	PathCRL         = "/crl"
	PathDeadLetters = "/v1/dead-letters"
	PathTrustPEM    = "/trust-bundle.pem"
	PathBridges     = "/bridges.pem"
	PathCA          = "/ca"
	PathTrustSigned = "/trust-bundle.jws"
	PathJWKS        = "/.well-known/jwks.json"
	PathOpenID      = "/.well-known/openid-configuration"
	PathOpenAPI     = "/openapi.json"

	PathEnrol    = "/v1/agent/enrol"
	PathWork     = "/v1/agent/work"
	PathRequests = "/v1/agent/requests"
	PathSteps    = "/v1/agent/steps"
	PathProve    = "/v1/agent/prove"
)

// HeaderIdempotency names the key under which a write may be repeated: the
// repeat has the effect and the answer of the first.
const HeaderIdempotency = "Idempotency-Key"

// HeaderClock tells the fast clock of a rehearsal beside the trust bundle, as
// clock.Clock writes it. It is absent where time passes at its own pace.
const HeaderClock = "Rotor-Clock"

// Page is one page of a list.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty" doc:"cursor of the next page; absent on the last"`
}

// ClientView is a client with its computed state.
type ClientView struct {
	Cluster     string             `json:"cluster"`
	Kind        string             `json:"kind"`
	Instance    string             `json:"instance"`
	State       fleet.State        `json:"state" enum:"pending,healthy,due,degraded,recoverable,locked-out,revoked"`
	Generation  int                `json:"generation" doc:"newest generation; 0 before the first"`
	Step        fleet.Step         `json:"step" doc:"how far the newest generation has come; empty before the first"`
	RenewAt     *time.Time         `json:"renewAt"`
	Certificate *fleet.Certificate `json:"certificate" doc:"of the newest generation; null before the first"`
	Token       *fleet.Token       `json:"token" doc:"of the newest generation; null before the first"`
	Reason      string             `json:"reason,omitempty" doc:"why it is not healthy, or what it waits for"`
	Remedy      string             `json:"remedy,omitempty" doc:"what an operator can do"`
}

// ClusterView is a cluster with what follows from its state now.
type ClusterView struct {
	fleet.Cluster
	Window         fleet.Window        `json:"window"`
	EarliestExpiry *time.Time          `json:"earliestExpiry" doc:"first moment at which a credential in use ends"`
	NextRenewal    *time.Time          `json:"nextRenewal"`
	States         map[fleet.State]int `json:"states" doc:"number of clients by state"`
	Clients        int                 `json:"clientCount"`
	Agent          string              `json:"agent,omitempty" doc:"id of the enrolled agent"`
	AgentSeen      *time.Time          `json:"agentSeen,omitempty"`
	LastAlert      *fleet.Alert        `json:"lastAlert,omitempty"`
	Firing         int                 `json:"firing" doc:"alerts firing now"`
	Policy         fleet.Policy        `json:"effectivePolicy" doc:"policy that holds, with the fleet's and the defaults"`
}

// RevokeRequest asks for the revocation of a client.
type RevokeRequest struct {
	Client fleet.ClientKey `json:"client" doc:"kind or kind/instance"`
	Reason fleet.CRLReason `json:"reason" enum:"unspecified,key-compromise,ca-compromise,affiliation-changed,superseded,cessation-of-operation,certificate-hold,privilege-withdrawn,aa-compromise" doc:"reason of RFC 5280, 5.3.1"`
}

// ReinstateRequest asks that a revoked client gets credentials again.
type ReinstateRequest struct {
	Client fleet.ClientKey `json:"client" doc:"kind or kind/instance"`
}

// Introspection is what there is to say about a token (RFC 7662, 2.2). Of one
// that is not active only that is said.
type Introspection struct {
	Active     bool             `json:"active" doc:"signed by this Rotor, valid now, and on record as the token of a generation that is neither revoked nor replaced for good"`
	Issuer     string           `json:"iss,omitempty"`
	Subject    string           `json:"sub,omitempty"`
	Audience   []string         `json:"aud,omitempty"`
	ExpiresAt  int64            `json:"exp,omitempty" doc:"seconds since 1970"`
	IssuedAt   int64            `json:"iat,omitempty"`
	NotBefore  int64            `json:"nbf,omitempty"`
	ID         string           `json:"jti,omitempty"`
	Confirm    *Confirmation    `json:"cnf,omitempty" doc:"the key that the token is bound to: without a proof of it, it proves nothing"`
	TokenType  string           `json:"token_type,omitempty"`
	ClientID   string           `json:"client_id,omitempty"`
	Cluster    string           `json:"cluster,omitempty"`
	Client     *fleet.ClientKey `json:"client,omitempty"`
	Generation int              `json:"generation,omitempty"`
}

// Confirmation names the key of a token (RFC 9449, 6.1).
type Confirmation struct {
	Thumbprint string `json:"jkt" doc:"JWK thumbprint (RFC 7638)"`
}

// Health is the fleet at a glance.
type Health string

// The healths, best first; the command line ends with 0, 1 and 2 for them.
const (
	HealthWell      Health = "well"
	HealthAttention Health = "attention"
	HealthBroken    Health = "broken"
)

// Status is the answer of PathStatus.
type Status struct {
	Health    Health              `json:"health" enum:"well,attention,broken"`
	Reasons   []string            `json:"reasons,omitempty" doc:"why the fleet is not well"`
	Revoked   []string            `json:"revoked,omitempty" doc:"clients that are revoked, since when, why, and what would bring them back"`
	Now       time.Time           `json:"now" doc:"time on the clock of the fleet"`
	ClockRate float64             `json:"clockRate"`
	Clusters  []ClusterView       `json:"clusters"`
	States    map[fleet.State]int `json:"states"`
	Clients   int                 `json:"clients"`
	Authority AuthorityView       `json:"authority"`

	DeadLetters int `json:"deadLetters,omitempty" doc:"open dead letters"`

	UnderWay []string `json:"underWay,omitempty" doc:"rotations of the authority that go on as they should"`
}

// AuthorityView is the public state of the authority.
type AuthorityView struct {
	CAs         []fleet.CA         `json:"cas"`
	Keys        []fleet.SigningKey `json:"keys"`
	TokenIssuer string             `json:"tokenIssuer"`
	TrustDomain string             `json:"trustDomain"`
	Bundle      int                `json:"bundle" doc:"version of the trust bundle"`
	FleetKey    string             `json:"fleetKey" doc:"pin of the fleet key, for agents"`
	Checkpoint  string             `json:"checkpoint,omitempty" doc:"newest checkpoint of the audit ledger: heads of all chains as a JWS in compact form, signed by the fleet key (RFC 7515)"`
}

// AgentView is an enrolled agent.
type AgentView struct {
	Cluster    string                                `json:"cluster"`
	ID         string                                `json:"id"`
	EnrolledAt time.Time                             `json:"enrolledAt"`
	LastSeen   time.Time                             `json:"lastSeen"`
	Version    string                                `json:"version,omitempty"`
	Bundle     int                                   `json:"bundle" doc:"version of the trust bundle it has loaded"`
	Life       fleet.AgentLife                       `json:"life" doc:"what its calls tell of it"`
	Waiting    int                                   `json:"waiting" doc:"clients without a standing request"`
	Failures   map[fleet.ClientKey]fleet.StepFailure `json:"failures,omitempty"`

	BundleFailure *fleet.BundleFailure `json:"bundleFailure,omitempty" doc:"why it has not loaded a newer trust bundle"`
	BundleHash    string               `json:"bundleHash,omitempty" doc:"SHA-256 of the signed trust bundle that it has loaded, hexadecimal"`
	Canary        *fleet.CanaryProof   `json:"canary,omitempty" doc:"its last handshake with a server of the CA that is to come"`
	NextCA        *NextCA              `json:"nextCA,omitempty" doc:"whether it has proven that it trusts the CA that is to come; absent while none is"`
}

// NextCA is how an agent stands to the CA that is incoming.
type NextCA struct {
	CA    string    `json:"ca" doc:"id of the CA"`
	Ready bool      `json:"ready" doc:"it has proven that it trusts the CA, by its trust bundle and by a handshake"`
	Why   string    `json:"why,omitempty" doc:"what is missing"`
	Since time.Time `json:"since,omitzero" doc:"since when it is so; absent where nobody has noted it"`
}

// Action is what a plan does to one object.
type Action string

// The actions of a plan.
const (
	ActionAdd    Action = "add"
	ActionChange Action = "change"
	ActionRemove Action = "remove"
	ActionKeep   Action = "keep" // differs from the file and stays; Details say why
)

// Change is one line of a plan.
type Change struct {
	Action  Action   `json:"action" enum:"add,change,remove,keep"`
	Kind    string   `json:"kind" enum:"cluster,release,settings"`
	Name    string   `json:"name"`
	Details []string `json:"details,omitempty" doc:"what changes, in words"`
}

// Plan is the answer of an apply.
type Plan struct {
	Changes   []Change `json:"changes"`
	Unchanged int      `json:"unchanged" doc:"objects that are as the file says"`
	Applied   bool     `json:"applied" doc:"false for a dry run"`
}

// RotateRequest asks for a rotation.
type RotateRequest struct {
	Clusters []string          `json:"clusters,omitempty" doc:"names; with All or Selector, none"`
	All      bool              `json:"all,omitempty"`
	Selector map[string]string `json:"selector,omitempty" doc:"labels that a cluster must carry"`
	Clients  []fleet.ClientKey `json:"clients,omitempty" doc:"only these; a kind alone means all of its instances"`
	Force    bool              `json:"force,omitempty" doc:"rotate what is not due as well"`
	DryRun   bool              `json:"dryRun,omitempty" doc:"say what would happen and change nothing"`

	Canary            string             `json:"canary,omitempty" maxLength:"63" doc:"cluster that goes first; chosen, if empty"`
	MaxParallel       int                `json:"maxParallel,omitempty" doc:"clusters in progress at once; 50, if 0"`
	MaxFailures       fleet.FailureLimit `json:"maxFailures,omitempty" maxLength:"16" doc:"failed clients that do not halt it once the canary is proven: a number, or a share such as 2% of the clients whose turn has come; 2%, if empty"`
	IgnoreMaintenance bool               `json:"ignoreMaintenance,omitempty" doc:"do not wait for maintenance windows, if it goes in waves"`
}

// Waves returns the options of a rotation that goes in waves, or nil for one
// that begins everywhere at once: one of named clusters, unless it asks for more.
func (r *RotateRequest) Waves() *fleet.WaveOptions {
	if !r.All && len(r.Selector) == 0 && r.Canary == "" && r.MaxParallel == 0 && r.MaxFailures == "" {
		return nil
	}
	return &fleet.WaveOptions{
		Canary: r.Canary, MaxParallel: r.MaxParallel, MaxFailures: r.MaxFailures, IgnoreMaintenance: r.IgnoreMaintenance,
	}
}

// RotationView is a rotation with its clusters.
type RotationView struct {
	fleet.Rotation
	Results  []fleet.ClusterRotation `json:"results" doc:"of the clusters whose turn has come"`
	Progress []WaveProgress          `json:"progress,omitempty" doc:"of one in waves: how far each wave has come"`
	DryRun   bool                    `json:"dryRun,omitempty"`
}

// RecoveryRequest lets locked-out clients of a cluster come back.
type RecoveryRequest struct {
	Clients []fleet.ClientKey `json:"clients,omitempty" doc:"only these; a kind alone means all of its instances"`
	Token   bool              `json:"token,omitempty" doc:"make a one-time recovery token for each client that is not well, in place of letting its agent bring it back: for a client whose agent is lost, or that has none"`
	DryRun  bool              `json:"dryRun,omitempty" doc:"say what would happen and change nothing"`
}

// RecoveryView is the rotation that recovers clients.
type RecoveryView struct {
	RotationView
	Tokens []RecoveryToken `json:"tokens,omitempty" doc:"shown once: a repeat of the call does not show them again"`
}

// RecoveryToken is a one-time token with which one client gets its next
// generation. It is stored nowhere.
type RecoveryToken struct {
	Client     fleet.ClientKey `json:"client"`
	Generation int             `json:"generation" doc:"the generation that it is for"`
	Token      string          `json:"token"`
	ExpiresAt  time.Time       `json:"expiresAt"`
}

// The outcomes of settling a dead letter, beside the states of its end.
const (
	OutcomeFailed  = "failed"  // tried again in vain: it is open, with the new reason
	OutcomeWaiting = "waiting" // the service has not answered yet
)

// LetterView is a dead letter with its body, or what has become of it.
type LetterView struct {
	fleet.Letter
	Body    any    `json:"body,omitempty" doc:"what was given up: JSON where it is JSON, else text; of one letter that is open"`
	Outcome string `json:"outcome,omitempty" enum:"replayed,dropped,failed,waiting" doc:"of a replay or a drop"`
}

// ReplayRequest picks the open dead letters that are tried again; all, if empty.
type ReplayRequest struct {
	Cluster  string `json:"cluster,omitempty" maxLength:"63"`
	Consumer string `json:"consumer,omitempty" maxLength:"63" doc:"a service, consumer or channel"`
}

// UpgradeRequest reports a completed upgrade.
type UpgradeRequest struct {
	Release     string    `json:"release"`
	CompletedAt time.Time `json:"completedAt,omitzero" doc:"when it completed; now, if absent"`
}

// UpgradeReply says what follows from an upgrade.
type UpgradeReply struct {
	Cluster     string       `json:"cluster"`
	Release     string       `json:"release"`
	CompletedAt time.Time    `json:"completedAt"`
	ValidUntil  time.Time    `json:"validUntil" doc:"what the expiry of its clients becomes at least"`
	Effect      string       `json:"effect" enum:"applied,repeat,older" doc:"a repeat or an older report changes nothing"`
	DueNow      bool         `json:"dueNow" doc:"completed so long ago that validity counts from now"`
	Message     string       `json:"message"`
	Rotation    string       `json:"rotation,omitempty" doc:"id of the rotation that follows"`
	Window      fleet.Window `json:"window"`
}
