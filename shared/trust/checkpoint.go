package trust

import (
	"cmp"
	"crypto"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// CheckpointType is the typ of a signed checkpoint.
const CheckpointType = "rotor-checkpoint+jws"

// Checkpoint says where the chains of the audit ledger have come to: an entry up
// to there cannot be taken away, and a chain not be made anew, without the fleet
// key.
type Checkpoint struct {
	At    time.Time       `json:"at"` // time of the newest entry that it covers, on the clock of the fleet
	Heads map[string]Head `json:"heads"`
}

// Head is the last entry of a chain.
type Head struct {
	Seq      int64  `json:"seq"`
	Hash     string `json:"hash"`
	Position uint64 `json:"position"` // among the entries of all chains, from 1
}

// Compare orders checkpoints of one ledger: negative if c is of before o.
func (c Checkpoint) Compare(o Checkpoint) int {
	for _, chain := range slices.Sorted(maps.Keys(o.Heads)) {
		if n := cmp.Compare(c.Heads[chain].Seq, o.Heads[chain].Seq); n != 0 {
			return n
		}
	}
	return cmp.Compare(len(c.Heads), len(o.Heads))
}

// SignCheckpoint returns the signed form of a checkpoint. The same checkpoint
// gives the same text.
func SignCheckpoint(signer crypto.Signer, c Checkpoint) (string, error) {
	payload, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("sign checkpoint: %w", err)
	}
	signed, err := signJWS(signer, CheckpointType, payload)
	if err != nil {
		return "", fmt.Errorf("sign checkpoint: %w", err)
	}
	return signed, nil
}

// VerifyCheckpoint returns the checkpoint if the key with this pin has signed it,
// and the pin. With an empty pin any key will do: the caller has to look whether
// it is that of the fleet.
func VerifyCheckpoint(signed, pin string) (Checkpoint, string, error) {
	var c Checkpoint
	signer, err := openJWS(signed, CheckpointType, pin, &c)
	if err != nil {
		return Checkpoint{}, signer, fmt.Errorf("checkpoint: %w", err)
	}
	for chain, head := range c.Heads {
		if chain == "" || head.Seq < 1 || head.Hash == "" {
			return Checkpoint{}, signer, fmt.Errorf("checkpoint: chain %q ends at entry %d with the hash %q", chain, head.Seq, head.Hash)
		}
	}
	return c, signer, nil
}
