package event

// The kinds of facts. Each is published by the owner of its noun only.
var (
	ClusterRegistered = fact[Cluster]("gateway", "cluster", "registered", "A cluster was added to the fleet, or its declaration changed.")
	ClusterUpgraded   = fact[Upgrade]("gateway", "cluster", "upgraded", "An upgrade of a cluster was completed.")
	ClusterRemoved    = fact[Cluster]("gateway", "cluster", "removed", "A cluster was taken out of the fleet.")
	ReleasePublished  = fact[Release]("gateway", "release", "published", "A release became known.")

	WindowClosing  = fact[Window]("scheduler", "window", "closing", "A missed release is old enough for a notice; the update window is still open.")
	WindowMissed   = fact[Window]("scheduler", "window", "missed", "The update window of a cluster is over; repeated with a higher level while it stays so.")
	WindowRestored = fact[Window]("scheduler", "window", "restored", "A cluster that was told of has caught up.")

	CredentialDue      = fact[Credentials]("scheduler", "credential", "due", "The renewal moment of credentials has come.")
	CredentialExpiring = fact[Credentials]("scheduler", "credential", "expiring", "Credentials should have been renewed by now; level 1 is a warning, 2 is critical.")
	CredentialExpired  = fact[Credentials]("scheduler", "credential", "expired", "A certificate or a token in use has expired.")

	CredentialIssued     = fact[Credentials]("issuer", "credential", "issued", "New generations were signed and wait for pick-up.")
	CredentialSuperseded = fact[Credentials]("issuer", "credential", "superseded", "Generations were replaced by proven later ones.")
	CredentialFailed     = fact[Credentials]("issuer", "credential", "failed", "Generations could not be issued; each client says why.")

	CredentialRevoked = fact[Revocation]("issuer", "credential", "revoked", "A client was revoked: its certificates are on the CRL, and it is issued nothing until it is reinstated.")

	CredentialDelivered = fact[Credentials]("gateway", "credential", "delivered", "An agent has fetched and opened new generations.")
	CredentialInstalled = fact[Credentials]("gateway", "credential", "installed", "New generations lie where their clients read them.")
	CredentialProven    = fact[Credentials]("gateway", "credential", "proven", "An authenticated call was seen with exactly the new certificate and token.")

	ClientDegraded  = fact[Credentials]("scheduler", "client", "degraded", "The token of a client has expired; it dies at its next restart.")
	ClientLockedOut = fact[Credentials]("scheduler", "client", "locked-out", "Certificate and token of a client have both expired.")
	ClientRecovered = fact[Credentials]("scheduler", "client", "recovered", "A client that was degraded or locked out has valid credentials again.")

	ClientReinstated = fact[Revocation]("issuer", "client", "reinstated", "A client that was revoked is issued credentials again; those of before stay revoked.")

	AgentEnrolled   = fact[Agent]("gateway", "agent", "enrolled", "An agent has joined.")
	AgentSilent     = fact[Agent]("scheduler", "agent", "silent", "An agent was not heard for longer than the policy allows.")
	AgentReturned   = fact[Agent]("scheduler", "agent", "returned", "An agent that was silent was heard again.")
	AgentSkewed     = fact[Agent]("scheduler", "agent", "skewed", "The clock of an agent differs from the fleet's by more than the policy allows.")
	AgentSynced     = fact[Agent]("scheduler", "agent", "synced", "The clock of an agent is right again.")
	AgentDuplicated = fact[Agent]("scheduler", "agent", "duplicated", "Two have the key of one agent.")

	BundleRefused = fact[Agent]("scheduler", "bundle", "refused", "An agent was offered a trust bundle, or a server, that it does not believe: somebody may be in the middle.")
	BundleSettled = fact[Agent]("scheduler", "bundle", "settled", "An agent that was offered such a bundle was not offered another for a day.")

	SigninRefused = fact[Refusal]("gateway", "signin", "refused", "Somebody who holds what one alone may hold (a one-time token, a token, the key of an agent that was replaced) was turned away.")

	AuthorityPrepared  = fact[Authority]("issuer", "authority", "prepared", "A generation of the CA was made and is trusted; it signs nothing yet.")
	AuthorityActivated = fact[Authority]("issuer", "authority", "activated", "A generation of the CA or of the token key has begun to sign.")
	AuthorityRetired   = fact[Authority]("issuer", "authority", "retired", "A generation of the CA is not trusted any more.")

	AuthorityUnavailable = fact[Keystore]("issuer", "authority", "unavailable", "An issuer cannot use the HSM with the keys of the CA for some minutes; repeated each hour while it is so.")
	AuthorityAvailable   = fact[Keystore]("issuer", "authority", "available", "An issuer can use the HSM with the keys of the CA: again, or as it starts.")

	AuthorityWithdrawn  = fact[Authority]("issuer", "authority", "withdrawn", "A generation of the CA or of the token key that never signed, or signs no more, was taken back.")
	AuthorityDue        = fact[Rollout]("scheduler", "authority", "due", "The CA has to be rotated; level 1 says that it is late, 2 that it is very late.")
	AuthorityTrusted    = fact[Rollout]("scheduler", "authority", "trusted", "Every agent that counts has proven that it trusts the new CA; of a token key, every verifier had the time to fetch it.")
	AuthorityHeld       = fact[Rollout]("scheduler", "authority", "held", "A rotation of the authority waits for somebody; repeated each day while it does.")
	AuthorityCompleted  = fact[Rollout]("scheduler", "authority", "completed", "A rotation of the authority has ended: the old generation is used by nobody.")
	AuthorityRolledBack = fact[Rollout]("scheduler", "authority", "rolledback", "A rotation of the authority was taken back: the old generation signs, the new one is used by nobody.")

	RotationStarted   = fact[Rotation]("scheduler", "rotation", "started", "A rotation was planned and has begun.")
	RotationCompleted = fact[Rotation]("scheduler", "rotation", "completed", "Every client of a rotation has ended without a failure.")
	RotationFailed    = fact[Rotation]("scheduler", "rotation", "failed", "A rotation has ended with failures.")
	RotationHalted    = fact[Rotation]("scheduler", "rotation", "halted", "Too many clients of a rotation in waves have failed: what has not begun waits for an operator.")
	RotationResumed   = fact[Rotation]("scheduler", "rotation", "resumed", "An operator has let a rotation that was halted go on.")
	RotationCancelled = fact[Rotation]("scheduler", "rotation", "cancelled", "An operator has ended a rotation before its end.")

	AlertSent   = fact[Alert]("notifier", "alert", "sent", "A message about an alert has reached a channel.")
	AlertFailed = fact[Alert]("notifier", "alert", "failed", "A message about an alert was given up.")

	LetterBuried   = fact[Letter](buriers, "letter", "buried", "Something was given up and lies in the dead letters; repeated with more attempts when it was tried again in vain.")
	LetterReplayed = fact[Letter](buriers, "letter", "replayed", "A dead letter was tried again, with success.")
	LetterDropped  = fact[Letter](buriers, "letter", "dropped", "An operator has dropped a dead letter.")
)

// buriers are the services that give up what they cannot handle.
const buriers = "scheduler issuer notifier"

// The kinds of commands.
var (
	Rotate    = command[RotateCommand]("gateway", "rotate", "To the scheduler: rotate the credentials of one or many clusters.")
	Steer     = command[SteerCommand]("gateway", "steer", "To the scheduler: resume or cancel a rotation, leave a cluster out of it or take that back.")
	Issue     = command[IssueCommand]("scheduler", "issue", "To the issuer: issue the named generations of a cluster's clients.")
	Certify   = command[CertifyCommand]("gateway", "certify", "To the issuer: sign a gateway's server certificate.")
	Login     = command[LoginCommand]("gateway", "login", "To the issuer: issue the next generation of one client for a request that its program has brought to a gateway.")
	Revoke    = command[RevokeCommand]("gateway", "revoke", "To the issuer: revoke a client.")
	Phase     = command[PhaseCommand]("scheduler", "phase", "To the issuer: move a generation of the authority to its next phase.")
	External  = command[ExternalCommand]("gateway", "external", "To the issuer: make the key of a CA that an offline root shall sign, and its request.")
	Advance   = command[RolloutCommand]("gateway", "rollout", "To the scheduler: begin, steer or take back a rotation of the authority.")
	Reinstate = command[ReinstateCommand]("gateway", "reinstate", "To the issuer: end the revocation of a client.")

	// One for each service, so that each hears of its own letters alone.
	SettleScheduler = settle("scheduler")
	SettleIssuer    = settle("issuer")
	SettleNotifier  = settle("notifier")
)

func settle(service string) Kind[SettleCommand] {
	return command[SettleCommand]("gateway", settleVerb+service, "To the "+service+": try a dead letter of yours again, or drop it.")
}

const settleVerb = "settle-"

// Settle returns the command with which a service settles a letter that it has
// given up; ok is false for a service that gives nothing up.
func Settle(service string) (kind Kind[SettleCommand], ok bool) {
	for _, kind := range []Kind[SettleCommand]{SettleScheduler, SettleIssuer, SettleNotifier} {
		if kind.row.Verb == settleVerb+service {
			return kind, true
		}
	}
	return kind, false
}

// Catalog returns every kind of fact and command: the one table from which
// subjects, permissions and documents are made.
func Catalog() []Row {
	return []Row{
		ClusterRegistered.row, ClusterUpgraded.row, ClusterRemoved.row, ReleasePublished.row,
		WindowClosing.row, WindowMissed.row, WindowRestored.row,
		CredentialDue.row, CredentialExpiring.row, CredentialExpired.row,
		CredentialIssued.row, CredentialSuperseded.row, CredentialFailed.row, CredentialRevoked.row,
		CredentialDelivered.row, CredentialInstalled.row, CredentialProven.row,
		ClientDegraded.row, ClientLockedOut.row, ClientRecovered.row, ClientReinstated.row,
		AgentEnrolled.row, AgentSilent.row, AgentReturned.row, AgentSkewed.row, AgentSynced.row, AgentDuplicated.row,
		BundleRefused.row, BundleSettled.row, SigninRefused.row, AuthorityPrepared.row, AuthorityActivated.row, AuthorityRetired.row,
		AuthorityWithdrawn.row, AuthorityDue.row, AuthorityTrusted.row, AuthorityHeld.row, AuthorityCompleted.row, AuthorityRolledBack.row,
		AuthorityUnavailable.row, AuthorityAvailable.row,
		RotationStarted.row, RotationCompleted.row, RotationFailed.row,
		RotationHalted.row, RotationResumed.row, RotationCancelled.row,
		AlertSent.row, AlertFailed.row,
		LetterBuried.row, LetterReplayed.row, LetterDropped.row,
		Rotate.row, Steer.row, Issue.row, Certify.row, Login.row, Revoke.row, Reinstate.row, Phase.row, External.row, Advance.row,
		SettleScheduler.row, SettleIssuer.row, SettleNotifier.row,
	}
}
