// Package natsconf makes the configuration of external NATS servers for Rotor:
// one server or a cluster, a user per service with exactly its rights, and TLS.
// The embedded server takes its users from here too.
package natsconf

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nkeys"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Options say what is to be made.
type Options struct {
	Servers     []string // host:port of each server, for clients; several make a cluster
	Routes      []string // host:port of each server, for the others; host and port + 2000 of Servers, if empty
	ClusterName string   // default "rotor"
	Store       string   // folder of the streams, on each server; a folder of its own name is made below it
	MaxStore    string   // limit of the streams on disk, such as 100GB; what the disk has, if empty
	Base        string   // folder of these files where they are used, for the paths in them; the working folder, if empty
	TLS         TLS
	// Monitor is host:port of each server for its health and figures, without a
	// user; none, if empty.
	Monitor []string
	// Prefix begins the names of the servers; default "n".
	Prefix string
	// RouteTo says at which address one server reaches another, where something
	// lies between them; by Routes, if nil. Then servers tell no other address.
	RouteTo func(from, to int) (string, error)
	// Root adds a user "root" who may do everything with the streams, for
	// those who check a system from outside. Not for production.
	Root bool
	// Existing are files made before: their keys and certificates are kept.
	Existing Files
}

// TLS names the files of certificates, as the servers see them. It must be
// given unless everything listens on loopback.
type TLS struct {
	Cert, Key, CA string
	// SelfSigned makes a CA and a certificate per server instead.
	SelfSigned bool
}

func (t TLS) on() bool { return t.SelfSigned || t.Cert != "" || t.Key != "" || t.CA != "" }

// File is one file of a configuration.
type File struct {
	Data []byte
	Mode fs.FileMode
}

// Files are files by their name below the folder of the configuration.
type Files map[string]File

// Unbounded is a limit of the streams that does not bind: for servers that are
// to start on any disk, as for a trial.
const Unbounded = "1PB"

const private = fs.FileMode(0o600)

// ServerConfig returns the name of the configuration of the server at an index.
func ServerConfig(i int) string { return ServerName(i) + "/nats-server.conf" }

// ServerName returns the name of the server at an index.
func ServerName(i int) string { return "n" + strconv.Itoa(i+1) }

// SeedFile returns the name of the file with the seed of a user.
func SeedFile(user string) string { return user + ".nk" }

// routeSecret is the password between the servers of a cluster.
const routeSecret = "route.secret"

// Generate makes the files of a configuration. It touches no disk.
func Generate(o Options) (Files, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	files := Files{}
	users, err := makeUsers(files, o)
	if err != nil {
		return nil, err
	}
	if len(o.Servers) > 1 {
		files[routeSecret] = o.Existing[routeSecret]
		if len(files[routeSecret].Data) == 0 {
			files[routeSecret] = File{newSecret(), private}
		}
	}
	if o.TLS.SelfSigned {
		if err := selfSigned(files, o); err != nil {
			return nil, err
		}
	}
	for i := range o.Servers {
		config, err := o.server(i, users, files)
		if err != nil {
			return nil, err
		}
		files[ServerConfig(i)] = File{[]byte(config), private}
	}
	for _, p := range bus.Permissions() {
		if p.User != bus.UserSubscriber {
			files[p.User+".yaml"] = File{[]byte(o.snippet(p.User)), private}
		}
	}
	return files, nil
}

// size is what a NATS server reads as a number of bytes in its configuration.
var size = regexp.MustCompile(`^[1-9][0-9]*([KMGTP](i?B)?)?$`)

func (o *Options) validate() error {
	if len(o.Servers) == 0 {
		return fmt.Errorf("%w: nats: name at least one server as host:port", fleet.ErrInvalid)
	}
	if len(o.Servers) == 2 {
		return fmt.Errorf("%w: nats: two servers stop when one is lost: use one or three", fleet.ErrInvalid)
	}
	if o.MaxStore != "" && !size.MatchString(o.MaxStore) {
		return fmt.Errorf("%w: nats: max-store %q: write it as 100GB", fleet.ErrInvalid, o.MaxStore)
	}
	if o.ClusterName == "" {
		o.ClusterName = "rotor"
	}
	for _, address := range o.Servers {
		if _, _, err := split(address); err != nil {
			return err
		}
	}
	if len(o.Routes) == 0 {
		for _, address := range o.Servers {
			host, port, err := split(address)
			if err != nil {
				return err
			}
			o.Routes = append(o.Routes, net.JoinHostPort(host, strconv.Itoa(port+2000)))
		}
	}
	if len(o.Routes) != len(o.Servers) {
		return fmt.Errorf("%w: nats: %d routes for %d servers", fleet.ErrInvalid, len(o.Routes), len(o.Servers))
	}
	outside := false
	for _, address := range slices.Concat(o.Servers, o.Routes) {
		host, _, err := split(address)
		if err != nil {
			return err
		}
		outside = outside || !loopback(host)
	}
	t := o.TLS
	switch {
	case t.SelfSigned && (t.Cert != "" || t.Key != "" || t.CA != ""):
		return fmt.Errorf("%w: nats: tls: either files or self-signed, not both", fleet.ErrInvalid)
	case !t.SelfSigned && t.on() && (t.Cert == "" || t.Key == "" || t.CA == ""):
		return fmt.Errorf("%w: nats: tls: name all of certificate, key and CA", fleet.ErrInvalid)
	case outside && !t.on():
		return fmt.Errorf("%w: nats: a server is not on loopback: give certificate, key and CA, or have them made (self-signed)", fleet.ErrInvalid)
	}
	if len(o.Monitor) != 0 && len(o.Monitor) != len(o.Servers) {
		return fmt.Errorf("%w: nats: %d addresses to monitor for %d servers", fleet.ErrInvalid, len(o.Monitor), len(o.Servers))
	}
	if o.Prefix == "" {
		o.Prefix = "n"
	}
	if o.Store == "" {
		o.Store = "/var/lib/rotor-nats"
	}
	return nil
}

func split(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err == nil {
		port, err = strconv.Atoi(text)
	}
	if err != nil || host == "" || port < 1 || port > 65535 {
		return "", 0, fmt.Errorf("%w: nats: address %q: write host:port, such as nats-1.example.com:4222", fleet.ErrInvalid, address)
	}
	return host, port, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// UserRoot is the user of Options.Root.
const UserRoot = "root"

func (o Options) users() []string {
	if o.Root {
		return append(bus.Users(), UserRoot)
	}
	return bus.Users()
}

// makeUsers puts the seed of every user into files and returns their public keys.
func makeUsers(files Files, o Options) (map[string]string, error) {
	users := map[string]string{}
	for _, user := range o.users() {
		name := SeedFile(user)
		seed := strings.TrimSpace(string(o.Existing[name].Data))
		if seed == "" {
			pair, err := nkeys.CreateUser()
			if err != nil {
				return nil, fmt.Errorf("make key of NATS user %s: %w", user, err)
			}
			raw, err := pair.Seed()
			if err != nil {
				return nil, fmt.Errorf("make key of NATS user %s: %w", user, err)
			}
			seed = string(raw)
		}
		pair, err := nkeys.FromSeed([]byte(seed))
		if err != nil {
			return nil, fmt.Errorf("key of NATS user %s in %s: %w: remove the file to have a new one made", user, name, err)
		}
		if users[user], err = pair.PublicKey(); err != nil {
			return nil, fmt.Errorf("key of NATS user %s: %w", user, err)
		}
		files[name] = File{[]byte(seed + "\n"), private}
	}
	return users, nil
}

// Write makes a configuration in a folder. Keys and certificates that lie there
// are kept, so that it can be repeated.
func Write(dir string, o Options) (Files, error) {
	var err error
	if o.Existing, err = read(dir, o); err != nil {
		return nil, err
	}
	files, err := Generate(o)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, fmt.Errorf("write %s: %w", path, err)
		}
		if err := replace(path, files[name]); err != nil {
			return nil, fmt.Errorf("write %s: %w", path, err)
		}
	}
	return files, nil
}

// replace writes a file so that a reader sees it whole or not at all.
func replace(path string, f File) error {
	next := path + ".next"
	if err := os.WriteFile(next, f.Data, f.Mode); err != nil {
		return err
	}
	if err := os.Chmod(next, f.Mode); err != nil { // of a file left over
		return err
	}
	return os.Rename(next, path)
}

// read returns the files of a folder that are kept.
func read(dir string, o Options) (Files, error) {
	names := []string{routeSecret, caCert, caKey}
	for _, user := range o.users() {
		names = append(names, SeedFile(user))
	}
	for i := range o.Servers {
		names = append(names, serverCert(i), serverKey(i))
	}
	files := Files{}
	for _, name := range names {
		raw, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read NATS configuration: %w", err)
		}
		files[name] = File{raw, private}
	}
	return files, nil
}
