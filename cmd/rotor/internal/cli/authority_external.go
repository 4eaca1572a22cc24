package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func (a *app) authorityCSRCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "csr",
		Short: "Make the request of a CA for an offline root to sign",
		Long: `Make the key of a CA to come, which stays with the issuer, and print the request for
an offline root to sign (PKCS #10, PEM). While one waits, that is printed again.
What the root has signed is brought back with rotor authority import.`,
		Example: `  rotor authority csr --file issuing.csr
  openssl x509 -req -in issuing.csr -copy_extensions copy -CA root.pem -CAkey root.key -days 365 -out issuing.pem
  rotor authority import --certificate issuing.pem --root root.pem`,
		Args: ExactArgs(),
	}
	c.Flags().StringVar(&file, "file", "", "where to write the request (default standard output)")
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := a.asking(c, true, "")
		if err != nil {
			return err
		}
		r, err := askUntilAnswered(c.Context(), func(ctx context.Context) (api.ExternalRequest, error) { return client.External(ctx) })
		if err != nil {
			return err
		}
		if file == "" {
			_, err = io.WriteString(c.OutOrStdout(), printableLines(r.CSR))
		} else if err = os.WriteFile(file, []byte(r.CSR), 0o600); err != nil {
			err = fmt.Errorf("write the request: %w", err)
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.ErrOrStderr(), "the request of CA %d: have it signed, then rotor authority import --certificate FILE --root FILE\n", r.Number)
		return err
	}
	return c
}

func (a *app) authorityImportCommand() *cobra.Command {
	var certificate, root string
	var wait, yes bool
	c := &cobra.Command{
		Use:   "import --certificate FILE --root FILE",
		Short: "Rotate to a CA that an offline root has signed",
		Long: `Bring the certificate that an offline root has signed for the request of rotor
authority csr, and rotate the CA to it. The file has that certificate first, and
behind it those between it and the root, if there are any; the root itself is given
apart and is what the trust bundle holds. No private key is asked for or taken.`,
		Example: `  rotor authority import --certificate issuing.pem --root root.pem --wait
  rotor authority import --certificate issuing.pem --root root.pem --yes`,
		Args: ExactArgs(),
	}
	flags := c.Flags()
	flags.StringVar(&certificate, "certificate", "", "file with the certificate of the CA, and those between it and the root (PEM)")
	flags.StringVar(&root, "root", "", "file with the certificate of the offline root (PEM)")
	waitFlag(c, &wait, "wait until the rotation has ended")
	yesFlag(c, &yes)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if certificate == "" || root == "" {
			return usage(c, "name both files: --certificate FILE and --root FILE")
		}
		request := api.RolloutRequest{Kind: fleet.RolloutCA}
		var err error
		if request.Certificate, err = readCertificates(certificate); err != nil {
			return err
		}
		if request.Root, err = readCertificates(root); err != nil {
			return err
		}
		client, err := a.asking(c, yes, "it concerns the whole fleet")
		if err != nil {
			return err
		}
		if !yes {
			text := "Rotate the CA to the imported one? It signs when every agent trusts its root; then all clients get certificates of it."
			if err := a.answered(c, question{text: text, word: "yes"}); err != nil {
				return err
			}
		}
		return a.beginRollout(c, client, begin{request: request, wait: wait})
	}
	return c
}

// maxImport bounds a file of certificates, in bytes.
const maxImport = 64 << 10

// readCertificates reads a file of PEM certificates. What else it may hold is not
// sent: least of all a private key.
func readCertificates(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("import: %w", err)
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxImport+1))
	if err != nil {
		return "", fmt.Errorf("import: read %s: %w", path, err)
	}
	wrong := func(format string, args ...any) error {
		return &ExitError{Code: exitFailure, Err: fmt.Errorf("import: %s: "+format, append([]any{path}, args...)...), Hint: "give certificates in PEM"}
	}
	switch {
	case len(text) > maxImport:
		return "", wrong("more than %d bytes", maxImport)
	case bytes.Contains(text, []byte("PRIVATE KEY-----")):
		return "", wrong("it holds a private key, which is sent to nobody")
	case !bytes.Contains(text, []byte("-----BEGIN CERTIFICATE-----")):
		return "", wrong("it holds no certificate")
	}
	return string(text), nil
}
