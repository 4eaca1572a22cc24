package api

import (
	"encoding/json"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// AuditPage is one page of the ledger: entries to the byte as they are stored, and
// where. Without the filter for a chain positions have no gaps: where one is, an
// entry was deleted.
type AuditPage struct {
	Page[json.RawMessage]
	Positions []uint64 `json:"positions" doc:"where each of the items is stored, from 1"`
	End       uint64   `json:"end" doc:"position of the last entry that was ever stored"`
}

// RecordView is what is on record of one client, for comparing with the ledger.
type RecordView struct {
	Cluster     string             `json:"cluster"`
	Client      fleet.ClientKey    `json:"client" doc:"kind or kind/instance"`
	Number      int                `json:"number" doc:"highest generation that was ever used; 0 before the first"`
	Revoked     bool               `json:"revoked,omitempty"`
	Generations []RecordGeneration `json:"generations" doc:"oldest first, with those that the record has no place for and that have not ended"`
}

// RecordGeneration is one generation on record.
type RecordGeneration struct {
	Number      int       `json:"number"`
	At          time.Time `json:"at,omitzero" doc:"when it was asked for; absent of those that the record has no place for"`
	Serial      string    `json:"serial" doc:"serial number, lower-case hexadecimal"`
	Issuer      string    `json:"issuer" doc:"id of the CA"`
	Fingerprint string    `json:"fingerprint,omitempty" doc:"SHA-256 of the certificate in DER, hexadecimal"`
	TBS         string    `json:"tbs,omitempty" doc:"SHA-256 of its TBSCertificate (RFC 5280, 4.1.1.1), hexadecimal"`
	NotAfter    time.Time `json:"notAfter"`
	TokenID     string    `json:"tokenID" doc:"jti"`
	KeyID       string    `json:"keyID,omitempty" doc:"kid"`
}

// SignedView is one thing with a signature that lies in a bucket, beside the
// generations on record, in the terms of the ledger: for comparing with it.
type SignedView struct {
	audit.Signed
	Place string    `json:"place" doc:"where it lies: bucket, document, and what it is there"`
	At    time.Time `json:"at,omitzero" doc:"first moment of its validity"`

	CA      string      `json:"ca,omitempty" doc:"of a CA, its id"`
	Phase   fleet.Phase `json:"phase,omitempty" doc:"of a CA"`
	Outside bool        `json:"outside,omitempty" doc:"an offline root has signed it: the ledger does not name it"`
	Bundled bool        `json:"bundled,omitempty" doc:"of a CA: the trust bundle has it, or its offline root"`
	Severed bool        `json:"severed,omitempty" doc:"of a bridge: nobody may use it any more; only its serial number is kept"`
}

// RecordOf returns what is on record of a client.
func RecordOf(cluster string, client fleet.ClientKey, r *fleet.Record) RecordView {
	v := RecordView{Cluster: cluster, Client: client, Number: r.Number(), Revoked: r.Revoked != nil, Generations: []RecordGeneration{}}
	for _, f := range r.Former {
		v.Generations = append(v.Generations, RecordGeneration{Number: f.Number, Serial: f.Serial, Issuer: f.Issuer, NotAfter: f.NotAfter, TokenID: f.TokenID})
	}
	for _, g := range r.Generations {
		v.Generations = append(v.Generations, RecordGeneration{
			Number: g.Number, At: g.At, Serial: g.Certificate.Serial, Issuer: g.Certificate.Issuer, Fingerprint: g.Certificate.Fingerprint,
			TBS: g.Certificate.TBS, NotAfter: g.Certificate.NotAfter, TokenID: g.Token.ID, KeyID: g.Token.KeyID,
		})
	}
	return v
}
