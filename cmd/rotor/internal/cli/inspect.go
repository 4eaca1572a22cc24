package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/inspect"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// inspectFlags are the flags of inspect as they are written.
type inspectFlags struct {
	warn, critical, passwordFile string
	secrets                      bool
	options                      inspect.Options
	cluster                      inspect.Cluster
}

// inspectCommand says when what exists today ends. It needs no server.
func (a *app) inspectCommand() *cobra.Command {
	var f inspectFlags
	var output *format
	c := &cobra.Command{
		Use:   "inspect PATH|HOST:PORT|KUBECONFIG...",
		Short: "Say when certificates and tokens that exist today end; needs no server",
		Long: `Say when certificates, tokens and revocation lists that exist today end, the most
urgent first. It needs no Rotor, and changes nothing.

A target is a file (PEM, DER, PKCS #12, a token, a kubeconfig or any other YAML
or JSON with certificates in it), a folder, which is searched with all below it
(such as /etc/kubernetes), or a server as host:port or https URL. With --secrets
or --context the Secrets of a Kubernetes cluster are read as well.

Exit code: 0 when nothing ends within --warn, 1 when something does or could not
be looked at, 2 when something ends within --critical or has ended.`,
		Example: `  rotor inspect /etc/kubernetes/pki ~/.kube/config
  rotor inspect 10.0.0.4:6443 https://registry.example.com --warn 45d
  rotor inspect --context hq --namespace kube-system -o json
  rotor inspect store.p12 --password-file pass.txt`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if err := output.check(c); err != nil {
				return err
			}
			if err := f.parse(c, args); err != nil {
				return err
			}
			result := inspect.Run(c.Context(), args, f.options)
			if err := c.Context().Err(); err != nil {
				return fmt.Errorf("inspect: %w", err)
			}
			if err := a.printFindings(c, output, result); err != nil {
				return err
			}
			if code := result.Worst(); code != 0 {
				return &ExitError{Code: code}
			}
			return nil
		},
	}
	output = formatFlag(c, "table", "json", "yaml")
	flags := c.Flags()
	flags.StringVar(&f.warn, "warn", "30d", "`duration`: what ends sooner is a warning")
	flags.StringVar(&f.critical, "critical", "7d", "`duration`: what ends sooner is critical")
	flags.DurationVar(&f.options.Timeout, "timeout", 10*time.Second, "of one connection")
	flags.StringVar(&f.options.ServerName, "server-name", "", "`name` to ask servers for (default the host)")
	flags.StringVar(&f.passwordFile, "password-file", "", "`file` with the password of PKCS #12 files, mode 0600")
	flags.BoolVar(&f.secrets, "secrets", false, "read the Secrets of a Kubernetes cluster")
	flags.StringVar(&f.cluster.Kubeconfig, "kubeconfig", "", "`file` that names the cluster (default that of kubectl)")
	flags.StringVar(&f.cluster.Context, "context", "", "`name` of the context in it (default the current one); implies --secrets")
	flags.StringVarP(&f.cluster.Namespace, "namespace", "n", "", "only Secrets of this `namespace`")
	return c
}

// parse reads the flags into the options.
func (f *inspectFlags) parse(c *cobra.Command, args []string) error {
	o := &f.options
	o.Now = clock.Wall()
	for _, d := range []struct {
		flag, text string
		into       *time.Duration
	}{{"warn", f.warn, &o.Warn}, {"critical", f.critical, &o.Critical}} {
		parsed, err := fleet.ParseDuration(d.text)
		if err != nil {
			return usage(c, "--%s: %w", d.flag, err)
		}
		*d.into = parsed.Std()
	}
	if f.passwordFile != "" {
		password, err := secret.ReadFile(f.passwordFile)
		if err != nil {
			return err
		}
		o.Password = password
	}
	if f.secrets || f.cluster.Context != "" {
		o.Cluster = &f.cluster
	}
	switch {
	case o.Critical > o.Warn:
		return usage(c, "--critical %s is longer than --warn %s: what is critical is a warning before", f.critical, f.warn)
	case o.Timeout <= 0:
		return usage(c, "--timeout %s: use more than 0", o.Timeout)
	case o.Cluster == nil && (f.cluster.Kubeconfig != "" || f.cluster.Namespace != ""):
		return usage(c, "--kubeconfig and --namespace are for Secrets: add --secrets")
	case len(args) == 0 && o.Cluster == nil:
		return usage(c, "name a file, a folder, host:port, or --context for Secrets")
	}
	return nil
}

func (a *app) printFindings(c *cobra.Command, output *format, r inspect.Result) error {
	for _, failure := range r.Failures {
		_, _ = fmt.Fprintf(c.ErrOrStderr(), "rotor: %s: %s\n", printable(failure.Source), printable(failure.Error))
	}
	if done, err := output.document(c.OutOrStdout(), r); done {
		return err
	}
	if len(r.Findings) == 0 {
		return nil
	}
	head := []string{"STATE", "DAYS", "ENDS", "KIND", "SUBJECT", "ISSUER", "KEY", "WHERE"}
	noted := slices.ContainsFunc(r.Findings, func(f inspect.Finding) bool { return f.Note != "" })
	if noted {
		head = append(head, "NOTE")
	}
	t := a.table(head...)
	for _, f := range r.Findings {
		where := f.Source
		if f.Item != "" {
			where += " " + f.Item
		}
		row := []string{
			string(f.State), strconv.Itoa(f.DaysLeft), moment(f.NotAfter), string(f.Kind),
			commonName(f.Subject), commonName(f.Issuer), f.Key, where,
		}
		if noted {
			row = append(row, f.Note)
		}
		t.add(row...)
	}
	return t.print(c.OutOrStdout())
}

// commonName returns what people call a distinguished name by, its common name, and
// no more of anything than fits a table; -o json has all of it.
func commonName(name string) string {
	const limit = 48
	for part := range strings.SplitSeq(name, ",") {
		if common, ok := strings.CutPrefix(part, "CN="); ok {
			name = common
			break
		}
	}
	if runes := []rune(name); len(runes) > limit {
		return string(runes[:limit-3]) + "..."
	}
	return name
}
