package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/backup"
	"github.com/rotor-fleet/rotor/cmd/rotor/internal/cli"
	"github.com/rotor-fleet/rotor/cmd/rotor/internal/natsd"
	"github.com/rotor-fleet/rotor/cmd/rotor/internal/up"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/daemon"
)

func keyFlags(c *cobra.Command, k *backup.Key) {
	c.Flags().StringVar(&k.PassphraseFile, "passphrase-file", "", "`file` with the passphrase, mode 0600")
}

// backupCommand writes a backup of a running fleet.
func backupCommand() *cobra.Command {
	var o backup.Options
	var config, keyFile string
	var includeKEK bool
	c := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write the state of the fleet into one encrypted file, while it runs",
		Long: `Write the state of the fleet into one encrypted file, while it runs.

The CA key and the other keys are in it as they lie in the store: sealed under
the key-encryption key (issuer.key), which is not in it. Without that file a
backup is worthless: keep a copy of it elsewhere.

The file is one of age (age-encryption.org); with --recipient whoever writes
backups cannot read them. It is read with NATS, as a user that can write nothing.`,
		Example: `  rotor backup --data var --recipient age1... /backup/rotor-$(date +%F).age
  rotor backup --data var --passphrase-file pass.txt rotor.age
  rotor backup --config backup.yaml --recipient age1... rotor.age   # an external NATS server
  rotor backup verify --identity-file key.txt rotor.age`,
		Args: cli.ExactArgs("FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			data, err := c.Flags().GetString("data")
			if err != nil {
				return err
			}
			if !o.Key.Named() {
				return cli.Usage(c, "name a key: --passphrase-file FILE, or --recipient age1...")
			}
			if includeKEK {
				o.KeyFile = first(keyFile, filepath.Join(data, "issuer.key"))
			}
			if o.NATS, err = connect(config, data, bus.UserBackup); err != nil {
				return err
			}
			defer o.NATS.Close()
			o.File = args[0]
			h, m, err := backup.Write(c.Context(), o)
			if err != nil {
				return err
			}
			printBackup(c, o.File, h, m)
			if !includeKEK {
				_, _ = fmt.Fprintln(c.OutOrStdout(), "\nThe key-encryption key (issuer.key) is NOT in it, and without it the CA cannot be restored:\nkeep a copy of that file elsewhere, apart from this one.")
			}
			return nil
		},
	}
	flags := c.Flags()
	flags.StringVar(&config, "config", "", "configuration `file` whose section nats names an external server")
	flags.StringArrayVar(&o.Key.Recipients, "recipient", nil, "public key of age, `age1...`, that can open the backup; may be repeated")
	flags.BoolVar(&includeKEK, "include-kek", false, "put the key-encryption key into the backup: whoever opens it then holds the CA")
	flags.StringVar(&keyFile, "key-file", "", "key-encryption key for --include-kek (default issuer.key in the data folder)")
	keyFlags(c, &o.Key)
	c.AddCommand(verifyCommand())
	return c
}

func verifyCommand() *cobra.Command {
	var k backup.Key
	c := &cobra.Command{
		Use:   "verify FILE",
		Short: "Read all of a backup and check that it is whole",
		Long: `Read all of a backup and check that it is whole. Nothing is written, and no server
is needed; only what opens the file.`,
		Example: `  rotor backup verify --identity-file key.txt rotor.age
  rotor backup verify --passphrase-file pass.txt rotor.age`,
		Args: cli.ExactArgs("FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			if !k.Named() {
				return noKey(c)
			}
			content, err := backup.Open(args[0], k)
			if err != nil {
				return err
			}
			printBackup(c, args[0], content.Header, content.Manifest)
			return content.Close()
		},
	}
	c.Flags().StringVar(&k.IdentityFile, "identity-file", "", "identity `file` of age, mode 0600")
	keyFlags(c, &k)
	return c
}

func noKey(c *cobra.Command) error {
	return cli.Usage(c, "name a key: --passphrase-file FILE, or --identity-file FILE")
}

func printBackup(c *cobra.Command, file string, h backup.Header, m backup.Manifest) {
	out := c.OutOrStdout()
	_, _ = fmt.Fprintf(out, "%s is whole: %s, by Rotor %s\n", file, h.CreatedAt.Format(time.RFC3339), h.Rotor)
	var names []string
	for name := range m.Counts {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		_, _ = fmt.Fprintf(out, "  %-12s %d\n", strings.TrimPrefix(name, "KV_"), m.Counts[name])
	}
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// connect connects to the server that a configuration names, or else to the one
// that runs on a data folder.
func connect(config, data, user string) (*nats.Conn, error) {
	var c daemon.Config
	if config != "" {
		if err := daemon.Load(config, map[string]any{"nats": &c.NATS}); err != nil {
			return nil, err
		}
	} else {
		file, err := cli.ReadServerFile(data)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &cli.ExitError{Code: 1, Err: fmt.Errorf("no running Rotor found in %q: start it, or name an external NATS server with --config", data)}
		}
		if err != nil {
			return nil, err
		}
		c.NATS = daemon.NATSConfig{URL: file.NATS, NKeyFile: filepath.Join(data, "nats", natsd.BackupFile)}
	}
	// No second attempt: who asked is there to ask again.
	options := []nats.Option{nats.Name("rotor " + user), nats.CustomInboxPrefix(bus.InboxPrefix(user))}
	if c.NATS.NKeyFile != "" {
		nkey, err := nats.NkeyOptionFromSeed(c.NATS.NKeyFile)
		if err != nil {
			return nil, fmt.Errorf("nkey file %s: %w", c.NATS.NKeyFile, err)
		}
		options = append(options, nkey)
	}
	if c.NATS.CAFile != "" {
		options = append(options, nats.RootCAs(c.NATS.CAFile))
	}
	nc, err := nats.Connect(first(c.NATS.URL, nats.DefaultURL), options...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s: %w", c.NATS.URL, err)
	}
	return nc, nil
}

// restoreCommand brings a backup back.
func restoreCommand() *cobra.Command {
	var k backup.Key
	var t backup.Target
	var config, keyFile string
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Bring the state of a fleet back from a backup",
		Long: `Bring the state of a fleet back from a backup, into the data folder of a
` + "`rotor up`" + ` that is stopped, or with --config into an external NATS server whose
services are stopped.

All of the file is checked before anything is written, and that issuer.key opens
its keys. Where the store still has something, what happened in the world stays:
newer generations, revocations, agents. Only what was declared goes back, and
that needs --force. Numbers of generations that may have been used since the
backup, serial numbers and token ids are never used again.

Revocations made since the backup are lost with a lost store: name them with
--revoke. A restore that was interrupted is run again; until it has ended
nothing is signed.`,
		Example: `  rotor restore --data var --passphrase-file pass.txt rotor.age
  rotor restore --data var --identity-file key.txt --revoke edge-07/kms rotor.age`,
		Args: cli.ExactArgs("FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			data, err := c.Flags().GetString("data")
			if err != nil {
				return err
			}
			if !k.Named() {
				return noKey(c)
			}
			for _, name := range t.Revoke {
				if cluster, client, _ := strings.Cut(name, "/"); cluster == "" || client == "" {
					return cli.Usage(c, "--revoke %q: write it as CLUSTER/CLIENT", name)
				}
			}
			content, err := backup.Open(args[0], k)
			if err != nil {
				return err
			}
			defer func() { _ = content.Close() }()
			if err := content.CheckKeys(first(keyFile, filepath.Join(data, "issuer.key"))); err != nil {
				return err
			}
			run := func(nc *nats.Conn) error {
				t.NATS = nc
				result, err := backup.Restore(c.Context(), t, content)
				if err != nil {
					return err
				}
				printRestore(c, content.Header, result)
				if own := filepath.Join(data, "issuer.key"); config == "" && keyFile != "" {
					if _, err := os.Stat(own); errors.Is(err, fs.ErrNotExist) {
						_, _ = fmt.Fprintf(c.OutOrStdout(), "\nPut the key-encryption key to %s before `rotor up` is started.\n", own)
					}
				}
				return nil
			}
			if config == "" {
				return up.Offline(c.Context(), data, slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn})), run)
			}
			var common daemon.Config
			if err := daemon.Load(config, map[string]any{"nats": &common.NATS}); err != nil {
				return err
			}
			t.Replicas = common.NATS.Replicas
			nc, err := connect(config, data, bus.UserRestore)
			if err != nil {
				return err
			}
			defer nc.Close()
			if err := bus.Setup(c.Context(), nc, t.Replicas); err != nil {
				return err
			}
			if err := backup.Idle(c.Context(), nc); err != nil {
				return err
			}
			return run(nc)
		},
	}
	flags := c.Flags()
	flags.StringVar(&config, "config", "", "configuration `file` whose section nats names an external server")
	flags.StringVar(&keyFile, "key-file", "", "key-encryption key (default issuer.key in the data folder)")
	flags.StringVar(&k.IdentityFile, "identity-file", "", "identity `file` of age, mode 0600")
	flags.BoolVar(&t.Force, "force", false, "also where what was declared since the backup goes back")
	flags.StringArrayVar(&t.Revoke, "revoke", nil, "`CLUSTER/CLIENT` that was revoked since the backup; may be repeated")
	keyFlags(c, &k)
	return c
}

func printRestore(c *cobra.Command, h backup.Header, r backup.Result) {
	_, _ = fmt.Fprintf(c.OutOrStdout(), `restored the backup of %s: %d clusters, %d clients
  %d clients have a record in the store that had come at least as far: it stays
  %d clients are marked as revoked by --revoke
What was declared, enrolled or revoked after that moment, and lay in no store any more, is not known:
apply the fleet file again, and name revoked clients with --revoke.
`, h.CreatedAt.Format(time.RFC3339), r.Clusters, r.Clients, r.Kept, r.Revoked)
}
