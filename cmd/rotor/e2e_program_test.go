package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// scriptProgram is a program without an agent: what it has lies in a folder, and
// its next key beside it, written before it asks.
type scriptProgram struct {
	ts  *testscript.TestScript
	dir string
}

// cmdProgram signs a program in by itself. With neg, it must be refused; why goes
// to stderr:
//
//	program DIR redeem FILE   redeem the first recovery token of an answer
//	program DIR login         sign in; the set stays, as if the reply was lost
//	program DIR take          put what was got last in place of the set
//	program DIR forget        lose the next key
//	program DIR prove         prove the set
func cmdProgram(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: program DIR redeem|login|take|forget|prove")
	}
	p := scriptProgram{ts, ts.MkAbs(args[0])}
	ts.Check(os.MkdirAll(p.dir, 0o700))
	var err error
	switch args[1] {
	case "redeem":
		err = p.redeem(args[2])
	case "login":
		err = p.login()
	case "take":
		err = p.take()
	case "forget":
		err = os.Remove(p.file("next.key"))
	case "prove":
		err = p.prove()
	default:
		ts.Fatalf("program %s: there is no such verb", args[1])
	}
	if _, refused := errors.AsType[*api.Problem](err); err != nil && (!neg || !refused) {
		ts.Fatalf("program %v: %v", args, err)
	}
	if err == nil && neg {
		ts.Fatalf("program %v: was not refused", args)
	}
	if err != nil {
		_, _ = fmt.Fprintln(ts.Stderr(), err)
	}
}

func (p scriptProgram) file(name string) string { return filepath.Join(p.dir, name) }

// key reads a key, and makes it if there is none.
func (p scriptProgram) key(name string) (crypto.Signer, error) {
	raw, err := os.ReadFile(p.file(name))
	if errors.Is(err, fs.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return nil, err
		}
		return key, os.WriteFile(p.file(name), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM", name)
	}
	return x509.ParseECPrivateKey(block.Bytes)
}

func (p scriptProgram) redeem(answer string) error {
	var view api.RecoveryView
	if err := json.Unmarshal([]byte(p.ts.ReadFile(answer)), &view); err != nil {
		return err
	}
	if len(view.Tokens) == 0 {
		return fmt.Errorf("%s holds no recovery token", answer)
	}
	next, err := p.key("next.key")
	if err != nil {
		return err
	}
	reply, err := p.client().Redeem(context.Background(), secret.New(view.Tokens[0].Token), next)
	if err != nil {
		return err
	}
	return p.keep(reply)
}

func (p scriptProgram) client() *api.Client { return &api.Client{URL: p.ts.Getenv("API")} }

func (p scriptProgram) login() error {
	key, err := p.key("tls.key")
	if err != nil {
		return err
	}
	token, err := secret.ReadFile(p.file("token"))
	if err != nil {
		return err
	}
	next, err := p.key("next.key")
	if err != nil {
		return err
	}
	reply, err := p.client().Login(context.Background(), api.Credential{Token: token, Key: key}, next)
	if err != nil {
		return err
	}
	return p.keep(reply)
}

// keep writes a reply down. One for the same key must be the same; only where the
// gateway is reached may have changed, when all was started again on free ports.
func (p scriptProgram) keep(reply api.SignInReply) error {
	before := p.last()
	if before.Generation == reply.Generation {
		was, err := claimsOf(before.Token)
		if err != nil {
			return err
		}
		is, err := claimsOf(reply.Token)
		if err != nil {
			return err
		}
		delete(was, "iss")
		delete(is, "iss")
		if before.Certificate != reply.Certificate || !reflect.DeepEqual(was, is) {
			return fmt.Errorf("generation %d came back as another", reply.Generation)
		}
	}
	raw, err := json.Marshal(reply)
	if err != nil {
		return err
	}
	return os.WriteFile(p.file("reply.json"), raw, 0o600)
}

func claimsOf(token string) (map[string]any, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("a token of %d parts", len(parts))
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, err
	}
	var claims map[string]any
	return claims, json.Unmarshal(raw, &claims)
}

func (p scriptProgram) last() api.SignInReply {
	var reply api.SignInReply
	if raw, err := os.ReadFile(p.file("reply.json")); err == nil {
		p.ts.Check(json.Unmarshal(raw, &reply))
	}
	return reply
}

func (p scriptProgram) take() error {
	reply := p.last()
	for name, text := range map[string]string{"tls.crt": reply.Certificate, "token": reply.Token, "ca.crt": reply.CA} {
		if err := os.WriteFile(p.file(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return os.Rename(p.file("next.key"), p.file("tls.key"))
}

func (p scriptProgram) prove() error {
	pair, err := tls.LoadX509KeyPair(p.file("tls.crt"), p.file("tls.key"))
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(p.file("ca.crt"))
	if err != nil {
		return err
	}
	token, err := secret.ReadFile(p.file("token"))
	if err != nil {
		return err
	}
	admin := &api.Client{URL: p.ts.Getenv("API"), Token: secret.New(p.ts.Getenv("TOKEN"))}
	var status api.Status
	if err := admin.Call(context.Background(), http.MethodGet, api.PathStatus, nil, &status); err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13,
		Time: func() time.Time { return status.Now }, // the clock of the fleet, which may be fast
	}}
	defer transport.CloseIdleConnections()
	c := &api.Client{URL: p.ts.Getenv("AGENTS"), Token: token, HTTP: &http.Client{Transport: transport}}
	return c.Call(context.Background(), http.MethodPost, api.PathProve, nil, nil)
}
