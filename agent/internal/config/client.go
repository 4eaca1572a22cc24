package config

import (
	"io/fs"
	"net"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/strictyaml"
)

// located is where one entry installs, and where the file says so.
type located struct {
	key, where string
	at         strictyaml.Place
}

const everyClient = "*"

func (r *reader) clients(n node) {
	if n.Kind != strictyaml.Mapping {
		r.Fail(n.Place, "clients must be keys and values, such as %q, not %s", "kms: {reload: ...}", n.Describe())
		return
	}
	c := &r.out.Settings.Clients
	c.Kinds, c.Keys = map[string]Entry{}, map[fleet.ClientKey]Entry{}
	seen := map[string]strictyaml.Place{}
	for _, f := range n.Fields {
		if first, twice := seen[f.Key]; twice {
			r.Fail(f.At, "client %s stands twice: the first time on line %d", strictyaml.Clip(f.Key), first.Line)
			continue
		}
		seen[f.Key] = f.At
		if f.Key == everyClient {
			c.Default = r.entry(f)
			continue
		}
		key, err := fleet.ParseClientKey(f.Key)
		switch {
		case err != nil:
			r.Reject(f.At, err)
		case key.Instance == "":
			c.Kinds[key.Kind] = r.entry(f)
		default:
			c.Keys[key] = r.entry(f)
		}
	}
}

func (r *reader) entry(f strictyaml.Field) Entry {
	var e Entry
	if f.Value.Kind == strictyaml.Absent {
		return e
	}
	in := r.Mapping(f.Value, "client "+f.Key, "directory", "kubernetes", "reload", "verify", "rollback")
	if n, ok := in["directory"]; ok {
		e.Directory = r.directory(f.Key, n)
	}
	if n, ok := in["kubernetes"]; ok {
		e.Kubernetes = r.secret(f.Key, n)
		if directory, both := in["directory"]; both {
			r.Fail(directory.Place, "client %s has a directory and a Secret: choose one", f.Key)
		}
	}
	if n, ok := in["reload"]; ok {
		e.Reload = r.reload(n)
	}
	if n, ok := in["verify"]; ok {
		e.Verify = r.verify(n)
	}
	if n, ok := in["rollback"]; ok {
		e.Rollback = r.yesNo(n, "rollback")
	}
	return e
}

func (r *reader) directory(key string, n node) Directory {
	f := r.Mapping(n, "directory", "path", "mode", "dirMode", "owner", "group")
	d := Directory{
		Path:  r.checked(f, "path", r.path("path")),
		Owner: r.checked(f, "owner", r.account("owner")), Group: r.checked(f, "group", r.account("group")),
	}
	if n, ok := f["path"]; ok && d.Path != "" {
		switch {
		case key == everyClient:
			r.Fail(n.Place, "path %q: all clients would share one folder: give each of them an entry with a path of its own", strictyaml.Clip(d.Path))
		case path.Clean(filepath.ToSlash(d.Path)) == "." || path.Clean(d.Path) == "/" || slices.Contains(strings.Split(filepath.ToSlash(d.Path), "/"), ".."):
			r.Fail(n.Place, "path %q: name a folder of its own, without \"..\"", strictyaml.Clip(d.Path))
		default:
			r.places = append(r.places, located{key, "the folder " + filepath.Join(r.out.Directory, d.Path), n.Place})
			if filepath.IsAbs(d.Path) {
				r.places[len(r.places)-1].where = "the folder " + filepath.Clean(d.Path)
			}
		}
	}
	if n, ok := f["mode"]; ok {
		// Keys and tokens are among the files: who is neither owner nor of the group
		// has no business with them, and nothing here is a program.
		d.Mode = r.mode(n, "mode", modeRule{must: 0o400, may: 0o660, example: "0640"})
	}
	if n, ok := f["dirMode"]; ok {
		d.DirMode = r.mode(n, "dirMode", modeRule{must: 0o700, may: 0o775, example: "0750"})
	}
	return d
}

type modeRule struct {
	must, may fs.FileMode
	example   string
}

func (r *reader) mode(n node, key string, rule modeRule) fs.FileMode {
	text, ok := r.Text(n, key)
	if !ok {
		return 0
	}
	bits, err := strconv.ParseUint(strings.TrimPrefix(text, "0o"), 8, 12)
	mode := fs.FileMode(bits)
	if err != nil || len(text) < 3 || mode&rule.must != rule.must || mode&^rule.may != 0 {
		r.Fail(n.Place, "%s %q: write octal digits such as %s, with at least %04o and at most %04o", key, strictyaml.Clip(text), rule.example, rule.must, rule.may)
		return 0
	}
	return mode
}

var accountRule = regexp.MustCompile(`^([a-z_][a-z0-9_.-]{0,31}\$?|[0-9]{1,10})$`)

func (r *reader) account(key string) func(node) {
	return func(n node) {
		if !accountRule.MatchString(n.Text) {
			r.Fail(n.Place, "%s %q: write a name or a number of this machine", key, strictyaml.Clip(n.Text))
		}
	}
}

func (r *reader) verify(n node) *Verify {
	if n.Kind == strictyaml.Scalar && n.Text == "none" {
		return &Verify{}
	}
	f := r.Mapping(n, "verify", "address", "serverName", "timeout")
	if f == nil {
		return nil
	}
	v := &Verify{ServerName: r.checked(f, "serverName", nil), Timeout: r.duration(f, "timeout", limits{time.Second, time.Hour})}
	if address, ok := r.Required(n, f, "address", "host:port of a TLS server, such as 127.0.0.1:9443"); ok {
		v.Address = address.Text
		if host, port, err := net.SplitHostPort(v.Address); err != nil || host == "" || !isPort(port, 1) {
			r.Fail(address.Place, "address %q: write host:port, such as 127.0.0.1:9443", strictyaml.Clip(v.Address))
		}
	}
	return v
}

func (r *reader) yesNo(n node, key string) *bool {
	text, ok := r.Text(n, key)
	if !ok {
		return nil
	}
	if text != "true" && text != "false" {
		r.Fail(n.Place, "%s %q: write true or false", key, strictyaml.Clip(text))
	}
	yes := text == "true"
	return &yes
}

// checkPlaces makes sure that no two entries install into each other.
func (r *reader) checkPlaces() {
	for i, one := range r.places {
		for _, other := range r.places[:i] {
			if one.where == other.where || strings.HasPrefix(one.where+"/", other.where+"/") || strings.HasPrefix(other.where+"/", one.where+"/") {
				r.Fail(one.at, "clients %s and %s would install into %s: give each a place of its own", other.key, one.key, one.where)
				break
			}
		}
	}
}
