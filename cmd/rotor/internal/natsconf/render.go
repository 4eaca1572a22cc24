package natsconf

import (
	"crypto/rand"
	"fmt"
	"net"
	"path"
	"strconv"
	"strings"

	"github.com/rotor-fleet/rotor/shared/bus"
)

func newSecret() []byte { return []byte(rand.Text() + "\n") }

// server returns the configuration of one server.
func (o Options) server(i int, users map[string]string, files Files) (string, error) {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Made by rotor nats config; changes here are lost when it is run again.")
	line("server_name: %q", o.Prefix+strconv.Itoa(i+1))
	line("listen: %q", o.Servers[i])
	if len(o.Monitor) > 0 {
		line("http: %q", o.Monitor[i])
	}
	line("max_payload: 4MB")
	line("")
	line("jetstream {")
	line("  store_dir: %q", strings.TrimSuffix(o.Store, "/")+"/"+ServerName(i))
	line("  # By default a power cut loses what was acknowledged in the last two minutes.")
	line("  sync_interval: always")
	if o.MaxStore != "" {
		line("  max_file_store: %s", o.MaxStore)
	} else {
		line("  # max_file_store: 100GB   # 3/4 of the free space of the disk, if not set")
	}
	line("}")
	if o.TLS.on() {
		line("")
		o.tls(line, i, "")
	}
	if len(o.Servers) > 1 {
		line("")
		line("cluster {")
		line("  name: %q", o.ClusterName)
		line("  listen: %q", o.Routes[i])
		line("  # Servers and clients use the addresses that they are given and no others.")
		line("  no_advertise: true")
		if o.RouteTo != nil {
			line("  advertise: \"127.0.0.1:1\"")
		}
		secret := strings.TrimSpace(string(files[routeSecret].Data))
		line("  authorization { user: \"route\", password: %q, timeout: 5 }", secret)
		line("  routes: [")
		for j, route := range o.Routes {
			if j == i {
				continue
			}
			if o.RouteTo != nil {
				var err error
				if route, err = o.RouteTo(i, j); err != nil {
					return "", fmt.Errorf("route from NATS server %d to %d: %w", i+1, j+1, err)
				}
			}
			line("    %q", "nats-route://route:"+secret+"@"+route)
		}
		line("  ]")
		if o.TLS.on() {
			o.tls(line, i, "  ")
		}
		line("}")
	}
	line("")
	accounts(line, users)
	return b.String(), nil
}

func subjects(line func(string, ...any), what string, s bus.Subjects) {
	line("        %s: {", what)
	list := func(name string, patterns []string) {
		if len(patterns) == 0 {
			return
		}
		line("          %s: [", name)
		for _, pattern := range patterns {
			line("            %q", pattern)
		}
		line("          ]")
	}
	list("allow", s.Allow)
	list("deny", s.Deny)
	line("        }")
}

// tls writes the block for clients or, indented, for routes, where both sides
// show a certificate.
func (o Options) tls(line func(string, ...any), i int, indent string) {
	cert, key, ca := o.tlsFiles(i)
	line("%stls {", indent)
	line("%s  cert_file: %q", indent, cert)
	line("%s  key_file: %q", indent, key)
	line("%s  ca_file: %q", indent, ca)
	if indent != "" {
		line("%s  verify: true", indent)
	}
	line("%s  min_version: \"1.3\"", indent)
	line("%s}", indent)
}

func (o Options) tlsFiles(i int) (cert, key, ca string) {
	if o.TLS.SelfSigned {
		return path.Join(o.Base, serverCert(i)), path.Join(o.Base, serverKey(i)), path.Join(o.Base, caCert)
	}
	return o.TLS.Cert, o.TLS.Key, o.TLS.CA
}

// URL returns the address of all servers for clients.
func (o Options) URL() string {
	scheme := "nats://"
	if o.TLS.on() {
		scheme = "tls://"
	}
	urls := make([]string, len(o.Servers))
	for i, address := range o.Servers {
		host, port, err := net.SplitHostPort(address)
		if err == nil && (host == "0.0.0.0" || host == "::") {
			address = net.JoinHostPort("localhost", port)
		}
		urls[i] = scheme + address
	}
	return strings.Join(urls, ",")
}

// Replicas is how many copies of each stream the servers can hold.
func (o Options) Replicas() int {
	if len(o.Servers) >= 3 {
		return 3
	}
	return 1
}

// snippet returns the section of rotor.yaml of a service.
func (o Options) snippet(user string) string {
	s := "# Section nats of rotor.yaml for " + user + "; made by rotor nats config.\n" +
		"nats:\n" +
		"  url: " + strconv.Quote(o.URL()) + "\n" +
		"  nkeyFile: " + strconv.Quote(path.Join(o.Base, SeedFile(user))) + "\n"
	if _, _, ca := o.tlsFiles(0); o.TLS.on() {
		s += "  caFile: " + strconv.Quote(ca) + "\n"
	}
	return s + "  replicas: " + strconv.Itoa(o.Replicas()) + "\n"
}
