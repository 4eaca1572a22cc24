package rule

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

var now = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)

func fact[T any](t testing.TB, kind event.Kind[T], cluster string, data T) event.Event {
	t.Helper()
	e, err := kind.New(event.Meta{Source: "test", Cluster: cluster, Key: []string{"1"}, Time: now}, data)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func clients(mods ...func(*event.Client)) event.Credentials {
	c := event.Client{
		Client: fleet.ClientKey{Kind: "node-agent", Instance: "host-1"}, Generation: 3,
		NotAfter: now.Add(20 * fleet.Day), ExpiresAt: now.Add(3 * fleet.Day),
	}
	for _, mod := range mods {
		mod(&c)
	}
	return event.Credentials{Clients: []event.Client{c}}
}

func TestOf(t *testing.T) {
	behind := event.Window{
		Release: "2026.07", State: fleet.WindowBehind, Missed: []string{"2026.08", "2026.09"},
		Since: now.Add(-75 * fleet.Day), Deadline: now.Add(-15 * fleet.Day), Level: 2,
	}
	due := behind
	due.Deadline, due.Missed, due.Level = now.Add(10*fleet.Day), []string{"2026.08"}, 0
	failed := event.Rotation{Rotation: "r1", Clusters: 3, Failed: 2, Failures: []event.Failure{
		{Cluster: "a", Client: fleet.ClientKey{Kind: "kms"}, Reason: "no request on file"},
		{Cluster: "b", Client: fleet.ClientKey{Kind: "csi"}, Reason: "not proven"},
		{Cluster: "b", Client: fleet.ClientKey{Kind: "kms"}, Reason: "not proven"},
	}}
	for name, c := range map[string]struct {
		fact  event.Event
		raise []string
		end   []string
	}{
		"window missed": {
			fact: fact(t, event.WindowMissed, "edge-03", behind),
			raise: []string{"window-missed critical edge-03  0 level 2: edge-03 is past its update window since 2026-11-08: it runs 2026.07 and has missed " +
				"2026.08 (published 2026-09-09) and one more | rotor upgrade edge-03 --release 2026.09"},
			end: []string{"window-closing of edge-03  silent"},
		},
		"window closing": {
			fact: fact(t, event.WindowClosing, "edge-03", due),
			raise: []string{"window-closing warning edge-03  0 level 0: the update window of edge-03 closes in 10 days, on 2026-12-03: " +
				"it runs 2026.07 and has missed 2026.08 (published 2026-09-09) | rotor upgrade edge-03 --release 2026.08"},
		},
		"window restored": {
			fact: fact(t, event.WindowRestored, "edge-03", event.Window{}),
			end:  []string{"window-closing window-missed of edge-03 "},
		},
		"expiring": {
			fact: fact(t, event.CredentialExpiring, "hq", clients(func(c *event.Client) { c.Level = 1 })),
			raise: []string{"credential-expiring warning hq node-agent/host-1 3 level 1: the token of hq/node-agent/host-1 expires in 3 days, " +
				"on 2026-11-26 00:00 UTC, and its replacement is not in use yet | rotor rotate hq --client node-agent/host-1"},
		},
		"expiring soon": {
			fact: fact(t, event.CredentialExpiring, "hq", clients(func(c *event.Client) {
				c.Level, c.NotAfter, c.Error = 2, now.Add(90*time.Minute), "no request\non file"
			})),
			raise: []string{"credential-expiring critical hq node-agent/host-1 3 level 2: the certificate of hq/node-agent/host-1 expires in 90 minutes, " +
				"on 2026-11-23 01:30 UTC, and its replacement is not in use yet (no request on file) | rotor rotate hq --client node-agent/host-1"},
		},
		"expired": {
			fact: fact(t, event.CredentialExpired, "hq", clients(func(c *event.Client) { c.Credential = "both" })),
			raise: []string{"credential-expired critical hq node-agent/host-1 3 level 0: certificate and token of hq/node-agent/host-1 have expired: " +
				"in use is generation 3, valid until 2026-11-26 00:00 UTC | rotor rotate hq --client node-agent/host-1"},
			end: []string{"credential-expiring of hq node-agent/host-1 up to 3 silent"},
		},
		"expired, both": {
			fact: fact(t, event.CredentialExpired, "hq", clients(func(c *event.Client) { c.Credential, c.NotAfter, c.ExpiresAt = "both", now, now })),
			raise: []string{"credential-expired critical hq node-agent/host-1 3 level 0: certificate and token of hq/node-agent/host-1 have expired: " +
				"in use is generation 3, valid until 2026-11-23 00:00 UTC | rotor recover hq --client node-agent/host-1"},
			end: []string{"credential-expiring of hq node-agent/host-1 up to 3 silent"},
		},
		"proven": {
			fact: fact(t, event.CredentialProven, "hq", clients()),
			end: []string{
				"credential-failed of hq node-agent/host-1 up to 3",
				"credential-expiring credential-expired signin-refused of hq node-agent/host-1 up to 2",
			},
		},
		"proven for the first time": {
			fact: fact(t, event.CredentialProven, "hq", clients(func(c *event.Client) { c.Generation = 1 })),
			end:  []string{"credential-failed of hq node-agent/host-1 up to 1"},
		},
		"locked out": {
			fact: fact(t, event.ClientLockedOut, "hq", clients()),
			raise: []string{"client-locked-out critical hq node-agent/host-1 3 level 0: hq/node-agent/host-1 is locked out: its certificate and its " +
				"token have both expired | rotor recover hq --client node-agent/host-1"},
			end: []string{"client-degraded of hq node-agent/host-1 up to 3 silent"},
		},
		"recovered": {
			fact: fact(t, event.ClientRecovered, "hq", clients()),
			end:  []string{"client-degraded client-locked-out of hq node-agent/host-1"},
		},
		"rotation of many failed": {
			fact: fact(t, event.RotationFailed, event.FleetWide, failed),
			raise: []string{
				"rotation-failed critical a  0 level 0: the rotation of a has failed for 1 client; what they have stays in use; kms: no request on file | rotor rotate a",
				"rotation-failed critical b  0 level 0: the rotation of b has failed for 2 clients; what they have stays in use; csi: not proven | rotor rotate b",
			},
			end: []string{"rotation-halted of _fleet "},
		},
		"rotation of what needs recovery": {
			fact: fact(t, event.RotationFailed, "b", event.Rotation{Rotation: "r1", Clusters: 1, Failed: 1, Failures: []event.Failure{
				{Cluster: "b", Client: fleet.ClientKey{Kind: "kms"}, Reason: "locked out", Outcome: fleet.OutcomeNeedsRecovery},
			}}),
			raise: []string{"rotation-failed critical b  0 level 0: the rotation of b has failed for 1 client; what they have stays in use; kms: locked out | rotor recover b"},
			end:   []string{"rotation-halted of b "},
		},
		"rotation completed": {
			fact: fact(t, event.RotationCompleted, event.FleetWide, event.Rotation{Rotation: "r1"}),
			end:  []string{"rotation-halted of _fleet ", "rotation-failed of _fleet "},
		},
		"rotation halted again": {
			fact: fact(t, event.RotationHalted, event.FleetWide, event.Rotation{Rotation: "r1", Clusters: 3, Wave: 2, Halt: 2, Why: "9 of 80 clients failed"}),
			raise: []string{"rotation-halted critical _fleet  0 level 1: rotation r1 over 3 clusters was halted in wave 2: 9 of 80 clients failed; " +
				"what has not begun waits for an operator | rotor rotation show r1"},
		},
		"keystore away": {
			fact: fact(t, event.AuthorityUnavailable, event.FleetWide, event.Keystore{Since: now.Add(-5 * time.Minute), Why: "no cable"}),
			raise: []string{"keystore-away critical _fleet  0 level 0: an issuer cannot use the HSM since 2026-11-22 23:55 UTC, and signs nothing: no cable | " +
				"look at the HSM, its module, token and PIN; /readyz of the issuer says more"},
		},
		"keystore back": {
			fact: fact(t, event.AuthorityAvailable, event.FleetWide, event.Keystore{}),
			end:  []string{"keystore-away of _fleet "},
		},
		"CA is due": {fact: fact(t, event.AuthorityDue, event.FleetWide, event.Rollout{Kind: fleet.RolloutCA})},
		"CA is late": {
			fact: fact(t, event.AuthorityDue, event.FleetWide, event.Rollout{
				Kind: fleet.RolloutCA, From: "0123456789abcdef", Level: 1, By: now.Add(30 * fleet.Day), End: now.Add(135 * fleet.Day),
			}),
			raise: []string{"authority-late warning _fleet  0 level 0: the next CA is late: it should sign by 2026-12-23 in place of 0123456789ab, " +
				"which ends on 2027-04-07; before that, certificates would be cut short | rotor authority status"},
		},
		"CA is very late": {
			fact: fact(t, event.AuthorityDue, event.FleetWide, event.Rollout{
				Kind: fleet.RolloutCA, From: "ca-1", Level: 2, By: now.Add(5 * fleet.Day), End: now.Add(110 * fleet.Day),
			}),
			raise: []string{"authority-late critical _fleet  0 level 1: the next CA is very late: it should sign by 2026-11-28 in place of ca-1, " +
				"which ends on 2027-03-13; before that, certificates would be cut short | rotor authority status"},
		},
		"rollout is held": {
			fact: fact(t, event.AuthorityHeld, event.FleetWide, event.Rollout{
				Rollout: "r1", Kind: fleet.RolloutCA, Phase: fleet.RolloutTrusted, Level: 2, Count: 5, Since: now.Add(-2 * fleet.Day),
				Missing: []fleet.Laggard{
					{Cluster: "edge-07", Why: "agent not heard since 2026-11-01T00:00:00Z"},
					{Cluster: "edge-08", Why: "w"},
					{Cluster: "edge-09", Client: &fleet.ClientKey{Kind: "kms"}, Why: "waits for its program"},
					{Cluster: "edge-10", Why: "w"},
				},
			}),
			raise: []string{"authority-held warning _fleet  0 level 1: the rotation of the CA is in phase trusted since 2026-11-21 00:00 UTC; it waits for " +
				"edge-07 (agent not heard since 2026-11-01T00:00:00Z), edge-08 (w), edge-09/kms (waits for its program), 2 more | " +
				"bring it back, or do not wait for it: rotor authority exclude edge-07 --reason WHY"},
		},
		"rollout is halted": {
			fact: fact(t, event.AuthorityHeld, event.FleetWide, event.Rollout{
				Rollout: "r1", Kind: fleet.RolloutToken, Phase: fleet.RolloutPrepare, Level: 1, Since: now, Halted: "the issuer refuses: no",
			}),
			raise: []string{"authority-held warning _fleet  0 level 0: the rotation of the token key is in phase prepare since 2026-11-23 00:00 UTC " +
				"and does not go on: the issuer refuses: no | rotor authority status"},
		},
		"rollout waits for the issuer": {
			fact: fact(t, event.AuthorityHeld, event.FleetWide, event.Rollout{
				Rollout: "r1", Kind: fleet.RolloutCA, Reason: fleet.RolloutAsked, Phase: fleet.RolloutActivate, Level: 1, Since: now,
			}),
			raise: []string{"authority-held warning _fleet  0 level 0: the rotation of the CA is in phase activate since 2026-11-23 00:00 UTC; " +
				"it waits for the issuer | check that an issuer runs, and what its /readyz says; rotor authority status"},
		},
		"rollout waits for a word": {
			fact: fact(t, event.AuthorityHeld, event.FleetWide, event.Rollout{
				Rollout: "r1", Kind: fleet.RolloutCA, Reason: fleet.RolloutTainted, Phase: fleet.RolloutRetire, Level: 1, Since: now,
			}),
			raise: []string{"authority-held warning _fleet  0 level 0: the rotation of the CA is in phase retire since 2026-11-23 00:00 UTC: " +
				"nobody uses the compromised CA any more, and an operator has to say that it goes | rotor authority retire"},
		},
		"gate has opened": {
			fact: fact(t, event.AuthorityTrusted, event.FleetWide, event.Rollout{Rollout: "r1"}),
			end:  []string{"authority-held of _fleet "},
		},
		"another CA signs": {
			fact: fact(t, event.AuthorityActivated, event.FleetWide, event.Authority{What: "ca", Rollout: "r1"}),
			end:  []string{"authority-late authority-cut of _fleet ", "authority-held of _fleet "},
		},
		"another token key signs": {
			fact: fact(t, event.AuthorityActivated, event.FleetWide, event.Authority{What: "token", Rollout: "r2"}),
			end:  []string{"authority-held of _fleet "},
		},
		"rollout completed": {
			fact: fact(t, event.AuthorityCompleted, event.FleetWide, event.Rollout{Rollout: "r1"}),
			end:  []string{"authority-held of _fleet "},
		},
		"rollout rolled back": {
			fact: fact(t, event.AuthorityRolledBack, event.FleetWide, event.Rollout{Rollout: "r1"}),
			end:  []string{"authority-held of _fleet "},
		},
		"issued, and cut": {
			fact: fact(t, event.CredentialIssued, "hq", clients(func(c *event.Client) { c.Cut = true })),
			raise: []string{"authority-cut warning _fleet  0 level 0: what is issued now lives shorter than its policy says, as the CA ends before: " +
				"hq/node-agent/host-1 ends on 2026-11-26; another CA should sign by now | rotor authority status"},
			end: []string{"credential-failed of hq node-agent/host-1 up to 3"},
		},
		"rotation resumed": {
			fact: fact(t, event.RotationResumed, event.FleetWide, event.Rotation{Rotation: "r1", Halt: 2}),
			end:  []string{"rotation-halted of _fleet  up to 2"},
		},
		"rotation cancelled": {
			fact: fact(t, event.RotationCancelled, event.FleetWide, event.Rotation{Rotation: "r1"}),
			end:  []string{"rotation-halted of _fleet "},
		},
		"join token of another": {
			fact: fact(t, event.SigninRefused, "hq", event.Refusal{What: event.RefusedJoin, Agent: "abc", Reason: "it was redeemed before"}),
			raise: []string{"signin-refused critical hq  0 level 0: the join token of hq was tried with another key than the one that redeemed it, " +
				"with key abc: it was redeemed before | if that was not you: rotor join hq --replace"},
		},
		"recovery token of another": {
			fact: fact(t, event.SigninRefused, "hq", event.Refusal{What: event.RefusedRecovery, Client: &fleet.ClientKey{Kind: "kms"}, Generation: 4}),
			raise: []string{"signin-refused critical hq kms 4 level 0: the recovery token of hq/kms was tried with another key than the one that " +
				"redeemed it | if that was not you: rotor recover hq --client kms --token"},
		},
		"sign-in by another": {
			fact: fact(t, event.SigninRefused, "hq", event.Refusal{What: event.RefusedLogin, Client: &fleet.ClientKey{Kind: "kms"}, Generation: 4}),
			raise: []string{"signin-refused critical hq kms 4 level 0: somebody with a token of hq/kms was refused | if that was not its program: " +
				"rotor revoke hq/kms --reason key-compromise; then rotor reinstate, and rotor recover hq --client kms --token"},
		},
		"agent that was replaced": {
			fact: fact(t, event.SigninRefused, "hq", event.Refusal{What: event.RefusedAgent, Agent: "abc"}),
			raise: []string{"signin-refused warning hq  0 level 0: an agent of hq that was replaced still calls, with key abc | " +
				"stop the old agent; if there is none that you know of, its key was stolen: rotor get agents hq"},
		},
		"revoked": {
			fact: fact(t, event.CredentialRevoked, "hq", event.Revocation{
				Client: fleet.ClientKey{Kind: "kms"}, Reason: fleet.KeyCompromise, By: "admin", Since: now,
				Credentials: []event.Client{{Client: fleet.ClientKey{Kind: "kms"}, Generation: 3}, {Client: fleet.ClientKey{Kind: "kms"}, Generation: 4}},
			}),
			raise: []string{"client-revoked info hq kms 4 level 0: hq/kms was revoked by admin: key-compromise; it gets no credentials until it is reinstated; " +
				"2 certificates of it on the CRL | rotor reinstate hq/kms"},
			end: []string{"credential-expiring credential-expired credential-failed client-degraded client-locked-out of hq kms silent"},
		},
		"reinstated": {
			fact: fact(t, event.ClientReinstated, "hq", event.Revocation{Client: fleet.ClientKey{Kind: "kms"}}),
			end:  []string{"client-revoked of hq kms"},
		},
		"letter buried": {
			fact: fact(t, event.LetterBuried, "edge-03", event.Letter{Letter: "id-1", Service: "issuer", Source: "COMMANDS", Consumer: "issuer", Attempts: 1, Reason: "no CSR"}),
			raise: []string{"dead-letter warning edge-03  0 level 0: a message about edge-03 was given up by the issuer after 1 attempt: no CSR" +
				" | rotor alert dead replay id-1"},
		},
		"letter of a channel buried": {
			fact: fact(t, event.LetterBuried, event.FleetWide, event.Letter{
				Letter: "id-1", Service: "notifier", Source: "channel", Consumer: "chat", Subject: "rotation-failed firing/0", Attempts: 9, Reason: "404",
			}),
			raise: []string{"dead-letter warning _fleet  0 level 0: a message about more than one cluster (rotation-failed firing/0) was given up by " +
				"the channel chat after 9 attempts: 404 | rotor alert dead replay id-1"},
		},
		"letter replayed": {fact: fact(t, event.LetterReplayed, "edge-03", event.Letter{Letter: "id-1"}), end: []string{"dead-letter of edge-03 "}},
		"letter dropped":  {fact: fact(t, event.LetterDropped, "edge-03", event.Letter{Letter: "id-1"}), end: []string{"dead-letter of edge-03 "}},
		"agent silent": {
			fact: fact(t, event.AgentSilent, "hq", event.Agent{LastSeen: now.Add(-3 * fleet.Day)}),
			raise: []string{"agent-silent warning hq  0 level 0: the agent of hq is silent since 2026-11-20 00:00 UTC: nothing of the cluster can be renewed | " +
				"look where it runs; if its machine is lost: rotor join hq --replace"},
		},
		"agent returned": {fact: fact(t, event.AgentReturned, "hq", event.Agent{}), end: []string{"agent-silent of hq "}},
		"agent skewed": {
			fact: fact(t, event.AgentSkewed, "hq", event.Agent{Skew: -600}),
			raise: []string{"agent-skewed warning hq  0 level 0: the clock of the agent of hq is 10m0s behind the fleet's: it will take new credentials " +
				"for not yet valid, or good ones for expired | set the clock of its machine (NTP)"},
		},
		"agent synced": {fact: fact(t, event.AgentSynced, "hq", event.Agent{}), end: []string{"agent-skewed of hq "}},
		"agent duplicated": {
			fact: fact(t, event.AgentDuplicated, "hq", event.Agent{How: fleet.CopiedAlive}),
			raise: []string{"agent-duplicated critical hq  0 level 0: two have the key of the agent of hq: two processes call in turn | " +
				"give it a new key: rotor join hq --replace"},
		},
		"bundle refused": {
			fact: fact(t, event.BundleRefused, "hq", event.Agent{Server: "https://x:1", Reason: "not signed by the pinned fleet key"}),
			raise: []string{"bundle-refused critical hq  0 level 0: the agent of hq has met a server at https://x:1 that it does not believe, and told it " +
				"nothing: not signed by the pinned fleet key | find out who answers there: a proxy that opens TLS, another Rotor, or an attacker"},
		},
		"bundle settled":    {fact: fact(t, event.BundleSettled, "hq", event.Agent{}), end: []string{"bundle-refused of hq "}},
		"agent enrolled":    {fact: fact(t, event.AgentEnrolled, "hq", event.Agent{}), end: []string{"signin-refused agent-silent agent-skewed agent-duplicated of hq whole"}},
		"cluster removed":   {fact: fact(t, event.ClusterRemoved, "edge-03", event.Cluster{}), end: []string{" of edge-03 "}},
		"nobody need hear":  {fact: fact(t, event.ReleasePublished, "edge-03", event.Release{})},
		"no clients at all": {fact: fact(t, event.CredentialExpired, "edge-03", event.Credentials{})},
	} {
		t.Run(name, func(t *testing.T) {
			effect, err := Of(c.fact)
			if err != nil {
				t.Fatal(err)
			}
			var raise, end []string
			for _, a := range effect.Raise {
				client := ""
				if a.Client != nil {
					client = a.Client.String()
				}
				raise = append(raise, fmt.Sprintf("%s %s %s %s %d level %d: %s | %s", a.Rule, a.Severity, a.Cluster, client, a.Generation, a.Level, a.Summary, a.Remedy))
				if a.State != fleet.AlertFiring || !a.Since.Equal(now) || len(a.Fingerprint) != 32 {
					t.Errorf("alert: %+v", a)
				}
			}
			for _, e := range effect.End {
				line := strings.Join(e.Rules, " ") + " of " + e.Cluster + " "
				if e.Client != nil {
					line += e.Client.String()
				}
				if e.Whole {
					line += "whole"
				}
				if e.UpTo > 0 {
					line += fmt.Sprintf(" up to %d", e.UpTo)
				}
				if e.Silent {
					line += " silent"
				}
				end = append(end, line)
			}
			if !slices.Equal(raise, c.raise) {
				t.Errorf("raises\n %q, want\n %q", raise, c.raise)
			}
			if !slices.Equal(end, c.end) {
				t.Errorf("ends %q, want %q", end, c.end)
			}
		})
	}
}

func TestEndingMatches(t *testing.T) {
	kms := fleet.ClientKey{Kind: "kms"}
	window := fleet.Alert{Rule: WindowMissed, Cluster: "a", Since: now}
	letter := fleet.Alert{Rule: DeadLetter, Cluster: "a", Letter: "1", Since: now}
	halted := fleet.Alert{Rule: RotationHalted, Cluster: event.FleetWide, Rotation: "r1", Level: 1, Since: now}
	expired := fleet.Alert{Rule: CredentialExpired, Cluster: "a", Client: &kms, Generation: 2, Since: now}
	for name, c := range map[string]struct {
		ending Ending
		alert  fleet.Alert
		want   bool
	}{
		"same moment":        {Ending{Rules: []string{WindowMissed}, Cluster: "a", At: now}, window, true},
		"alert is younger":   {Ending{Rules: []string{WindowMissed}, Cluster: "a", At: now.Add(-1)}, window, false},
		"other rule":         {Ending{Rules: []string{WindowClosing}, Cluster: "a", At: now}, window, false},
		"other cluster":      {Ending{Rules: []string{WindowMissed}, Cluster: "b", At: now}, window, false},
		"fleet":              {Ending{Rules: []string{WindowMissed}, Cluster: event.FleetWide, At: now}, window, true},
		"any rule":           {Ending{Cluster: "a", At: now}, expired, true},
		"same generation":    {Ending{Cluster: "a", Client: &kms, UpTo: 2}, expired, true},
		"earlier generation": {Ending{Cluster: "a", Client: &kms, UpTo: 1}, expired, false},
		"other client":       {Ending{Cluster: "a", Client: &fleet.ClientKey{Kind: "csi"}, UpTo: 9}, expired, false},
		"whole":              {Ending{Cluster: "a", Whole: true, At: now}, window, true},
		"not the whole":      {Ending{Cluster: "a", Whole: true, At: now}, expired, false},
		"same letter":        {Ending{Rules: []string{DeadLetter}, Cluster: "a", Letter: "1", At: now.Add(-1)}, letter, true},
		"other letter":       {Ending{Rules: []string{DeadLetter}, Cluster: "a", Letter: "2", At: now}, letter, false},
		"same rotation":      {Ending{Rules: []string{RotationHalted}, Cluster: event.FleetWide, Halted: "r1", At: now.Add(-1)}, halted, true},
		"other rotation":     {Ending{Rules: []string{RotationHalted}, Cluster: event.FleetWide, Halted: "r2", At: now}, halted, false},
		"that halt":          {Ending{Rules: []string{RotationHalted}, Cluster: event.FleetWide, Halted: "r1", UpTo: 2}, halted, true},
		"an earlier halt":    {Ending{Rules: []string{RotationHalted}, Cluster: event.FleetWide, Halted: "r1", UpTo: 1, At: now}, halted, false},
		"timely":             {Ending{Cluster: event.FleetWide, Halted: "r1", At: now, Timely: true}, halted, true},
		"timely, younger":    {Ending{Cluster: event.FleetWide, Halted: "r1", At: now.Add(-1), Timely: true}, halted, false},
		"no client":          {Ending{Cluster: "a", Client: &kms, At: now}, window, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.ending.Matches(&c.alert); got != c.want {
				t.Errorf("matches: %t, want %t", got, c.want)
			}
		})
	}
}

func TestFingerprintTellsApart(t *testing.T) {
	seen := map[string]bool{}
	kms, csi := fleet.ClientKey{Kind: "kms"}, fleet.ClientKey{Kind: "csi"}
	for _, rule := range []string{CredentialExpired, CredentialExpiring} {
		for _, cluster := range []string{"a", "b"} {
			for _, client := range []*fleet.ClientKey{nil, &kms, &csi} {
				for generation := range 3 {
					seen[Fingerprint(rule, cluster, client, generation)] = true
				}
			}
		}
	}
	for _, id := range []string{"1", "2"} {
		e, err := Of(fact(t, event.LetterBuried, "a", event.Letter{Letter: id}))
		if err != nil {
			t.Fatal(err)
		}
		seen[e.Raise[0].Fingerprint] = true
	}
	for _, id := range []string{"r1", "r2"} {
		e, err := Of(fact(t, event.RotationHalted, event.FleetWide, event.Rotation{Rotation: id}))
		if err != nil {
			t.Fatal(err)
		}
		seen[e.Raise[0].Fingerprint] = true
	}
	if len(seen) != 40 {
		t.Errorf("%d names for 40 alerts", len(seen))
	}
}

func TestEveryRuleCanEnd(t *testing.T) {
	for _, rule := range []string{
		WindowClosing, WindowMissed, CredentialExpiring, CredentialExpired, CredentialFailed, ClientDegraded, ClientLockedOut, RotationFailed, RotationHalted, SigninRefused, ClientRevoked,
		DeadLetter, AgentSilent, AgentSkewed, AgentDuplicated, BundleRefused, AuthorityLate, AuthorityHeld, AuthorityCut, KeystoreAway,
	} {
		if got := Enders(rule, "a"); len(got) < 2 || !slices.Contains(got, event.ClusterRemoved.Subject("a")) {
			t.Errorf("%s is ended by %q", rule, got)
		}
	}
	if got := Enders(RotationFailed, "a"); !slices.Contains(got, event.RotationCompleted.Subject(event.FleetWide)) {
		t.Errorf("a failed rotation is ended by %q", got)
	}
}

func FuzzOf(f *testing.F) {
	f.Add(event.WindowMissed.Type(), []byte(`{"missed":["x"],"level":-1}`))
	f.Add(event.RotationFailed.Type(), []byte(`{"failures":[{"cluster":"a","reason":"\u0000\n"}]}`))
	f.Add(event.CredentialExpired.Type(), []byte(`{"clients":[{"client":"kms","generation":-3,"error":"x"}]}`))
	f.Fuzz(func(t *testing.T, kind string, data []byte) {
		e := fact(t, event.ClusterRemoved, "a", event.Cluster{})
		e.SetType(kind)
		e.DataEncoded = data
		effect, err := Of(e)
		if err != nil {
			return
		}
		for _, a := range effect.Raise {
			if strings.ContainsAny(a.Summary+a.Remedy, "\r\n\x00") || len([]rune(a.Summary)) > maxSentence {
				t.Errorf("summary %q, remedy %q", a.Summary, a.Remedy)
			}
		}
	})
}
