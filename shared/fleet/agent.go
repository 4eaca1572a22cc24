package fleet

import (
	"slices"
	"time"
)

// Agent is the document of one cluster in the bucket "agents": who installs
// its credentials, and the requests that wait for a signature. All of it is
// public.
type Agent struct {
	ID         string                    `json:"id,omitempty" doc:"SHA-256 of the enrolment key, base64url; empty before enrolment"`
	SealKey    []byte                    `json:"sealKey,omitempty" doc:"HPKE public key (RFC 9180) to which tokens are sealed"`
	EnrolledAt time.Time                 `json:"enrolledAt,omitzero"`
	LastSeen   time.Time                 `json:"lastSeen,omitzero" doc:"last call, kept to a few minutes"`
	Version    string                    `json:"version,omitempty" doc:"version of the agent program"`
	Bundle     int                       `json:"bundle,omitempty" doc:"version of the trust bundle that it has loaded"`
	Join       *JoinToken                `json:"join,omitempty" doc:"join token that is open or was redeemed last"`
	Replaced   []string                  `json:"replaced,omitempty" doc:"ids of the agents before, newest first, at most MaxReplaced: who still calls as one of them is told of"`
	Requests   map[ClientKey]Request     `json:"requests,omitempty" doc:"standing certificate requests"`
	Failures   map[ClientKey]StepFailure `json:"failures,omitempty" doc:"what an agent could not do"`
	Life       AgentLife                 `json:"life,omitzero" doc:"what its calls have told of it"`
	Permits    map[ClientKey]Permit      `json:"permits,omitempty" doc:"locked-out clients that may come back, by the word of an operator"`
	Recoveries map[ClientKey]Recovery    `json:"recoveries,omitempty" doc:"recovery token of each client that is open or was redeemed last"`

	BundleHash string       `json:"bundleHash,omitempty" doc:"SHA-256 of the signed trust bundle that it has loaded, hexadecimal"`
	Canary     *CanaryProof `json:"canary,omitempty" doc:"its last handshake with a server of the CA that is to come"`

	BundleFailure *BundleFailure `json:"bundleFailure,omitempty" doc:"why it has not loaded a newer trust bundle"`
}

// MaxReplaced bounds the former agents that are remembered: beyond that an old
// one is a stranger like any other.
const MaxReplaced = 8

// TakeOver makes id the agent of the cluster. What waits was made by the one
// before, for keys that the new one lacks, and goes with it.
func (a *Agent) TakeOver(id string) {
	if a.ID == id {
		return
	}
	replaced := []string{}
	for _, before := range append([]string{a.ID}, a.Replaced...) {
		if before != "" && before != id && len(replaced) < MaxReplaced {
			replaced = append(replaced, before)
		}
	}
	a.ID, a.Replaced, a.Requests, a.Failures, a.Bundle, a.Life = id, replaced, nil, nil, 0, AgentLife{}
	a.BundleHash, a.Canary, a.BundleFailure = "", nil, nil
}

// CanaryProof is what an agent has seen of a server with a certificate of the
// incoming CA.
type CanaryProof struct {
	CA    string    `json:"ca" doc:"id of the CA"`
	Error string    `json:"error,omitempty" doc:"why the handshake failed; empty, if it did not"`
	Since time.Time `json:"since" doc:"since when it is so"`
}

// BundleFailure says why an agent cannot put the trust bundle where verifiers
// read it.
type BundleFailure struct {
	Error string    `json:"error"`
	Since time.Time `json:"since"`
}

// JoinToken is the record of a one-time join token.
type JoinToken struct {
	Hash      string    `json:"hash" doc:"SHA-256 of the token, base64url; the token itself is stored nowhere"`
	ExpiresAt time.Time `json:"expiresAt"`
	Replace   bool      `json:"replace,omitempty" doc:"it may take the place of an enrolled agent"`
	UsedBy    string    `json:"usedBy,omitempty" doc:"id of the agent that redeemed it; the same agent may repeat"`
}

// Recovery is the record of a recovery token: whoever presents the token gets
// one generation of one client, once. A later token of the client takes its
// place.
type Recovery struct {
	Hash       string    `json:"hash" doc:"SHA-256 of the token, base64url; the token itself is stored nowhere"`
	Generation int       `json:"generation" doc:"the generation that it is for"`
	Operation  string    `json:"operation" doc:"id of the recovery that it belongs to"`
	ExpiresAt  time.Time `json:"expiresAt" doc:"first moment at which it can no longer be redeemed"`
	UsedBy     string    `json:"usedBy,omitempty" doc:"JWK thumbprint of the key that redeemed it; the same key may repeat"`
	UsedAt     time.Time `json:"usedAt,omitzero"`
}

// Request is a standing certificate request: bound to its generation, and not
// to be replaced while it waits.
type Request struct {
	Generation int       `json:"generation" doc:"the generation that it is for"`
	CSR        []byte    `json:"csr" doc:"PKCS #10, DER (RFC 2986)"`
	Key        string    `json:"key" doc:"JWK thumbprint of its key (RFC 7638)"`
	FiledAt    time.Time `json:"filedAt"`
	Lost       bool      `json:"lost,omitempty" doc:"the key of the generation before is lost: it must be replaced at once"`
}

// StepFailure is the last thing that an agent reported as failed.
type StepFailure struct {
	Generation int       `json:"generation"`
	Step       Step      `json:"step" doc:"the step that was not reached"`
	Error      string    `json:"error"`
	Since      time.Time `json:"since"`
}

// Pickup is what waits for the agent of one client in the bucket "bundles".
type Pickup struct {
	Generation int    `json:"generation"`
	Agent      string `json:"agent" doc:"id of the agent that the token is sealed to"`
	Chain      []byte `json:"chain" doc:"client certificate and its issuer, PEM"`
	Token      []byte `json:"token" doc:"token, sealed with HPKE to the agent"`
	Trace      string `json:"trace,omitempty" doc:"traceparent (W3C Trace Context) of its issuance; empty if it was not traced"`
}

// Bundles is the document of one cluster in the bucket "bundles".
type Bundles struct {
	Clients map[ClientKey]Pickup `json:"clients,omitempty"`
	Answers []Answer             `json:"answers,omitempty" doc:"to gateways that brought the requests of programs; oldest first, bounded to MaxAnswers"`
	Server  *ServerCertificate   `json:"server,omitempty" doc:"only in the documents of gateways"`
	Canary  *ServerCertificate   `json:"canary,omitempty" doc:"only in the documents of gateways: of the CA that is incoming, for the name by which agents prove that they trust it"`
}

// Answer is what waits for the gateway that brought the request of a program:
// a generation, or why there is none. Its token is sealed to a key that lives in
// the memory of that gateway for as long as it waits.
type Answer struct {
	Command    string    `json:"command" doc:"id of the command that it answers"`
	At         time.Time `json:"at" doc:"when it was written, on the time of the machine; it is removed AnswerLife later"`
	Generation int       `json:"generation,omitempty"`
	Chain      []byte    `json:"chain,omitempty" doc:"client certificate and its issuer, PEM"`
	Token      []byte    `json:"token,omitempty" doc:"token, sealed with HPKE to the gateway"`
	Kind       ErrorKind `json:"kind,omitempty" doc:"kind of the refusal; empty if there is none"`
	Error      string    `json:"error,omitempty" doc:"why it was refused, and what would help"`
}

// What bounds the answers in a document.
const (
	MaxAnswers = 64
	AnswerLife = 5 * time.Minute
)

// PutAnswer adds an answer, takes out those that nobody has collected in time,
// and the oldest where there are too many.
func (b *Bundles) PutAnswer(a Answer) {
	b.DropAnswers(func(old Answer) bool { return old.Command == a.Command || a.At.Sub(old.At) >= AnswerLife })
	b.Answers = append(b.Answers, a)
	if over := len(b.Answers) - MaxAnswers; over > 0 {
		b.Answers = slices.Delete(b.Answers, 0, over)
	}
}

// DropAnswers takes out the answers that match, and reports whether there were
// any.
func (b *Bundles) DropAnswers(match func(Answer) bool) bool {
	before := len(b.Answers)
	b.Answers = slices.DeleteFunc(b.Answers, match)
	return len(b.Answers) != before
}

// Answer returns the answer to a command, or nil.
func (b *Bundles) Answer(command string) *Answer {
	for i := range b.Answers {
		if b.Answers[i].Command == command {
			return &b.Answers[i]
		}
	}
	return nil
}

// ServerCertificate is the certificate of a gateway, made at its request.
type ServerCertificate struct {
	CA       string    `json:"ca,omitempty" doc:"id of the CA that signed it"`
	Key      string    `json:"key" doc:"JWK thumbprint of the gateway's key"`
	Chain    []byte    `json:"chain" doc:"PEM"`
	NotAfter time.Time `json:"notAfter"`
	At       time.Time `json:"at,omitzero" doc:"when the gateway asked for it, by its clock"`
}
