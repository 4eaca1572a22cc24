package api

import (
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// EnrolRequest is what an agent sends to join. Its enrolment key is the key of
// the TLS client certificate of the call.
type EnrolRequest struct {
	Cluster string `json:"cluster"`
	Token   string `json:"token" doc:"join token"`
	SealKey []byte `json:"sealKey" doc:"HPKE public key"`
	Version string `json:"version,omitempty"`
}

// EnrolReply confirms an enrolment.
type EnrolReply struct {
	Cluster string `json:"cluster"`
	Agent   string `json:"agent" doc:"id of the agent"`
}

// Work is all that an agent needs to know.
type Work struct {
	Tag     string       `json:"tag" doc:"changes with the content; pass it as after to wait for the next"`
	Now     time.Time    `json:"now" doc:"time on the clock of the fleet"`
	Cluster string       `json:"cluster"`
	Bundle  int          `json:"bundle" doc:"version of the trust bundle"`
	Canary  string       `json:"canary,omitempty" doc:"id of the CA that is to come: prove it by a handshake with identity.CanaryName, once the trust bundle is everywhere"`
	Starts  int          `json:"starts,omitempty" doc:"highest number of starts that was heard of this agent"`
	Trust   *TrustNoted  `json:"trust,omitempty" doc:"while canary is set: what is on record of the agent's trust; what it has told and does not stand here it tells again"`
	Restore string       `json:"restore,omitempty" doc:"id of the last restore from a backup: the record may be behind what an agent holds"`
	Clients []ClientWork `json:"clients" doc:"in the order in which to install"`
}

// TrustNoted is what is on record of an agent's trust.
type TrustNoted struct {
	Bundle int    `json:"bundle,omitempty" doc:"version of the trust bundle that it has acknowledged"`
	Hash   string `json:"hash,omitempty" doc:"SHA-256 of its signed form, hexadecimal"`
	CA     string `json:"ca,omitempty" doc:"id of the CA that is to come, once a handshake with it has succeeded"`
}

// ClientWork is what there is to do for one client.
type ClientWork struct {
	Client     fleet.ClientKey `json:"client"`
	Generation int             `json:"generation" doc:"newest generation; 0 before the first"`
	Step       fleet.Step      `json:"step,omitempty"`
	Request    int             `json:"request" doc:"generation of the standing request on file; 0 for none"`
	Next       int             `json:"next,omitempty" doc:"number of the next generation, where it is not the one after the newest"`
	Program    bool            `json:"program,omitempty" doc:"its program signs in by itself: leave it alone, but for a request that waits in case an operator hands it over"`
	Pickup     *fleet.Pickup   `json:"pickup,omitempty" doc:"present while the newest generation is not proven"`

	Revoked *fleet.Revocation `json:"revoked,omitempty" doc:"the client is revoked: there is nothing to do for it until it is reinstated"`
	Barred  bool              `json:"barred,omitempty" doc:"the newest generation is revoked for good, and the client gets another"`
}

// FileRequests puts standing certificate requests on file.
type FileRequests struct {
	Requests []FileRequest `json:"requests"`
}

// FileRequest is one standing certificate request.
type FileRequest struct {
	Client     fleet.ClientKey `json:"client"`
	Generation int             `json:"generation"`
	CSR        []byte          `json:"csr" doc:"PKCS #10, DER"`
	Lost       bool            `json:"lost,omitempty" doc:"the key of the generation before is lost: it must be replaced at once"`
}

// ReportSteps tells how far generations have come on the agent's side.
type ReportSteps struct {
	Bundle  int            `json:"bundle,omitempty" doc:"version of the trust bundle that is loaded"`
	Refused *fleet.Refused `json:"refused,omitempty" doc:"the last trust bundle, or server, that the agent did not believe, since the last report of one"`
	Steps   []StepReport   `json:"steps"`

	// BundleError says why a newer bundle is not loaded; empty when there is none,
	// or it is.
	BundleError string        `json:"bundleError,omitempty" doc:"why a newer trust bundle is not loaded: a file or ConfigMap for verifiers cannot be written"`
	BundleHash  string        `json:"bundleHash,omitempty" doc:"SHA-256 of the signed trust bundle that is loaded, hexadecimal"`
	Canary      *CanaryReport `json:"canary,omitempty" doc:"the last handshake with a server of the CA that is to come"`
}

// CanaryReport is what an agent has seen of a server of the CA that is to come.
type CanaryReport struct {
	CA    string `json:"ca" doc:"id of the CA"`
	Error string `json:"error,omitempty" doc:"why the handshake failed; empty, if it did not"`
}

// StepReport is the report for one client: a step that was reached, or, with an
// error, one that was not.
type StepReport struct {
	Client     fleet.ClientKey `json:"client"`
	Generation int             `json:"generation"`
	Step       fleet.Step      `json:"step" enum:"delivered,installed,proven"`
	Error      string          `json:"error,omitempty"`
}

// ProveReply says what the gateway has seen: exactly this certificate and
// exactly this token, together.
type ProveReply struct {
	Cluster    string          `json:"cluster"`
	Client     fleet.ClientKey `json:"client"`
	Generation int             `json:"generation"`
	Serial     string          `json:"serial"`
	TokenID    string          `json:"tokenID"`
}
