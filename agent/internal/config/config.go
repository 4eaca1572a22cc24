// Package config is the agent's own configuration file: where and how the
// credentials of each client are installed. It is local to the machine on which
// the agent runs, and nothing of it ever comes from the server: whoever may
// issue a certificate must not be able to name a command.
package config

import (
	"io/fs"
	"path/filepath"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// File is a configuration file that has passed every check. What it leaves out
// is zero.
type File struct {
	Server         string
	CAHash         string // pin of the fleet key: sha256:<hexadecimal>
	Cluster        string
	JoinFile       string // with the join token
	Directory      string // sets are installed below it, unless a client has a path of its own
	StateDirectory string
	PollWait       time.Duration
	HealthListen   string // host:port
	LogLevel       string
	Settings       Settings
}

// Settings are the part that may change while an agent runs. The zero value
// installs every client in its folder, and reloads nothing.
type Settings struct {
	Clients      Clients
	Kubernetes   Connection
	TrustBundles []TrustBundle
	MaxFailures  *int // see Allowed
}

// Allowed returns how many clients may fail before the others are held back.
// One: a client that cannot be reloaded is most often a matter of that client
// alone, and must not keep its neighbours from being renewed; two at the same
// time point at what they share, the issuance.
func (s Settings) Allowed() int {
	if s.MaxFailures == nil {
		return 1
	}
	return *s.MaxFailures
}

// Clients says for each client how it is installed.
type Clients struct {
	Default Entry                     // of every client: the key "*"
	Kinds   map[string]Entry          // by kind, such as node-agent
	Keys    map[fleet.ClientKey]Entry // by client with an instance, such as node-agent/host-1
}

// Entry is what the file says under one key. What it leaves out is taken from
// the entry of the kind, then from that of "*".
type Entry struct {
	Directory  Directory
	Kubernetes *Kubernetes
	Reload     *Reload // one that does nothing, for "none"
	Verify     *Verify // one without an address, for "none"
	Rollback   *bool
}

// Client says how one client is installed.
type Client struct {
	Directory  Directory
	Kubernetes *Kubernetes // instead of the directory, if not nil
	Reload     Reload
	Verify     Verify
	Rollback   bool
}

// Directory is a folder on this machine. What is zero stays as it is for files
// that are replaced.
type Directory struct {
	Path    string      // absolute, or below the folder of the agent; <kind>[/<instance>] there, if empty
	Mode    fs.FileMode // of files; 0600 for new ones, if zero
	DirMode fs.FileMode // of folders; 0700 for new ones, if zero, and 0750 where the group may read the files
	Owner   string      // name or number
	Group   string      // name or number
}

// Kubernetes is a Secret.
type Kubernetes struct {
	Namespace string
	Secret    string
}

// Connection says which Kubernetes API server is meant: the one of the cluster
// that the agent runs in, if empty.
type Connection struct {
	Kubeconfig   string
	Context      string
	Namespace    string // of what names none; that of the pod or context, if empty
	SecretPrefix string // begins the names of Secrets that have none of their own; rotor-, if empty
}

// TrustBundle is a place where verifiers read the trust bundle: a file or a
// ConfigMap.
type TrustBundle struct {
	File      *BundleFile
	ConfigMap *BundleMap
}

// BundleFile is a file with the trust bundle, PEM.
type BundleFile struct {
	Path  string
	Mode  fs.FileMode
	Owner string
	Group string

	// Include names files with further certificates that the verifiers trust, such
	// as the cluster's own CA.
	Include []string
}

// BundleMap is a ConfigMap that holds the trust bundle under one key.
type BundleMap struct {
	Namespace string
	Name      string
	Key       string // ca.crt, if empty
}

// The defaults of a reload and of a look at what is served.
const (
	DefaultReloadTimeout  = 30 * time.Second
	DefaultRolloutTimeout = 5 * time.Minute // pods are replaced one after the other
	DefaultVerifyTimeout  = 30 * time.Second
	DefaultAttempts       = 5
	DefaultBackoff        = 15 * time.Second // with 5 attempts: roughly four minutes
)

// Reload says how a client is made to read its credentials again: one of
// Command, Signal and Rollout, or not at all.
type Reload struct {
	Command  []string // program and arguments, run without a shell
	Signal   *Signal
	Rollout  []Workload
	Timeout  time.Duration // of one attempt
	Attempts int           // before the client goes back to the set of before
	Backoff  time.Duration // first pause between attempts; each further one is twice as long
}

// Some reports whether there is anything to do.
func (r Reload) Some() bool { return len(r.Command) > 0 || r.Signal != nil || len(r.Rollout) > 0 }

// Signal is sent to the process whose number stands in a file.
type Signal struct {
	PIDFile string
	Signal  string // such as HUP
}

// Workload is restarted by an annotation of its pod template.
type Workload struct {
	Namespace string // that of the Secret, if empty
	Kind      string // deployment, daemonset or statefulset
	Name      string
}

// Verify names a TLS endpoint whose certificate must become the installed one.
type Verify struct {
	Address    string // host:port; nothing is looked at, if empty
	ServerName string // for SNI; the host, if empty
	Timeout    time.Duration
}

// For returns how a client is installed.
func (c Clients) For(key fleet.ClientKey) Client {
	out := Client{Rollback: true}
	layers := []Entry{c.Default, c.Kinds[key.Kind], c.Keys[key]} // the last word counts
	for _, e := range layers {
		switch {
		case e.Kubernetes != nil:
			out.Kubernetes, out.Directory.Path = e.Kubernetes, ""
		case e.Directory.Path != "":
			out.Kubernetes, out.Directory.Path = nil, e.Directory.Path
		}
		out.Directory = e.Directory.over(out.Directory)
		if e.Reload != nil {
			out.Reload = *e.Reload
		}
		if e.Verify != nil {
			out.Verify = *e.Verify
		}
		if e.Rollback != nil {
			out.Rollback = *e.Rollback
		}
	}
	if d := &out.Directory; d.DirMode == 0 && d.Mode&0o040 != 0 {
		d.DirMode = 0o750 // files that a group may read are of no use in a folder that it may not enter
	}
	out.Reload.defaults()
	if out.Verify.Timeout == 0 {
		out.Verify.Timeout = DefaultVerifyTimeout
	}
	return out
}

// NeedDirectory reports whether a client may be installed below the folder of
// the agent.
func (c Clients) NeedDirectory() bool {
	if c.Default.Kubernetes == nil {
		return true
	}
	below := func(e Entry) bool { return e.Directory.Path != "" && !filepath.IsAbs(e.Directory.Path) }
	for _, e := range c.Kinds {
		if below(e) {
			return true
		}
	}
	for _, e := range c.Keys {
		if below(e) {
			return true
		}
	}
	return false
}

// over returns d with what it leaves out taken from base. The path is decided
// by For: it competes with the Secret.
func (d Directory) over(base Directory) Directory {
	if d.Mode != 0 {
		base.Mode = d.Mode
	}
	if d.DirMode != 0 {
		base.DirMode = d.DirMode
	}
	if d.Owner != "" {
		base.Owner = d.Owner
	}
	if d.Group != "" {
		base.Group = d.Group
	}
	return base
}

func (r *Reload) defaults() {
	switch {
	case r.Timeout != 0:
	case len(r.Rollout) > 0:
		r.Timeout = DefaultRolloutTimeout
	default:
		r.Timeout = DefaultReloadTimeout
	}
	if r.Attempts == 0 {
		r.Attempts = DefaultAttempts
	}
	if r.Backoff == 0 {
		r.Backoff = DefaultBackoff
	}
}
