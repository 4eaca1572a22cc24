package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// ServerFile tells the commands of the same machine where a running server is.
// `rotor up` writes it to its data folder. It holds no secret.
type ServerFile struct {
	URL               string `json:"url"`                       // of the API
	Agents            string `json:"agents"`                    // of the agents' listener
	NATS              string `json:"nats"`                      // for subscribers
	AdminTokenFile    string `json:"adminTokenFile"`            // absolute, or relative to the data folder
	SubscriberKeyFile string `json:"subscriberKeyFile"`         // likewise
	CertificateFile   string `json:"certificateFile,omitempty"` // of the API, likewise; none where it is plain HTTP
}

// paths are the fields that name files.
func (s *ServerFile) paths() []*string {
	return []*string{&s.AdminTokenFile, &s.SubscriberKeyFile, &s.CertificateFile}
}

// serverFileName is the name of the file in the data folder.
const serverFileName = "rotor.json"

// Write puts the file into a data folder, whole or not at all. Absolute paths
// inside the folder are stored relative to it, so that the folder may be moved
// and read from any working directory.
func (s ServerFile) Write(data string) error {
	for _, path := range s.paths() {
		stored, err := storedPath(data, *path)
		if err != nil {
			return fmt.Errorf("server file: %w", err)
		}
		*path = stored
	}
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("server file: %w", err)
	}
	path := filepath.Join(data, serverFileName)
	temporary := path + ".new"
	if err := os.WriteFile(temporary, append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("server file: %w", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("server file: %w", err)
	}
	return nil
}

func storedPath(data, path string) (string, error) {
	if !filepath.IsAbs(path) {
		return path, nil
	}
	folder, err := filepath.Abs(data)
	if err != nil {
		return "", err
	}
	if relative, err := filepath.Rel(folder, path); err == nil && filepath.IsLocal(relative) {
		return relative, nil
	}
	return path, nil
}

// Print says where everything is, for people. The file is one that was read.
func (s ServerFile) Print(out io.Writer, version string) {
	_, _ = fmt.Fprintf(out, "Rotor %s is running.\n\n  API     %s\n  agents  %s\n  NATS    %s\n\n  admin token     %s\n  subscriber key  %s\n\n",
		version, s.URL, s.Agents, s.NATS, s.AdminTokenFile, s.SubscriberKeyFile)
}

// ReadServerFile reads the file of a data folder; its paths are then such as this
// process opens them. Where there is none the error
// is fs.ErrNotExist.
func ReadServerFile(data string) (ServerFile, error) {
	var s ServerFile
	path := filepath.Join(data, serverFileName)
	raw, err := os.ReadFile(path)
	if err != nil {
		return s, fmt.Errorf("server file: %w", err)
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, fmt.Errorf("server file %s: %w", path, err)
	}
	for _, path := range s.paths() {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(data, *path)
		}
	}
	return s, nil
}

// client returns a client of the server that the flags, the environment or the
// data folder name, in this order.
func (a *app) client() (*api.Client, error) {
	client := &api.Client{URL: first(a.url, a.Getenv("ROTOR_URL")), Tracer: a.tracer}
	file, err := ReadServerFile(a.data)
	if client.URL == "" {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &ExitError{
				Code: exitFailure,
				Err:  fmt.Errorf("no running Rotor found in %q: start one with `rotor up` or set ROTOR_URL and ROTOR_TOKEN", a.data),
				Hint: "another data folder is named with --data",
			}
		}
		if err != nil {
			return nil, err
		}
		client.URL = file.URL
	}
	if u, err := url.Parse(client.URL); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, &ExitError{Code: exitUsage, Err: errors.New("the address of the API is no http:// or https:// URL"), Hint: "write it like http://127.0.0.1:8080"}
	}
	own := err == nil && file.URL == client.URL
	if client.HTTP, err = a.httpClient(file, own); err != nil {
		return nil, err
	}
	token := a.Getenv("ROTOR_TOKEN")
	switch {
	case a.tokenFile != "":
		client.Token, err = secret.ReadFile(a.tokenFile)
	case token != "":
		client.Token, err = secret.New(token), nil
	case own && file.AdminTokenFile != "":
		// Only to the server that it belongs to, never to one named elsewhere.
		client.Token, err = secret.ReadFile(file.AdminTokenFile)
	} // else the server will say that a token is missing
	if err != nil {
		return nil, fmt.Errorf("admin token: %w", err)
	}
	return client, nil
}

// httpClient returns what reaches the server and knows whom to believe: who is in
// the CA file of the flag; the server of the data folder by its certificate, if it
// is that one; who is in the CA file of the environment; whom the system trusts.
func (a *app) httpClient(file ServerFile, own bool) (*http.Client, error) {
	path := first(a.caFile, a.Getenv("ROTOR_CA_FILE"))
	switch {
	case a.caFile == "" && own && file.CertificateFile != "":
		return file.HTTP(), nil
	case path != "":
		trusted, err := trustOnly(path)
		return &http.Client{Transport: transport(trusted)}, err
	default:
		return ServerFile{}.HTTP(), nil
	}
}

// completeClusters offers the names of clusters where a server answers soon.
func (a *app) completeClusters(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	client, err := a.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	client.HTTP.Timeout = 2 * time.Second
	clusters, err := api.List[api.ClusterView](c.Context(), client, api.PathClusters, nil)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for i := range clusters {
		if !contains(args, clusters[i].Name) {
			names = append(names, clusters[i].Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
