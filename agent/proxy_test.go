package agent

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// proxy is an HTTP proxy that passes TLS through (CONNECT, RFC 9110, 9.3.6). It
// alone knows where a name is.
type proxy struct {
	mu    sync.Mutex
	asked []string // of it
	seen  strings.Builder
}

func newProxy(t *testing.T, to string) (*proxy, string) {
	t.Helper()
	p := &proxy{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c, to)
		}
	}()
	return p, "http://user:hunter2@" + l.Addr().String()
}

func (p *proxy) serve(c net.Conn, to string) {
	r := bufio.NewReader(c)
	request, err := http.ReadRequest(r)
	if err != nil || request.Method != http.MethodConnect {
		_ = c.Close()
		return
	}
	p.mu.Lock()
	p.asked = append(p.asked, request.Host)
	p.mu.Unlock()
	_, _ = io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
	pipe(&tapped{Conn: c, r: io.TeeReader(r, p)}, to)
}

// Write keeps what passes, as a proxy could.
func (p *proxy) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.Write(b)
}

type tapped struct {
	net.Conn
	r io.Reader
}

func (t *tapped) Read(b []byte) (int, error) { return t.r.Read(b) }

// An agent behind an HTTP proxy works through it, and the proxy learns nothing
// but the name of the server.
func TestWorksThroughAnHTTPProxy(t *testing.T) {
	g := newGateway(t, "kms")
	g.cert = named(g.ca, "rotor.test")
	_, port, err := net.SplitHostPort(g.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p, url := newProxy(t, g.Listener.Addr().String())
	t.Setenv("HTTPS_PROXY", url)
	r := newRig(t, g)
	r.config.Server = "https://rotor.test:" + port
	r.start()
	eventually(t, "generation 1 proven through the proxy", func() bool { return g.proven(1) })
	g.issue("kms")
	eventually(t, "generation 2 proven through the proxy", func() bool { return g.proven(2) })
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, host := range p.asked {
		if host != "rotor.test:"+port {
			t.Errorf("the proxy was asked for %s", host)
		}
	}
	for _, secret := range append([]string{g.join, "Bearer"}, g.secrets...) {
		if strings.Contains(p.seen.String(), secret) {
			t.Errorf("the proxy has seen %.20q", secret)
		}
	}
	if len(p.asked) == 0 || p.seen.Len() == 0 || strings.Contains(r.log.String(), "hunter2") {
		t.Errorf("asked %d times, and the log may show its password", len(p.asked))
	}
}

func TestNoProxyIsHeeded(t *testing.T) {
	g := newGateway(t, "kms")
	p, url := newProxy(t, g.Listener.Addr().String())
	t.Setenv("HTTPS_PROXY", url)
	t.Setenv("NO_PROXY", "rotor.test")
	r := newRig(t, g)
	r.config.Server = "https://rotor.test:1"
	r.start()
	eventually(t, "the server is sought without the proxy", func() bool { return strings.Contains(r.waiting(), "rotor.test") })
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.asked) > 0 {
		t.Errorf("the proxy was asked for %q", p.asked)
	}
}

// named returns a certificate for a name.
func named(a authority, name string) *tls.Certificate {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	der := a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(3), DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, key.Public())
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
