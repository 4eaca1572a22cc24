package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/ledger"
	"github.com/rotor-fleet/rotor/shared/audit"
)

func (a *app) auditVerifyCommand() *cobra.Command {
	var file, fleetKey string
	c := &cobra.Command{
		Use:   "verify",
		Short: "Check the ledger, and that it and the records say the same",
		Long: `Check the ledger from its first entry on, here and not at the server:

- every chain: an entry that was changed, left out or moved is named;
- every checkpoint, which the fleet key has signed: so an end that was cut off, or
  a chain that was made anew, is found up to the last ten seconds;
- the records: every certificate and token on record was written into the ledger
  before it was signed, and what the ledger says was signed is what is on record;
- the buckets: so was every CA certificate, bridge, CRL, trust bundle, certificate of
  a gateway and pick-up, and no older one was put in the place of a later one.

The exit code is 1 if something is wrong. With --file an export is checked, which
needs no server and says nothing of the records. The fleet key is the one that the
server names, or of an export the one that has signed it: give the pin that agents
have, --fleet-key, to believe neither.`,
		Example: `  rotor audit verify
  rotor audit verify --file ledger.jsonl --fleet-key sha256:4b1d...`,
		Args: ExactArgs(),
	}
	c.Flags().StringVar(&file, "file", "", "an export to check; no server is asked")
	c.Flags().StringVar(&fleetKey, "fleet-key", "", "pin of the fleet key, sha256:<hex>, as agents have it")
	output := formatFlag(c, "table", "json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := output.check(c); err != nil {
			return err
		}
		if fleetKey != "" && !strings.HasPrefix(fleetKey, "sha256:") {
			return usage(c, "--fleet-key %q: want sha256:<hex>, as agents have it", fleetKey)
		}
		var report verified
		var err error
		if file != "" {
			report, err = verifyFile(file, fleetKey)
		} else {
			report, err = a.verifyServer(c, fleetKey)
		}
		if errors.Is(err, audit.ErrBroken) {
			return &ExitError{Code: exitFailure, Err: err, Hint: "somebody has changed the ledger or the records, or their store is damaged: compare with an export or a backup of before"}
		}
		if err != nil {
			return err
		}
		return a.printVerified(c.OutOrStdout(), output, report)
	}
	return c
}

// verified is what there is to say about a ledger in which nothing is wrong.
type verified struct {
	Chains      []chainView        `json:"chains"`
	Entries     int64              `json:"entries"`
	Checkpoints ledger.Checkpoints `json:"checkpoints"`
	Records     *recordsView       `json:"records,omitempty"`
}

// chainView is one chain of a ledger that is whole.
type chainView struct {
	Chain   string      `json:"chain"`
	Entries int64       `json:"entries"`
	Hash    string      `json:"hash"`
	Last    audit.Entry `json:"last"`
}

// recordsView is what was held against the ledger.
type recordsView struct {
	Clients      int `json:"clients"`
	Certificates int `json:"certificates"` // on record, each named by an entry
	Withheld     int `json:"withheld"`     // named, and thrown away before anybody saw them
	Waiting      int `json:"waiting"`      // named, and not on record yet
	Others       int `json:"others"`       // signed things in buckets beside them, each named by an entry
}

func report(c *ledger.Checker) verified {
	v := verified{Chains: []chainView{}, Checkpoints: c.Checkpoints()}
	heads := c.Heads()
	for _, name := range slices.Sorted(maps.Keys(heads)) {
		e := heads[name]
		v.Chains = append(v.Chains, chainView{name, e.Seq, e.Hash, e})
		v.Entries += e.Seq
	}
	return v
}

func verifyFile(path, fleetKey string) (verified, error) {
	check := &ledger.Checker{FleetKey: fleetKey}
	if err := eachLine(path, check.Add); err != nil {
		return verified{}, err
	}
	if err := check.Finish(0); err != nil {
		return verified{}, fmt.Errorf("%s: %w", path, err)
	}
	return report(check), nil
}

func (a *app) printVerified(w io.Writer, output *format, v verified) error {
	if done, err := output.document(w, v); done {
		return err
	}
	if len(v.Chains) > 0 {
		t := a.table("CHAIN", "ENTRIES", "COVERED", "LAST ENTRY", "ACTION", "HASH")
		for _, c := range v.Chains {
			t.add(c.Chain, fmt.Sprint(c.Entries), fmt.Sprint(v.Checkpoints.Covered[c.Chain]), moment(c.Last.Time), c.Last.Action, c.Hash)
		}
		if err := t.print(w); err != nil {
			return err
		}
	}
	lines := []string{}
	if k := v.Checkpoints; k.Count > 0 {
		line := fmt.Sprintf("%s, the newest of %s, signed by the fleet key %s", plural(k.Count, "checkpoint"), moment(k.Newest), k.SignedBy)
		if !k.Pinned {
			line += ": compare it with the pin that agents have"
		}
		lines = append(lines, line)
	} else {
		lines = append(lines, "no checkpoint: whether the end was cut off is not known")
	}
	if r := v.Records; r != nil {
		line := fmt.Sprintf("%s on record of %s, each in the ledger", plural(r.Certificates, "certificate"), plural(r.Clients, "client"))
		if r.Withheld > 0 {
			line += fmt.Sprintf("; %d more were announced and thrown away", r.Withheld)
		}
		if r.Waiting > 0 {
			line += fmt.Sprintf("; %d are not on record yet", r.Waiting)
		}
		lines = append(lines, line, fmt.Sprintf("%s of CAs, gateways, trust bundle, CRLs and pick-ups in the buckets, each in the ledger", plural(r.Others, "signature")))
	}
	lines = append(lines, fmt.Sprintf("ok: %d entries in %s", v.Entries, plural(len(v.Chains), "chain")))
	_, err := fmt.Fprintln(w, strings.Join(lines, "\n"))
	return err
}
