package config

import (
	"path/filepath"
	"regexp"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/strictyaml"
)

// objectName is the form of most names in Kubernetes (RFC 1123).
var objectName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)

func (r *reader) name(key string) func(node) {
	return func(n node) {
		if !objectName.MatchString(n.Text) {
			r.Fail(n.Place, "%s %q: use lower-case letters, digits, '-' and '.', as Kubernetes does", key, strictyaml.Clip(n.Text))
		}
	}
}

func (r *reader) connection(n node) Connection {
	f := r.Mapping(n, "kubernetes", "kubeconfig", "context", "namespace", "secretPrefix")
	return Connection{
		Kubeconfig: r.checked(f, "kubeconfig", r.path("kubeconfig")), Context: r.checked(f, "context", nil),
		Namespace: r.checked(f, "namespace", r.name("namespace")),
		SecretPrefix: r.checked(f, "secretPrefix", func(n node) {
			if err := fleet.CheckSecretPrefix(n.Text); err != nil {
				r.Reject(n.Place, err)
			}
		}),
	}
}

func (r *reader) secret(key string, n node) *Kubernetes {
	f := r.Mapping(n, "kubernetes", "namespace", "secret")
	if f == nil {
		return nil
	}
	k := &Kubernetes{Namespace: r.checked(f, "namespace", r.name("namespace")), Secret: r.checked(f, "secret", r.name("secret"))}
	if secret, ok := f["secret"]; ok {
		if key == everyClient {
			r.Fail(secret.Place, "secret %q: all clients would share one Secret: leave it out, or give each of them an entry with a Secret of its own", strictyaml.Clip(k.Secret))
		} else {
			r.places = append(r.places, located{key, "the Secret " + k.Namespace + ":" + k.Secret, secret.Place})
		}
	}
	return k
}

// trustBundle reads one place for the trust bundle.
func (r *reader) trustBundle(n node) {
	f := r.Mapping(n, "an entry of trustBundle", "file", "configMap")
	if f == nil {
		return
	}
	var b TrustBundle
	if file, ok := f["file"]; ok {
		b.File = r.bundleFile(file)
	}
	if object, ok := f["configMap"]; ok {
		b.ConfigMap = r.configMap(object)
	}
	if len(f) != 1 {
		r.Fail(n.Place, "an entry of trustBundle is a file or a configMap: write one of them in each entry")
		return
	}
	r.out.Settings.TrustBundles = append(r.out.Settings.TrustBundles, b)
}

func (r *reader) bundleFile(n node) *BundleFile {
	f := r.Mapping(n, "file", "path", "mode", "owner", "group", "include")
	if f == nil {
		return nil
	}
	b := &BundleFile{Owner: r.checked(f, "owner", r.account("owner")), Group: r.checked(f, "group", r.account("group"))}
	if path, ok := r.Required(n, f, "path", "the whole path of the file, such as /etc/kubernetes/pki/rotor-ca.crt"); ok {
		b.Path = filepath.Clean(path.Text)
		if !filepath.IsAbs(path.Text) {
			r.Fail(path.Place, "path %q: write the whole path, such as /etc/kubernetes/pki/rotor-ca.crt", strictyaml.Clip(path.Text))
		}
		r.places = append(r.places, located{"trustBundle", "the file " + b.Path, path.Place})
	}
	for _, item := range r.Texts(f["include"], "include", "files with further certificates, such as /etc/kubernetes/pki/ca.crt") {
		if !filepath.IsAbs(item.Text) || filepath.Clean(item.Text) == b.Path {
			r.Fail(item.Place, "include %q: write the whole path of another file, such as /etc/kubernetes/pki/ca.crt", strictyaml.Clip(item.Text))
		}
		b.Include = append(b.Include, filepath.Clean(item.Text))
	}
	if mode, ok := f["mode"]; ok { // there is nothing secret in it
		b.Mode = r.mode(mode, "mode", modeRule{must: 0o400, may: 0o664, example: "0644"})
	}
	return b
}

func (r *reader) configMap(n node) *BundleMap {
	f := r.Mapping(n, "configMap", "namespace", "name", "key")
	if f == nil {
		return nil
	}
	c := &BundleMap{Namespace: r.checked(f, "namespace", r.name("namespace")), Key: r.checked(f, "key", nil)}
	if name, ok := r.Required(n, f, "name", "the name of the ConfigMap"); ok {
		c.Name = name.Text
		r.name("name")(name)
	}
	return c
}
