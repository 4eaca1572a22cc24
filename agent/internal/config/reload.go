package config

import (
	"slices"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/strictyaml"
)

// Signals are those that may be sent, without SIG.
var Signals = []string{"HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH"}

// Workloads are the kinds that may be restarted.
var Workloads = []string{"deployment", "daemonset", "statefulset"}

func (r *reader) reload(n node) *Reload {
	if n.Kind == strictyaml.Scalar && n.Text == "none" {
		return &Reload{}
	}
	f := r.Mapping(n, "reload", "command", "signal", "rollout", "timeout", "attempts", "backoff")
	if f == nil {
		return nil
	}
	out := &Reload{
		Timeout: r.duration(f, "timeout", limits{time.Second, time.Hour}),
		Backoff: r.duration(f, "backoff", limits{100 * time.Millisecond, time.Hour}),
	}
	if attempts, ok := f["attempts"]; ok {
		out.Attempts, _ = r.number(attempts, "attempts", 1, 100)
	}
	ways := 0
	if command, ok := f["command"]; ok {
		ways++
		out.Command = r.command(command)
	}
	if signal, ok := f["signal"]; ok {
		ways++
		out.Signal = r.signal(signal)
	}
	if rollout, ok := f["rollout"]; ok {
		ways++
		out.Rollout = r.rollout(rollout)
	}
	if ways != 1 {
		r.Fail(n.Place, "reload has %d of command, signal and rollout: write one of them, or reload: none", ways)
	}
	return out
}

func (r *reader) command(n node) []string {
	const want = "the program and its arguments, such as [systemctl, reload, kms-plugin]"
	if n.Kind != strictyaml.List {
		r.Fail(n.Place, "command must be a list of %s, not %s: it is run without a shell", want, n.Describe())
		return nil
	}
	var words []string
	for _, item := range n.Items {
		if item.Kind != strictyaml.Scalar {
			r.Fail(item.Place, "an argument of command must be a single value, not %s", item.Describe())
			continue
		}
		words = append(words, item.Text) // an empty argument is one
	}
	switch {
	case len(n.Items) == 0:
		r.Fail(n.Place, "command is empty: write %s", want)
	case len(words) > 0 && (words[0] == "" || strings.Contains(words[0], "/") && !strings.HasPrefix(words[0], "/")):
		r.Fail(n.Items[0].Place, "program %q: write its whole path, or a name that is found in the PATH of the agent", strictyaml.Clip(words[0]))
	}
	return words
}

func (r *reader) signal(n node) *Signal {
	f := r.Mapping(n, "signal", "pidFile", "signal")
	if f == nil {
		return nil
	}
	out := &Signal{Signal: "HUP"}
	if file, ok := r.Required(n, f, "pidFile", "the file with the number of the process, such as /run/kms.pid"); ok {
		out.PIDFile = file.Text
		if !strings.HasPrefix(file.Text, "/") {
			r.Fail(file.Place, "pidFile %q: write the whole path, such as /run/kms.pid", strictyaml.Clip(file.Text))
		}
	}
	if name, ok := f["signal"]; ok {
		if text, ok := r.Text(name, "signal"); ok {
			out.Signal = strings.TrimPrefix(text, "SIG")
			if !slices.Contains(Signals, out.Signal) {
				r.Fail(name.Place, "signal %q: %s", strictyaml.Clip(text), strictyaml.Suggest(out.Signal, Signals))
			}
		}
	}
	return out
}

func (r *reader) rollout(n node) []Workload {
	var out []Workload
	for _, item := range r.Texts(n, "rollout", "workloads such as deployment/csi-controller") {
		parts := strings.Split(item.Text, "/")
		w := Workload{}
		switch len(parts) {
		case 2:
			w = Workload{Kind: parts[0], Name: parts[1]}
		case 3:
			w = Workload{Namespace: parts[0], Kind: parts[1], Name: parts[2]}
		}
		if !slices.Contains(Workloads, w.Kind) || !objectName.MatchString(w.Name) || w.Namespace != "" && !objectName.MatchString(w.Namespace) {
			r.Fail(item.Place, "workload %q: write deployment/NAME, daemonset/NAME or statefulset/NAME, with NAMESPACE/ before it where it is another one", strictyaml.Clip(item.Text))
			continue
		}
		if slices.Contains(out, w) {
			r.Fail(item.Place, "workload %s is named twice", item.Text)
			continue
		}
		out = append(out, w)
	}
	if len(out) == 0 && n.Kind == strictyaml.List && len(n.Items) == 0 {
		r.Fail(n.Place, "rollout is empty: write workloads such as [deployment/csi-controller]")
	}
	return out
}
