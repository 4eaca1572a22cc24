package cli

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

// transport bounds the time to connect and to the first byte; the length of an
// answer is not bounded, as events never end. Nil trusts what the system trusts.
func transport(trusted *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSClientConfig:       trusted,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
		MaxIdleConnsPerHost:   2,
	}
}

// HTTP returns a client for the server of the file. The certificate file of a
// server on this machine says which certificate is the right one, so that neither
// its name nor its CA need to be known here.
func (s ServerFile) HTTP() *http.Client {
	if s.CertificateFile == "" {
		return &http.Client{Transport: transport(nil)}
	}
	return &http.Client{Transport: transport(&tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection takes one certificate and no other
		VerifyConnection:   func(c tls.ConnectionState) error { return isFirstOf(s.CertificateFile, c) },
	})}
}

// isFirstOf reports an error unless the server has shown the first certificate of a
// file, as the file is now: it changes when the certificate is renewed.
func isFirstOf(path string, c tls.ConnectionState) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("certificate of the server: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return fmt.Errorf("certificate of the server: %s holds nothing in PEM form", path)
	}
	if !bytes.Equal(block.Bytes, c.PeerCertificates[0].Raw) {
		return fmt.Errorf("the server shows another certificate than that in %s: it takes a new one a second after the file has changed", path)
	}
	return nil
}

// trustOnly returns a configuration that trusts the certificates of a file.
func trustOnly(path string) (*tls.Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("CA file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("CA file %s: no certificate in PEM form", path)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}, nil
}

// distrusted says what to do where the server's certificate was not believed, empty
// for other errors.
func distrusted(err error) string {
	if _, is := errors.AsType[*tls.CertificateVerificationError](err); !is {
		return ""
	}
	if _, is := errors.AsType[x509.HostnameError](err); is {
		return "use a name that stands in the certificate in --url or ROTOR_URL"
	}
	if _, is := errors.AsType[x509.UnknownAuthorityError](err); is {
		return "if a private CA has signed the certificate of the server, name its file with --ca-file or ROTOR_CA_FILE"
	}
	return "look at the certificate with `rotor inspect HOST:PORT`"
}
