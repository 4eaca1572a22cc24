package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
)

func (a *app) auditCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "audit",
		Short: "Verify and export the ledger of what was done",
		Long: `The ledger says what was done, when, and at whose request. Each service that writes
has a chain in it, in which every entry holds the hash of the one before: an entry
that is changed, left out or moved is found.`,
		Example: `  rotor audit verify
  rotor audit export --file ledger.jsonl`,
		Args: NoSubcommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.auditVerifyCommand(), a.auditExportCommand())
	return c
}

func (a *app) auditExportCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "export",
		Short: "Write the ledger as lines of JSON",
		Long: `Write the ledger as lines of JSON, oldest first, one entry a line as it is stored.
The file appears whole or not at all, mode 0600.

It can be checked with rotor audit verify --file, or without Rotor: docs/ledger.md
has the format, docs/verify-ledger.py is a verifier of its own.`,
		Example: `  rotor audit export --file ledger.jsonl
  rotor audit export | jq -r 'select(.action == "client.revoke") | [.time, .cluster, .client, .reason] | @tsv'`,
		Args: ExactArgs(),
	}
	c.Flags().StringVar(&file, "file", "", "where to write (default standard output)")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if file == "" {
			return a.export(c, c.OutOrStdout())
		}
		f, err := os.CreateTemp(filepath.Dir(file), ".rotor-audit-*") // mode 0600
		if err != nil {
			return fmt.Errorf("export: %w", err)
		}
		defer func() { _ = os.Remove(f.Name()) }() // gone by its new name, if all went well
		if err := errors.Join(a.export(c, f), f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("export: %w", err)
		}
		return os.Rename(f.Name(), file)
	}
	return c
}

func (a *app) export(c *cobra.Command, w io.Writer) error {
	out := bufio.NewWriter(w)
	_, err := a.eachEntry(c, func(_ uint64, raw []byte) error {
		var line bytes.Buffer
		if err := json.Compact(&line, raw); err != nil {
			return err
		}
		line.WriteByte('\n')
		_, err := out.Write(line.Bytes())
		return err
	})
	return errors.Join(err, out.Flush())
}

// eachEntry passes on every entry of the ledger with its position, oldest first,
// and returns the position of the last that was ever stored.
func (a *app) eachEntry(c *cobra.Command, f func(position uint64, raw []byte) error) (end uint64, err error) {
	client, err := a.client()
	if err != nil {
		return 0, err
	}
	for query := (url.Values{}); ; {
		var page api.AuditPage
		if err := client.Call(c.Context(), http.MethodGet, api.PathAudit+"?"+query.Encode(), nil, &page); err != nil {
			return end, err
		}
		if len(page.Positions) != len(page.Items) {
			return end, fmt.Errorf("the gateway gave %d entries and %d positions: it is of another version than this rotor, %s", len(page.Items), len(page.Positions), a.Version)
		}
		for i, raw := range page.Items {
			if err := f(page.Positions[i], raw); err != nil {
				return end, err
			}
		}
		if len(page.Items) > 0 || end == 0 {
			end = page.End // of an empty page it may be of an entry that came just now
		}
		if page.Next == "" {
			return end, nil
		}
		query.Set("cursor", page.Next)
	}
}

// maxLine bounds a line of an export, in bytes: entries are far shorter.
const maxLine = 1 << 20

// eachLine passes on every line of an export with its number, which is the
// position of the entry.
func eachLine(path string, f func(number uint64, raw []byte) error) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, maxLine)
	for number := uint64(1); lines.Scan(); number++ {
		if err := f(number, lines.Bytes()); err != nil {
			return fmt.Errorf("%s:%d: %w", path, number, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("verify %s: %w", path, err)
	}
	return nil
}
