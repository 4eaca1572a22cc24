package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/itchyny/gojq"
	"github.com/nats-io/nats.go"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// set is what lies in the folder of one client.
type set struct {
	pair  tls.Certificate
	leaf  *x509.Certificate
	ca    []byte // PEM
	roots *x509.CertPool
	token string
	meta  struct {
		Generation int    `json:"generation"`
		Serial     string `json:"serial"`
	}
}

// readSet reads a folder through ..data once, as a careful reader does, and
// checks that its files belong together.
func readSet(dir string) (set, error) {
	var s set
	target, err := os.Readlink(filepath.Join(dir, "..data"))
	if err != nil {
		return s, err
	}
	at := filepath.Join(dir, target)
	pair, err := tls.LoadX509KeyPair(filepath.Join(at, "tls.crt"), filepath.Join(at, "tls.key"))
	if err != nil {
		return s, err
	}
	s.pair, s.leaf, s.roots = pair, pair.Leaf, x509.NewCertPool()
	ca, err := os.ReadFile(filepath.Join(at, "ca.crt"))
	if err != nil {
		return s, err
	}
	s.ca = ca
	if !s.roots.AppendCertsFromPEM(ca) {
		return s, fmt.Errorf("%s/ca.crt holds no certificate", at)
	}
	token, err := os.ReadFile(filepath.Join(at, "token"))
	if err != nil {
		return s, err
	}
	s.token = strings.TrimSpace(string(token))
	raw, err := os.ReadFile(filepath.Join(at, "metadata.json"))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(raw, &s.meta); err != nil {
		return s, err
	}
	if got := s.leaf.SerialNumber.Text(16); got != s.meta.Serial {
		return s, fmt.Errorf("%s: metadata names serial %s, the certificate has %s", at, s.meta.Serial, got)
	}
	return s, nil
}

// cmdCheckSet checks the five files of a client as its verifiers would:
// checkset DIR SUBJECT.
func cmdCheckSet(ts *testscript.TestScript, _ bool, args []string) {
	dir, subject := ts.MkAbs(args[0]), args[1]
	for _, name := range []string{"tls.crt", "tls.key", "ca.crt", "token", "metadata.json"} {
		info, err := os.Stat(filepath.Join(dir, name))
		ts.Check(err)
		if mode := info.Mode().Perm(); mode != 0o600 {
			ts.Fatalf("%s has mode %04o", name, mode)
		}
	}
	s, err := readSet(dir)
	ts.Check(err)
	_, err = s.leaf.Verify(x509.VerifyOptions{Roots: s.roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	ts.Check(err)
	if _, err := s.leaf.Verify(x509.VerifyOptions{Roots: s.roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		ts.Fatalf("the certificate may serve")
	}
	if s.leaf.Subject.CommonName != subject || s.leaf.IsCA || s.leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(s.leaf.URIs) != 1 {
		ts.Fatalf("certificate is for %s, CA %v, usage %v, URIs %v", s.leaf.Subject, s.leaf.IsCA, s.leaf.KeyUsage, s.leaf.URIs)
	}
	if bits := s.leaf.SerialNumber.BitLen(); bits < 64 {
		ts.Fatalf("serial number of %d bits", bits)
	}
	checkToken(ts, s, subject)
	const life = 90 * 24 * time.Hour
	if got := s.leaf.NotAfter.Sub(s.leaf.NotBefore); got < life || got > life+5*time.Minute {
		ts.Fatalf("life of the certificate is %v", got)
	}
}

// checkToken verifies the token against the JWKS of the server, and that it is
// bound to the key of the certificate.
func checkToken(ts *testscript.TestScript, s set, subject string) {
	response, err := http.Get(ts.Getenv("API") + "/.well-known/jwks.json")
	ts.Check(err)
	defer func() { _ = response.Body.Close() }()
	var keys jose.JSONWebKeySet
	ts.Check(json.NewDecoder(response.Body).Decode(&keys))
	token, err := jwt.ParseSigned(s.token, []jose.SignatureAlgorithm{jose.EdDSA})
	ts.Check(err)
	var claims struct {
		jwt.Claims
		Confirmation struct {
			Thumbprint string `json:"jkt"`
		} `json:"cnf"`
	}
	ts.Check(token.Claims(keys, &claims))
	ts.Check(claims.Validate(jwt.Expected{Time: clock.Wall(), Subject: subject}))
	if typ := token.Headers[0].ExtraHeaders[jose.HeaderType]; typ != "at+jwt" {
		ts.Fatalf("typ of the token is %v", typ)
	}
	sum, err := thumbprint(s.leaf.PublicKey)
	ts.Check(err)
	if claims.Confirmation.Thumbprint != sum {
		ts.Fatalf("the token is bound to %s, the key is %s", claims.Confirmation.Thumbprint, sum)
	}
	if got := claims.Expiry.Time().Sub(claims.IssuedAt.Time()); got != 90*24*time.Hour {
		ts.Fatalf("life of the token is %v", got)
	}
}

// cmdJSON runs a jq expression on a file of the script ("stdout" for the last
// output) and compares its first result: jsoneq FILE EXPRESSION VALUE.
func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	query, err := gojq.Parse(args[1])
	ts.Check(err)
	var input, want any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &input))
	if json.Unmarshal([]byte(args[2]), &want) != nil {
		want = args[2]
	}
	got, ok := query.Run(input).Next()
	if err, failed := got.(error); !ok || failed {
		ts.Fatalf("%s gives %v", args[1], err)
	}
	if n, isInt := got.(int); isInt {
		got = float64(n)
	}
	if reflect.DeepEqual(got, want) == neg {
		ts.Fatalf("%s is %v, want %v (not: %v)\n%s", args[1], got, want, neg, ts.ReadFile(args[0]))
	}
}

// cmdSubscriber looks at NATS as the outside subscriber does: it may hear of
// facts and do nothing else.
func cmdSubscriber(ts *testscript.TestScript, _ bool, _ []string) {
	key, err := nats.NkeyOptionFromSeed(ts.MkAbs("var/nats/subscriber.nk"))
	ts.Check(err)
	violations := make(chan error, 100)
	nc, err := nats.Connect(ts.Getenv("NATS"), key, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { violations <- err }))
	ts.Check(err)
	defer nc.Close()
	if _, err := nats.Connect(ts.Getenv("NATS")); err == nil {
		ts.Fatalf("NATS lets in whoever has no key")
	}
	refused := func(what string) {
		select {
		case err := <-violations:
			ts.Logf("%s: %v", what, err)
		case <-time.After(10 * time.Second):
			ts.Fatalf("%s was not refused", what)
		}
	}
	for _, subject := range []string{
		"rotor.v1.event.credential.issued.edge-01", "rotor.v1.command.rotate.edge-01", "$KV.clusters.edge-01",
		"$JS.API.STREAM.INFO.EVENTS", "$JS.API.DIRECT.GET.KV_keys.$KV.keys.ca-1", "$JS.API.CONSUMER.CREATE.EVENTS", "anything",
	} {
		ts.Check(nc.Publish(subject, []byte("{}")))
		ts.Check(nc.Flush())
		refused("publishing on " + subject)
	}
	for _, subject := range []string{"$KV.>", "rotor.v1.command.>", ">", "_INBOX_server.>"} {
		_, err := nc.SubscribeSync(subject)
		ts.Check(err)
		ts.Check(nc.Flush())
		refused("subscribing to " + subject)
	}
	facts, err := nc.SubscribeSync("rotor.v1.event.>")
	ts.Check(err)
	ts.Check(nc.Flush())
	if _, stderr, code := worldOf(ts).run(ts, "rotor", "rotate", "edge-02", "--force", "--wait"); code != 0 {
		ts.Fatalf("rotate: %s", stderr)
	}
	msg, err := facts.NextMsg(10 * time.Second)
	ts.Check(err)
	var fact map[string]any
	ts.Check(json.Unmarshal(msg.Data, &fact))
	if fact["specversion"] != "1.0" || fact["subject"] == "" {
		ts.Fatalf("the fact is no CloudEvent: %s", msg.Data)
	}
}

// cmdNewest sets a variable to the release published last: newest NAME.
func cmdNewest(ts *testscript.TestScript, _ bool, args []string) {
	stdout, stderr, code := worldOf(ts).run(ts, "rotor", "get", "releases", "-o", "json")
	if code != 0 {
		ts.Fatalf("get releases: %s", stderr)
	}
	var releases []fleet.Release
	ts.Check(json.Unmarshal([]byte(stdout), &releases))
	newest := slices.MaxFunc(releases, func(a, b fleet.Release) int { return a.PublishedAt.Compare(b.PublishedAt) })
	ts.Setenv(args[0], newest.Version)
}

// cmdLetter sets a variable to the id of the first open dead letter about a
// cluster: letter NAME CLUSTER.
func cmdLetter(ts *testscript.TestScript, _ bool, args []string) {
	stdout, stderr, code := worldOf(ts).run(ts, "rotor", "alert", "dead", "--cluster", args[1], "-o", "json")
	var letters []fleet.Letter
	if code != 0 || json.Unmarshal([]byte(stdout), &letters) != nil || len(letters) == 0 {
		ts.Fatalf("no dead letter about %s: %s%s", args[1], stdout, stderr)
	}
	ts.Setenv(args[0], letters[0].ID)
}

// cmdUpgraded checks that the credentials of a cluster end exactly one life
// after its upgrade: upgraded CLUSTER.
func cmdUpgraded(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	stdout, _, _ := w.run(ts, "rotor", "get", "clusters", args[0], "-o", "json")
	var cluster fleet.Cluster
	ts.Check(json.Unmarshal([]byte(stdout), &cluster))
	stdout, _, _ = w.run(ts, "rotor", "get", "clients", "--cluster", args[0], "-o", "json")
	var clients []struct {
		Certificate fleet.Certificate
		Token       fleet.Token
		State       fleet.State
	}
	ts.Check(json.Unmarshal([]byte(stdout), &clients))
	want := cluster.UpgradedAt.Add(90 * fleet.Day)
	for _, c := range clients {
		if c.State != fleet.StateHealthy || !c.Certificate.NotAfter.Equal(want) || !c.Token.ExpiresAt.Equal(want) {
			ts.Fatalf("client is %s until %v and %v, want %v", c.State, c.Certificate.NotAfter, c.Token.ExpiresAt, want)
		}
	}
	if len(clients) == 0 {
		ts.Fatalf("%s has no clients", args[0])
	}
}
