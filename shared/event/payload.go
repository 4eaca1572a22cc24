package event

import (
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Cluster is the data of facts about a cluster as a whole.
type Cluster struct {
	Kind    fleet.ClusterKind `json:"kind,omitempty"`
	Parent  string            `json:"parent,omitempty"`
	Release string            `json:"release,omitempty"`
	Clients []fleet.ClientKey `json:"clients,omitempty"`
}

// Upgrade is the data of cluster.upgraded.
type Upgrade struct {
	Release     string    `json:"release"`
	From        string    `json:"from,omitempty"`
	CompletedAt time.Time `json:"completedAt"`
	Rotation    string    `json:"rotation" doc:"id of the rotation that follows from it"`
}

// Release is the data of release.published.
type Release struct {
	Version     string    `json:"version"`
	PublishedAt time.Time `json:"publishedAt"`
}

// Window is the data of facts about the update window of a cluster.
type Window struct {
	Release  string            `json:"release,omitempty" doc:"what the cluster runs"`
	State    fleet.WindowState `json:"state"`
	Missed   []string          `json:"missed,omitempty" doc:"missed releases, oldest first"`
	Since    time.Time         `json:"since,omitzero" doc:"publication of the first missed release"`
	Deadline time.Time         `json:"deadline,omitzero"`
	Level    int               `json:"level" doc:"0 at first, then one more with each escalation"`
}

// Credentials is the data of facts about credentials; one fact names all the
// clients of one cluster that it concerns.
type Credentials struct {
	Operation string       `json:"operation,omitempty" doc:"id of the command that led to it"`
	Rotation  string       `json:"rotation,omitempty" doc:"id of the rotation it belongs to"`
	Reason    fleet.Reason `json:"reason,omitempty"`
	Clients   []Client     `json:"clients"`
}

// Client is one client in a fact about credentials.
type Client struct {
	Client     fleet.ClientKey `json:"client"`
	Generation int             `json:"generation"`
	Serial     string          `json:"serial,omitempty" doc:"serial number of the certificate, hexadecimal"`
	TokenID    string          `json:"tokenID,omitempty"`
	NotAfter   time.Time       `json:"notAfter,omitzero" doc:"end of the certificate"`
	ExpiresAt  time.Time       `json:"expiresAt,omitzero" doc:"end of the token"`
	RenewAt    time.Time       `json:"renewAt,omitzero"`
	Level      int             `json:"level,omitempty" doc:"of credential.expiring: 1 warning, 2 critical"`
	Cut        bool            `json:"cut,omitempty" doc:"validity was cut to the life of the CA"`
	Credential string          `json:"credential,omitempty" doc:"of credential.expired: certificate, token or both"`
	Error      string          `json:"error,omitempty" doc:"why, and what would help"`
}

// Revocation is the data of credential.revoked and client.reinstated.
type Revocation struct {
	Operation   string          `json:"operation" doc:"id of the command that led to it"`
	Client      fleet.ClientKey `json:"client"`
	Reason      fleet.CRLReason `json:"reason" doc:"reason of the revocation (RFC 5280, 5.3.1), such as key-compromise"`
	By          string          `json:"by,omitempty" doc:"who asked"`
	Since       time.Time       `json:"since" doc:"moment of the revocation"`
	Credentials []Client        `json:"credentials,omitempty" doc:"certificates and tokens that are revoked and have not ended"`
}

// Agent is the data of facts about an agent.
type Agent struct {
	Agent   string `json:"agent" doc:"id of the agent"`
	Version string `json:"version,omitempty"`
	Replace bool   `json:"replaced,omitempty" doc:"it took the place of another"`

	LastSeen time.Time `json:"lastSeen,omitzero" doc:"last call"`
	Since    time.Time `json:"since,omitzero" doc:"when what is told of began"`
	Skew     int       `json:"skew,omitempty" doc:"seconds by which its clock is ahead"`
	How      string    `json:"how,omitempty" doc:"of agent.duplicated: alive or older"`
	Server   string    `json:"server,omitempty" doc:"of bundle.refused: address under which it was offered"`
	Reason   string    `json:"reason,omitempty"`
}

// Refusal is the data of signin.refused.
type Refusal struct {
	What       string           `json:"what" enum:"join,recovery,login,agent" doc:"what was tried: to redeem a join or recovery token, to sign in, or to call as an agent that was replaced"`
	Client     *fleet.ClientKey `json:"client,omitempty" doc:"client concerned; absent where it is the cluster's agent"`
	Generation int              `json:"generation,omitempty" doc:"generation of the client that was asked for"`
	Agent      string           `json:"agent,omitempty" doc:"id of the agent, or thumbprint of the key, that was refused"`
	Reason     string           `json:"reason" doc:"why"`
}

// What a Refusal is about.
const (
	RefusedJoin     = "join"
	RefusedRecovery = "recovery"
	RefusedLogin    = "login"
	RefusedAgent    = "agent"
)

// Authority is the data of facts about the authority.
type Authority struct {
	What     string    `json:"what" enum:"ca,token"`
	ID       string    `json:"id"`
	NotAfter time.Time `json:"notAfter,omitzero"`

	Rollout    string `json:"rollout,omitempty" doc:"id of the rotation of the authority it belongs to"`
	Succession bool   `json:"succession,omitempty" doc:"by time, as the CA came near its end and nobody had rotated it"`
}

// Keystore is the data of facts about the HSM with the keys of the CA.
type Keystore struct {
	Since time.Time `json:"since,omitzero" doc:"since when an issuer cannot use it; absent if it can"`
	Why   string    `json:"why,omitempty" doc:"the last error"`
}

// Rollout is the data of facts about a rotation of the authority.
type Rollout struct {
	Rollout string              `json:"rollout,omitempty" doc:"id; absent before there is one"`
	Kind    fleet.RolloutKind   `json:"kind" enum:"ca,token"`
	Reason  fleet.RolloutReason `json:"reason,omitempty"`
	Phase   fleet.RolloutPhase  `json:"phase,omitempty"`
	From    string              `json:"from,omitempty" doc:"id of the generation that is replaced"`
	To      string              `json:"to,omitempty" doc:"id of the generation that replaces it"`
	Level   int                 `json:"level,omitempty" doc:"of authority.due: 0 in time, 1 late, 2 very late; of authority.held: which day"`
	By      time.Time           `json:"activeBy,omitzero" doc:"when another CA should sign at the latest"`
	End     time.Time           `json:"end,omitzero" doc:"when the CA expires"`
	Missing []fleet.Laggard     `json:"missing,omitempty" doc:"the first who are waited for, at most MaxFailures"`
	Count   int                 `json:"missingCount,omitempty" doc:"of all who are waited for"`
	Since   time.Time           `json:"since,omitzero" doc:"of authority.held: since when it waits"`
	Halted  string              `json:"halted,omitempty" doc:"why it does not go on by itself"`

	ReplacedBy string `json:"replacedBy,omitempty" doc:"of authority.rolledback: id of the rotation that has taken it over, as the new CA is compromised"`
}

// Rotation is the data of facts about a rotation.
type Rotation struct {
	Rotation string       `json:"rotation"`
	Reason   fleet.Reason `json:"reason"`
	Clusters int          `json:"clusters"`
	Total    int          `json:"total" doc:"clients concerned"`
	Rotated  int          `json:"rotated"`
	Failed   int          `json:"failed"`
	Failures []Failure    `json:"failures,omitempty" doc:"the first failures, at most MaxFailures"`
	Wave     int          `json:"wave,omitempty" doc:"of one in waves: the wave under way"`
	Halt     int          `json:"halt,omitempty" doc:"of rotation.halted and resumed: number of the halt"`
	Why      string       `json:"why,omitempty" doc:"of rotation.halted: why, in words"`
	By       string       `json:"by,omitempty" doc:"of rotation.resumed and cancelled: who asked"`
}

// MaxFailures bounds the failures named in one event.
const MaxFailures = 20

// Failure is one client that a rotation could not rotate.
type Failure struct {
	Cluster string          `json:"cluster"`
	Client  fleet.ClientKey `json:"client"`
	Reason  string          `json:"reason"`
	Outcome fleet.Outcome   `json:"outcome,omitempty" doc:"failed, or needs-recovery"`
}

// Alert is the data of facts about messages to people.
type Alert struct {
	Fingerprint string         `json:"fingerprint"`
	Rule        string         `json:"rule"`
	Severity    fleet.Severity `json:"severity"`
	Channel     string         `json:"channel"`
	About       string         `json:"about" doc:"firing/<level> or resolved"`
	Error       string         `json:"error,omitempty"`
}

// Letter is the data of facts about dead letters.
type Letter struct {
	Letter   string    `json:"letter" doc:"id"`
	Service  string    `json:"service" doc:"who gave it up, and tries it again"`
	Source   string    `json:"source" doc:"COMMANDS or EVENTS; channel for a message to people"`
	Consumer string    `json:"consumer" doc:"consumer of the stream, or name of the channel"`
	Subject  string    `json:"subject" doc:"where the message was published; of a channel: rule of the alert and what the message says"`
	Reason   string    `json:"reason" doc:"error of the last attempt"`
	Attempts int       `json:"attempts"`
	First    time.Time `json:"first" doc:"when the message came to be"`
	By       string    `json:"by,omitempty" doc:"who had it tried again or dropped"`
}

// RotateCommand asks the scheduler for a rotation.
type RotateCommand struct {
	Rotation string            `json:"rotation" doc:"id that the rotation shall have"`
	Clusters []string          `json:"clusters"`
	Clients  []fleet.ClientKey `json:"clients,omitempty" doc:"only these; all, if empty"`
	Force    bool              `json:"force,omitempty"`
	Reason   fleet.Reason      `json:"reason,omitempty" doc:"rotation, if absent; recovery, if the clients have to be let back"`
	By       string            `json:"by,omitempty"`

	Waves *fleet.WaveOptions `json:"waves,omitempty" doc:"go in waves; all at once, if absent"`
}

// SteerAction is what shall be done with a rotation that has not ended.
type SteerAction string

// The actions.
const (
	SteerResume  SteerAction = "resume"  // accept what has failed and go on
	SteerExclude SteerAction = "exclude" // leave a cluster out
	SteerInclude SteerAction = "include" // take an exclusion back
	SteerCancel  SteerAction = "cancel"  // begin nothing more, and end
)

// SteerCommand asks the scheduler to go on with a rotation in another way.
type SteerCommand struct {
	Rotation string      `json:"rotation"`
	Action   SteerAction `json:"action" enum:"resume,exclude,include,cancel"`
	Cluster  string      `json:"cluster,omitempty" doc:"of exclude and include"`
	Reason   string      `json:"reason,omitempty" doc:"why, in the words of who asked"`
	Halt     int         `json:"halt,omitempty" doc:"of resume: the halt that was seen; a later one is not resumed"`
	Retry    bool        `json:"retry,omitempty" doc:"of resume: try what has failed again"`
	By       string      `json:"by"`
	At       time.Time   `json:"at"`
}

// IssueCommand asks the issuer for the next generations of a cluster's clients.
// The same command always leads to the same certificates.
type IssueCommand struct {
	Reason   fleet.Reason  `json:"reason"`
	Rotation string        `json:"rotation,omitempty"`
	At       time.Time     `json:"at" doc:"moment from which validity counts, whole seconds"`
	Clients  []IssueClient `json:"clients"`
}

// IssueClient is one client to issue for.
type IssueClient struct {
	Client     fleet.ClientKey `json:"client"`
	Generation int             `json:"generation" doc:"the generation to make; nothing happens if it exists"`
	Life       fleet.Life      `json:"life" doc:"validity wanted"`
	RenewAt    time.Time       `json:"renewAt" doc:"renewal moment drawn for it"`
}

// CertifyCommand asks the issuer for a server certificate. The private key
// stays with the gateway.
type CertifyCommand struct {
	CSR   []byte    `json:"csr" doc:"PKCS #10, DER"`
	Names []string  `json:"names,omitempty" doc:"DNS names and IP addresses to certify"`
	At    time.Time `json:"at"`
	CA    string    `json:"ca,omitempty" doc:"id of the CA that shall sign, while it is incoming: for the canary alone; the one that signs, if empty"`
}

// PhaseCommand asks the issuer for one change of phase. What is done already
// has no effect; what is out of order is refused.
type PhaseCommand struct {
	Rollout     string            `json:"rollout" doc:"id of the rotation of the authority"`
	Kind        fleet.RolloutKind `json:"kind" enum:"ca,token"`
	Move        fleet.Move        `json:"move" enum:"prepare,activate,retire,withdraw,restore,taint"`
	ID          string            `json:"id,omitempty" doc:"CA or token key that moves; absent of prepare"`
	From        string            `json:"from" doc:"CA or token key that signed when the rotation began"`
	Bundle      int               `json:"bundle,omitempty" doc:"of activate: version of the trust bundle on which trust was proven"`
	Life        fleet.Duration    `json:"life,omitempty" doc:"of prepare: life of the new CA"`
	Certificate []byte            `json:"certificate,omitempty" doc:"of prepare: PEM of a CA that an offline root has signed, with those between"`
	Anchor      []byte            `json:"anchor,omitempty" doc:"of prepare: PEM of the offline root"`
	Tainted     bool              `json:"tainted,omitempty" doc:"of prepare and activate: one that has signed is compromised, so nothing is proven first"`
	Compromised []string          `json:"compromised,omitempty" doc:"CAs to be marked as compromised with this change; absent of one that is tainted: the CA that signed when the rotation began"`
	Except      []string          `json:"except,omitempty" doc:"of retire: clusters whose certificates do not count"`
	By          string            `json:"by,omitempty" doc:"who asked"`
	At          time.Time         `json:"at" doc:"moment of the change, whole seconds"`
}

// ExternalCommand asks the issuer for the request of a CA to come. While one
// waits, it is the answer.
type ExternalCommand struct {
	By string    `json:"by,omitempty"`
	At time.Time `json:"at"`
}

// RolloutAction is what is asked of a rotation of the authority.
type RolloutAction string

// The actions.
const (
	RolloutStart    RolloutAction = "start"
	RolloutBack     RolloutAction = "rollback"
	RolloutResume   RolloutAction = "resume"  // go on after a halt
	RolloutExclude  RolloutAction = "exclude" // wait no more for a cluster
	RolloutInclude  RolloutAction = "include" // wait for it again
	RolloutRetireIt RolloutAction = "retire"  // of a taint: the old CA goes
)

// RolloutCommand asks the scheduler to begin, steer or take back a rotation of
// the authority.
type RolloutCommand struct {
	Rollout string              `json:"rollout" doc:"id that it has, or shall have"`
	Kind    fleet.RolloutKind   `json:"kind" enum:"ca,token"`
	Action  RolloutAction       `json:"action" enum:"start,rollback,resume,exclude,include,retire"`
	Reason  fleet.RolloutReason `json:"reason,omitempty" doc:"of start: operator, import or taint"`
	Cluster string              `json:"cluster,omitempty" doc:"of exclude and include"`
	Why     string              `json:"why,omitempty" doc:"of exclude: the operator's reason"`
	By      string              `json:"by,omitempty"`
	At      time.Time           `json:"at"`

	CA string `json:"ca,omitempty" doc:"of start, taint: id of the CA that is compromised; absent for the one that signs"`

	Canary      string `json:"canary,omitempty" doc:"of start: cluster that is reissued first; chosen, if empty"`
	MaxParallel int    `json:"maxParallel,omitempty" doc:"of start: clusters that are reissued at once"`
	Certificate []byte `json:"certificate,omitempty" doc:"of start, import: PEM of the CA, and of those between it and its root"`
	Anchor      []byte `json:"anchor,omitempty" doc:"of start, import: PEM of the offline root"`
}

// LoginCommand asks the issuer for the next generation of one client, whose
// program has shown a token and waits at a gateway. The generation is settled by
// its key: the same client, generation and key always lead to the same certificate.
type LoginCommand struct {
	Client     fleet.ClientKey `json:"client"`
	Reason     fleet.Reason    `json:"reason" enum:"login,recovery"`
	Rotation   string          `json:"rotation,omitempty" doc:"id of the recovery that it belongs to"`
	Shown      int             `json:"shown,omitempty" doc:"generation whose token was shown; absent with a recovery token"`
	Generation int             `json:"generation" doc:"the generation to make, or to answer with if it exists"`
	CSR        []byte          `json:"csr" doc:"PKCS #10, DER"`
	At         time.Time       `json:"at" doc:"moment from which validity counts, whole seconds"`
	Life       fleet.Life      `json:"life" doc:"validity wanted"`
	RenewAt    time.Time       `json:"renewAt" doc:"renewal moment drawn for it"`
	SealTo     []byte          `json:"sealTo" doc:"HPKE public key (RFC 9180) of the gateway that waits"`
	AskedAt    time.Time       `json:"askedAt" doc:"on the time of the machine: a command that nobody waits for any more makes nothing"`
}

// RevokeCommand asks the issuer to revoke a client.
type RevokeCommand struct {
	Client fleet.ClientKey `json:"client"`
	Reason fleet.CRLReason `json:"reason"`
	By     string          `json:"by" doc:"who asked"`
	At     time.Time       `json:"at" doc:"moment of the revocation"`
}

// ReinstateCommand asks the issuer to end the revocation of a client.
type ReinstateCommand struct {
	Client fleet.ClientKey `json:"client"`
	By     string          `json:"by" doc:"who asked"`
	At     time.Time       `json:"at"`
}

// Action is what shall be done with a dead letter.
type Action string

// The actions.
const (
	ActionReplay Action = "replay"
	ActionDrop   Action = "drop"
)

// SettleCommand asks the service that gave a letter up to try it again or to
// drop it.
type SettleCommand struct {
	Letter   string `json:"letter" doc:"id"`
	Revision uint64 `json:"revision" doc:"of the letter as it was seen; one that has failed again since is not tried once more"`
	Action   Action `json:"action" enum:"replay,drop"`
	By       string `json:"by,omitempty"`
}
