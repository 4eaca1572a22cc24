package natsconf

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"

	"github.com/rotor-fleet/rotor/shared/clock"
)

// The files of a CA made here.
const (
	caCert = "ca.crt"
	caKey  = "ca.key"
)

func serverCert(i int) string { return ServerName(i) + "/server.crt" }
func serverKey(i int) string  { return ServerName(i) + "/server.key" }

const (
	year       = 365 * 24 * time.Hour
	caLife     = 10 * year
	serverLife = 2 * year
	// renewBefore has a certificate made anew by a run this long before its end.
	renewBefore = year
)

// pair is a certificate with its key.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// selfSigned puts a CA and a certificate per server into files. What exists and
// still fits is kept.
func selfSigned(files Files, o Options) error {
	now := clock.Wall()
	ca, err := parse(o.Existing, caCert, caKey)
	if err != nil {
		return err
	}
	if ca == nil {
		template := &x509.Certificate{
			Subject: pkix.Name{CommonName: "Rotor NATS CA"}, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(caLife),
		}
		if ca, err = sign(template, nil); err != nil {
			return fmt.Errorf("make CA of NATS: %w", err)
		}
	}
	if err := ca.put(files, caCert, caKey); err != nil {
		return fmt.Errorf("make CA of NATS: %w", err)
	}
	for i := range o.Servers {
		server, err := parse(o.Existing, serverCert(i), serverKey(i))
		if err != nil {
			return err
		}
		names := []string{}
		for _, address := range []string{o.Servers[i], o.Routes[i]} {
			host, _, err := split(address)
			if err != nil {
				return err
			}
			names = append(names, host)
		}
		if server == nil || !server.fits(ca, names, now) {
			template := &x509.Certificate{
				Subject: pkix.Name{CommonName: ServerName(i)}, KeyUsage: x509.KeyUsageDigitalSignature,
				// Servers call each other, so each is a client too.
				ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
				NotBefore:   now.Add(-time.Hour), NotAfter: now.Add(serverLife),
			}
			for _, host := range names {
				if ip := net.ParseIP(host); ip != nil {
					template.IPAddresses = append(template.IPAddresses, ip)
				} else {
					template.DNSNames = append(template.DNSNames, host)
				}
			}
			if server, err = sign(template, ca); err != nil {
				return fmt.Errorf("make certificate of NATS server %s: %w", ServerName(i), err)
			}
		}
		if err := server.put(files, serverCert(i), serverKey(i)); err != nil {
			return fmt.Errorf("make certificate of NATS server %s: %w", ServerName(i), err)
		}
	}
	return nil
}

// sign makes a key and its certificate, signed by ca or, without one, by itself.
func sign(template *x509.Certificate, ca *pair) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return nil, err
	}
	parent, signer := template, key
	if ca != nil {
		parent, signer = ca.cert, ca.key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(raw)
	return &pair{cert, key}, err
}

func (p *pair) put(files Files, cert, key string) error {
	raw, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		return err
	}
	files[cert] = File{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw}), 0o644}
	files[key] = File{pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), private}
	return nil
}

// fits reports whether a server certificate is of this CA, has the names and
// does not end soon.
func (p *pair) fits(ca *pair, names []string, now time.Time) bool {
	if p.cert.CheckSignatureFrom(ca.cert) != nil || now.Add(renewBefore).After(p.cert.NotAfter) {
		return false
	}
	for _, host := range names {
		if p.cert.VerifyHostname(host) != nil {
			return false
		}
	}
	return true
}

// parse reads a pair from files; nil, if neither file exists.
func parse(files Files, cert, key string) (*pair, error) {
	if len(files[cert].Data) == 0 && len(files[key].Data) == 0 {
		return nil, nil
	}
	rawCert, _ := pem.Decode(files[cert].Data)
	rawKey, _ := pem.Decode(files[key].Data)
	if rawCert == nil || rawKey == nil {
		return nil, fmt.Errorf("read %s and %s: not both are there in PEM: remove them to have new ones made", cert, key)
	}
	c, err := x509.ParseCertificate(rawCert.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", cert, err)
	}
	k, err := x509.ParsePKCS8PrivateKey(rawKey.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	private, ok := k.(*ecdsa.PrivateKey)
	if !ok || !private.PublicKey.Equal(c.PublicKey) {
		return nil, fmt.Errorf("read %s: %w", key, errors.New("it is not the key of the certificate"))
	}
	return &pair{c, private}, nil
}
