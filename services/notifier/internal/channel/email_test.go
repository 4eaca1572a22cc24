package channel_test

import (
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/rotor-fleet/rotor/services/notifier/internal/channel"
	"github.com/rotor-fleet/rotor/services/notifier/internal/channel/channeltest"
	"github.com/rotor-fleet/rotor/services/notifier/internal/channel/smtptest"
	"github.com/rotor-fleet/rotor/shared/secret"
)

const password = "s3cr3t-of-mail"

// mailTo returns a channel that sends to a server, changed by f.
func mailTo(t *testing.T, s *smtptest.Server, f func(*channel.EmailConfig)) channel.Channel {
	t.Helper()
	host, service, err := net.SplitHostPort(s.Address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(service)
	if err != nil {
		t.Fatal(err)
	}
	c := channel.EmailConfig{
		Host: host, Port: port, From: "Rotor <rotor@example.com>", To: []string{"ops@example.com", "Night <night@example.com>"},
		TLS: channel.TLSStart, Roots: s.Roots, Hello: "rotor.example.com", Timeout: 10 * time.Second,
	}
	if f != nil {
		f(&c)
	}
	return channel.NewEmail("mail", c)
}

func login(c *channel.EmailConfig) { c.Username, c.Password = "rotor", secret.New(password) }

func TestEmailSuite(t *testing.T) {
	gone := smtptest.New(t, smtptest.Options{TLS: true})
	gone.Close()
	withLogin := smtptest.Options{TLS: true, Username: "rotor", Password: password}
	plain := func(c *channel.EmailConfig) { c.TLS = channel.TLSNone }
	refusing := func(code int) *smtptest.Server {
		return smtptest.New(t, smtptest.Options{TLS: true, Refuse: &smtp.SMTPError{Code: code, Message: "not now, not here"}})
	}
	channeltest.Run(t, channeltest.Suite{
		Secrets: []string{password, "AHJvdG9yAHMzY3Izd"},
		Cases: []channeltest.Case{
			{Name: "starttls", Channel: mailTo(t, smtptest.New(t, smtptest.Options{TLS: true}), nil)},
			{Name: "starttls and login", Channel: mailTo(t, smtptest.New(t, withLogin), login)},
			{Name: "implicit", Channel: mailTo(t, smtptest.New(t, smtptest.Options{Implicit: true, Username: "rotor", Password: password}),
				func(c *channel.EmailConfig) { login(c); c.TLS = channel.TLSImplicit })},
			{Name: "none", Channel: mailTo(t, smtptest.New(t, smtptest.Options{}), plain)},
			{Name: "none and login on this machine", Channel: mailTo(t, smtptest.New(t, smtptest.Options{Username: "rotor", Password: password}),
				func(c *channel.EmailConfig) { login(c); plain(c) })},
			{Name: "nobody listens", Channel: mailTo(t, gone, nil), Fails: true},
			{Name: "starttls not offered", Channel: mailTo(t, smtptest.New(t, smtptest.Options{}), nil), Fails: true},
			{Name: "unknown CA", Channel: mailTo(t, smtptest.New(t, withLogin),
				func(c *channel.EmailConfig) { login(c); c.Roots = smtptest.New(t, withLogin).Roots }), Fails: true},
			{Name: "wrong password", Channel: mailTo(t, smtptest.New(t, smtptest.Options{TLS: true, Username: "rotor", Password: "other"}), login), Fails: true},
			{Name: "login not offered", Channel: mailTo(t, smtptest.New(t, smtptest.Options{TLS: true}), login), Fails: true},
			{Name: "greylisted", Channel: mailTo(t, refusing(451), nil), Fails: true},
			{Name: "no such mailbox", Channel: mailTo(t, refusing(550), nil), Fails: true, Permanent: true},
			{Name: "letter refused", Channel: mailTo(t, smtptest.New(t, smtptest.Options{
				TLS: true, RefuseIn: &smtp.SMTPError{Code: 554, Message: "no"},
			}), nil), Fails: true, Permanent: true},
		},
	})
}

func TestEmailRefusesToFallBackToPlainText(t *testing.T) {
	s := smtptest.New(t, smtptest.Options{Username: "rotor", Password: password}) // takes logins in clear
	if err := mailTo(t, s, login).Send(t.Context(), channeltest.Message()); err == nil {
		t.Error("sent without TLS")
	}
	if got := s.Mails(); len(got) != 0 {
		t.Errorf("arrived: %+v", got)
	}
}

// parts returns the header of a letter and its two forms, decoded.
func parts(t *testing.T, raw string) (header mail.Header, text, html string) {
	t.Helper()
	letter, err := mail.ReadMessage(strings.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(letter.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/alternative" {
		t.Fatalf("content type %s: %v", kind, err)
	}
	r := multipart.NewReader(letter.Body, params["boundary"])
	var found []string
	for _, want := range []string{"text/plain", "text/html"} { // the best form comes last (RFC 2046, 5.1.4)
		part, err := r.NextRawPart()
		if err != nil {
			t.Fatal(err)
		}
		if got := part.Header.Get("Content-Type"); !strings.HasPrefix(got, want) {
			t.Errorf("part is %s, want %s", got, want)
		}
		body, err := io.ReadAll(quotedprintable.NewReader(part))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, strings.ReplaceAll(string(body), "\r\n", "\n"))
	}
	return letter.Header, found[0], found[1]
}

func TestEmailGolden(t *testing.T) {
	s := smtptest.New(t, smtptest.Options{TLS: true, Username: "rotor", Password: password})
	ch := mailTo(t, s, login)
	messages := []channel.Message{channeltest.Message(), channeltest.Resolved()}
	for _, m := range messages {
		if err := ch.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	mails := s.Mails()
	if len(mails) != 2 {
		t.Fatalf("%d letters", len(mails))
	}
	for i, name := range []string{"firing", "resolved"} {
		if got := mails[i]; !got.Encrypted || got.Login != "rotor" || got.From != "rotor@example.com" || len(got.To) != 2 {
			t.Errorf("letter: encrypted %t, login %q, from %q, to %q", got.Encrypted, got.Login, got.From, got.To)
		}
		header, text, html := parts(t, mails[i].Body)
		golden(t, "mail-"+name+".txt", []byte(text))
		golden(t, "mail-"+name+".html", []byte(html))
		subject, err := new(mime.WordDecoder).DecodeHeader(header.Get("Subject"))
		if err != nil || subject != messages[i].Title() {
			t.Errorf("subject %q: %v", subject, err)
		}
		if got, want := header.Get("Message-Id"), "<"+messages[i].ID+"@rotor>"; got != want {
			t.Errorf("Message-ID %q, want %q", got, want)
		}
		if header.Get("Auto-Submitted") != "auto-generated" || header.Get("Date") == "" {
			t.Errorf("header: %v", header)
		}
	}
	first, _, _ := parts(t, mails[0].Body)
	second, _, _ := parts(t, mails[1].Body)
	if first.Get("References") == "" || first.Get("References") != second.Get("References") {
		t.Errorf("one alert makes two threads: %q and %q", first.Get("References"), second.Get("References"))
	}
}

func TestEmailEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never greets
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := contextWithTimeout(t, 50*time.Millisecond)
	defer cancel()
	s := &smtptest.Server{Address: l.Addr().String()}
	if err := mailTo(t, s, func(c *channel.EmailConfig) { c.Timeout = time.Hour }).Send(ctx, channeltest.Message()); err == nil || channel.IsPermanent(err) {
		t.Errorf("error: %v", err)
	}
}
