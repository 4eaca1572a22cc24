// Package channeltest is the suite that every channel must pass: what it sends
// again, what it gives up, and that it never shows a secret.
package channeltest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/services/notifier/internal/channel"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Case is one way in which the receiver of a channel behaves.
type Case struct {
	Name      string
	Channel   channel.Channel
	Fails     bool
	Permanent bool
	After     time.Duration // what the error must say, if not 0
}

// Suite says what to test a channel with.
type Suite struct {
	Cases   []Case
	Secrets []string // none of these may show in an error or in the printed channel
}

// Message returns a message about an alert that fires, the same at each call.
func Message() channel.Message {
	client := fleet.ClientKey{Kind: "node-agent", Instance: "host-1"}
	return channel.Message{
		ID: "4f9f2c1e-0a5c-5f6e-9b0a-2f4f6c6a1b11", About: "firing/1", Link: "https://rotor.example.com/",
		Alert: fleet.Alert{
			Fingerprint: "00112233445566778899aabbccddeeff", Rule: "credential-expiring", Severity: fleet.SeverityCritical,
			State: fleet.AlertFiring, Cluster: "edge-03", Client: &client, Generation: 4, Level: 2,
			Summary: `the token of edge-03/node-agent/host-1 expires in 3 days <soon> & "for good"`,
			Remedy:  "rotor rotate edge-03 --client node-agent/host-1",
			Since:   time.Date(2026, 11, 23, 8, 30, 0, 0, time.UTC),
		},
	}
}

// Resolved returns the message that the alert of Message is over.
func Resolved() channel.Message {
	m := Message()
	m.ID, m.About = "5a0b8a9e-5d0f-5c0e-8a44-71d3a0a4a001", "resolved"
	m.Alert.State, m.Alert.ResolvedAt = fleet.AlertResolved, m.Alert.Since.Add(26*time.Hour)
	return m
}

// Run runs the suite.
func Run(t *testing.T, s Suite) {
	t.Helper()
	for _, c := range s.Cases {
		t.Run(c.Name, func(t *testing.T) {
			err := c.Channel.Send(t.Context(), Message())
			if (err != nil) != c.Fails {
				t.Fatalf("error %v, want one: %t", err, c.Fails)
			}
			if channel.IsPermanent(err) != c.Permanent {
				t.Errorf("permanent is %t, want %t: %v", !c.Permanent, c.Permanent, err)
			}
			if after := channel.After(err); after > c.After || after < c.After-2*time.Second {
				t.Errorf("come back after %s, want %s", after, c.After)
			}
			s.hides(t, err)
		})
		t.Run(c.Name+"/cancelled", func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(errors.New("the end"))
			err := c.Channel.Send(ctx, Message())
			if channel.IsPermanent(err) {
				t.Errorf("an attempt that was broken off is permanent: %v", err)
			}
			s.hides(t, err)
		})
	}
}

func (s Suite) hides(t *testing.T, err error) {
	t.Helper()
	for e := err; e != nil; e = errors.Unwrap(e) {
		for _, text := range []string{e.Error(), fmt.Sprintf("%+v", e), fmt.Sprintf("%#v", e)} {
			for _, secret := range s.Secrets {
				if strings.Contains(text, secret) {
					t.Errorf("the error shows the secret %q: %s", secret, text)
				}
			}
		}
	}
}
