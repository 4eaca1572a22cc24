package bus

import (
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/event"
)

// Durable is a durable consumer of a service. Setup makes it: whoever may make
// consumers of a stream may read all of it, so no service may.
type Durable struct {
	Stream   string
	Name     string   // the service
	Subjects []string // what it consumes
}

// maxAckPending bounds the messages of a consumer that are handled or wait for
// their next attempt, some for days. It is far above what could fail one by one:
// messages that fail and wait must not hold up the others.
const maxAckPending = 50_000

// Durables returns the durable consumers of every service.
func Durables() []Durable {
	return []Durable{
		{Commands, UserIssuer, []string{
			event.Issue.Subject("*"), event.Certify.Subject("*"), event.Login.Subject("*"), event.Revoke.Subject("*"), event.Reinstate.Subject("*"),
			event.Phase.Subject("*"), event.External.Subject("*"), event.SettleIssuer.Subject("*"),
		}},
		{Commands, UserScheduler, []string{
			event.Rotate.Subject("*"), event.Steer.Subject("*"), event.Advance.Subject("*"), event.SettleScheduler.Subject("*"),
		}},
		{Commands, UserNotifier, []string{event.SettleNotifier.Subject("*")}},
		{Events, UserIssuer, []string{
			event.CredentialDelivered.Subject("*"), event.CredentialInstalled.Subject("*"), event.CredentialProven.Subject("*"),
		}},
		// What the rules of the notifier are about; a test there compares.
		{Events, UserNotifier, []string{
			event.WindowClosing.Subject("*"), event.WindowMissed.Subject("*"), event.WindowRestored.Subject("*"),
			event.CredentialExpiring.Subject("*"), event.CredentialExpired.Subject("*"), event.CredentialFailed.Subject("*"),
			event.CredentialIssued.Subject("*"), event.CredentialProven.Subject("*"),
			event.ClientDegraded.Subject("*"), event.ClientLockedOut.Subject("*"), event.ClientRecovered.Subject("*"),
			event.CredentialRevoked.Subject("*"), event.ClientReinstated.Subject("*"),
			event.RotationFailed.Subject("*"), event.RotationCompleted.Subject("*"),
			event.RotationHalted.Subject("*"), event.RotationResumed.Subject("*"), event.RotationCancelled.Subject("*"), event.ClusterRemoved.Subject("*"),
			event.AgentEnrolled.Subject("*"), event.SigninRefused.Subject("*"),
			event.LetterBuried.Subject("*"), event.LetterReplayed.Subject("*"), event.LetterDropped.Subject("*"),
			event.AgentSilent.Subject("*"), event.AgentReturned.Subject("*"), event.AgentSkewed.Subject("*"), event.AgentSynced.Subject("*"),
			event.AuthorityDue.Subject("*"), event.AuthorityHeld.Subject("*"), event.AuthorityTrusted.Subject("*"),
			event.AuthorityActivated.Subject("*"), event.AuthorityCompleted.Subject("*"), event.AuthorityRolledBack.Subject("*"),
			event.AuthorityUnavailable.Subject("*"), event.AuthorityAvailable.Subject("*"),
			event.AgentDuplicated.Subject("*"), event.BundleRefused.Subject("*"), event.BundleSettled.Subject("*"),
		}},
	}
}

func (d Durable) config() jetstream.ConsumerConfig {
	return consumerConfig(d.Name, d.Subjects)
}

func consumerConfig(name string, subjects []string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: name, FilterSubjects: subjects, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: ackWait, MaxDeliver: -1, MaxAckPending: maxAckPending,
	}
}
