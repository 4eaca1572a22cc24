package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdCredential tries a client's set as its verifiers would, and asks all who
// are asked about it: credential accepted|refused DIR. Both the proof and the
// introspection have to say so, and the CRL names the certificate or does not.
// credential keep DIR COPY copies a set as somebody may who can read it.
func cmdCredential(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[1])
	if args[0] == "keep" {
		target, err := os.Readlink(filepath.Join(dir, "..data"))
		ts.Check(err)
		ts.Check(os.CopyFS(filepath.Join(ts.MkAbs(args[2]), "set"), os.DirFS(filepath.Join(dir, target))))
		ts.Check(os.Symlink("set", filepath.Join(ts.MkAbs(args[2]), "..data")))
		return
	}
	wanted := args[0] == "accepted"
	eventually(ts, func() error {
		s, err := readSet(dir)
		if err != nil {
			return err
		}
		proven, err := tryProof(ts, dir, s)
		if err != nil {
			return err
		}
		active, err := tryIntrospection(ts, s)
		if err != nil {
			return err
		}
		listed, err := tryList(ts, s)
		if err != nil {
			return err
		}
		if proven != wanted || active != wanted || listed == wanted {
			return fmt.Errorf("%s: proven %v, active %v, on the CRL %v: want it %s", args[1], proven, active, listed, args[0])
		}
		return nil
	})
}

func tryProof(ts *testscript.TestScript, dir string, s set) (bool, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "..data", "tls.crt"), filepath.Join(dir, "..data", "tls.key"))
	if err != nil {
		return false, err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: s.roots, Certificates: []tls.Certificate{pair}}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequest(http.MethodPost, ts.Getenv("AGENTS")+"/v1/agent/prove", nil)
	if err != nil {
		return false, err
	}
	request.Header.Set("Authorization", "Bearer "+s.token)
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return false, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode == http.StatusForbidden {
		return false, nil
	}
	if response.StatusCode != http.StatusOK {
		return false, errors.New("prove: " + response.Status)
	}
	return true, nil
}

func tryIntrospection(ts *testscript.TestScript, s set) (bool, error) {
	form := url.Values{"token": {s.token}}.Encode()
	request, err := http.NewRequest(http.MethodPost, ts.Getenv("API")+"/v1/introspect", strings.NewReader(form))
	if err != nil {
		return false, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Authorization", "Bearer "+ts.Getenv("TOKEN"))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false, err
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct {
		Active  bool   `json:"active"`
		Subject string `json:"sub"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return false, err
	}
	if answer.Active && answer.Subject != s.leaf.Subject.CommonName {
		return false, fmt.Errorf("introspection: sub is %s", answer.Subject)
	}
	return answer.Active, nil
}

func tryList(ts *testscript.TestScript, s set) (bool, error) {
	response, err := http.Get(ts.Getenv("API") + "/crl")
	if err != nil {
		return false, err
	}
	defer func() { _ = response.Body.Close() }()
	der, err := io.ReadAll(response.Body)
	if err != nil {
		return false, err
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return false, fmt.Errorf("CRL: %s: %w", response.Status, err)
	}
	if err := list.CheckSignatureFrom(issuerOf(s)); err != nil {
		return false, fmt.Errorf("CRL: %w", err)
	}
	listed := false
	for _, e := range list.RevokedCertificateEntries {
		listed = listed || e.SerialNumber.Cmp(s.leaf.SerialNumber) == 0
	}
	return listed, openssl(ts, der, listed, s)
}

func issuerOf(s set) *x509.Certificate {
	chains, err := s.leaf.Verify(x509.VerifyOptions{Roots: s.roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return &x509.Certificate{}
	}
	return chains[0][1]
}

// openssl, where it is there, has to come to the same.
func openssl(ts *testscript.TestScript, der []byte, listed bool, s set) error {
	program, err := exec.LookPath("openssl")
	if err != nil {
		return nil //nolint:nilerr // crypto/x509 has looked already
	}
	dir, err := os.MkdirTemp(ts.Getenv("WORK"), "crl-")
	if err != nil {
		return err
	}
	crl, leaf, ca := filepath.Join(dir, "crl"), filepath.Join(dir, "leaf"), filepath.Join(dir, "ca")
	for path, raw := range map[string][]byte{crl + ".der": der, leaf: pemOf(s.leaf), ca: pemOf(issuerOf(s))} {
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			return err
		}
	}
	if out, err := exec.Command(program, "crl", "-inform", "DER", "-in", crl+".der", "-out", crl).CombinedOutput(); err != nil {
		return fmt.Errorf("openssl crl: %w\n%s", err, out)
	}
	out, err := exec.Command(program, "verify", "-crl_check", "-CAfile", ca, "-CRLfile", crl, leaf).CombinedOutput()
	if (err != nil) != listed || listed && !strings.Contains(string(out), "revoked") {
		return fmt.Errorf("openssl verify, with the certificate on the CRL %v: %w\n%s", listed, err, out)
	}
	return nil
}

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
