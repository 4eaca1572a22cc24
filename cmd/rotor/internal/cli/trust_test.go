package cli

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// tlsServer is a gateway behind TLS, its certificate in a file, and how many
// requests it has had.
func tlsServer(t *testing.T) (url, certificate string, calls *int) {
	t.Helper()
	calls = new(int)
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*calls++
		answer(page[fleet.Release]())(w, r)
	}))
	t.Cleanup(s.Close)
	certificate = filepath.Join(t.TempDir(), "api.crt")
	writeText(t, certificate, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	return s.URL, certificate, calls
}

func writeText(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A server on this machine is believed by its certificate file, another one by the
// CA file, and nobody else hears the token.
func TestWhomTheCommandLineBelieves(t *testing.T) {
	url, certificate, calls := tlsServer(t)
	data, wrong, none := t.TempDir(), filepath.Join(t.TempDir(), "other.crt"), filepath.Join(t.TempDir(), "none.crt")
	writeText(t, wrong, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("another")})))
	writeText(t, none, "no PEM")
	remote := map[string]string{"ROTOR_URL": url, "ROTOR_TOKEN": token}
	with := func(key, value string) map[string]string {
		return map[string]string{"ROTOR_URL": url, "ROTOR_TOKEN": token, key: value}
	}
	for _, c := range []struct {
		name string
		file string // of the certificate in the server file
		env  map[string]string
		args []string
		want string // part of the error; empty for success
	}{
		{name: "own server", file: certificate},
		{name: "own server, a CA of another in the environment", file: certificate, env: map[string]string{"ROTOR_CA_FILE": none}},
		{name: "another certificate", file: wrong, want: "shows another certificate than that in " + wrong},
		{name: "no certificate", file: none, want: "nothing in PEM form"},
		{name: "no file", file: filepath.Join(data, "gone"), want: "no such file"},
		{name: "own server by the CA", file: wrong, args: []string{"--ca-file", certificate}},
		{name: "remote", file: wrong, env: with("ROTOR_TOKEN", ""), want: "shows another certificate"},
		{name: "a CA nobody named", env: remote, want: "hint: if a private CA has signed the certificate of the server, name its file with --ca-file or ROTOR_CA_FILE"},
		{name: "CA of the environment", env: with("ROTOR_CA_FILE", certificate)},
		{name: "CA of the flag goes first", env: with("ROTOR_CA_FILE", none), args: []string{"--ca-file", certificate}},
		{name: "no CA in the file", env: with("ROTOR_CA_FILE", none), want: "CA file " + none + ": no certificate"},
		{name: "no CA file", env: remote, args: []string{"--ca-file", filepath.Join(data, "gone")}, want: "CA file: open"},
		{name: "another name", env: with("ROTOR_URL", strings.Replace(url, "127.0.0.1", "localhost", 1)), args: []string{"--ca-file", certificate}, want: "hint: use a name that stands in the certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := (ServerFile{URL: url, CertificateFile: c.file}).Write(data); err != nil {
				t.Fatal(err)
			}
			*calls = 0
			r := runWith(t, c.env, "", append([]string{"get", "releases", "--data", data}, c.args...)...)
			if c.want == "" && (r.code != 0 || *calls != 1) || c.want != "" && (r.code != 1 || !strings.Contains(r.err, c.want) || *calls != 0) {
				t.Errorf("%+v after %d requests, want %q", r, *calls, c.want)
			}
		})
	}
}
