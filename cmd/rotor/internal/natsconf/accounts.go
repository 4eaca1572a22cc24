package natsconf

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rotor-fleet/rotor/shared/bus"
)

// account is the account that holds the streams.
const account = "ROTOR"

// apiInfo is imported by every account though no service may ask it: the server
// gives an account without this import one of all of JetStream, which answers
// every request first, that the account has no streams.
const apiInfo = "$JS.API.INFO"

// Accounts returns the part of a configuration with all users and their rights,
// given their public keys.
func Accounts(users map[string]string) string {
	var b strings.Builder
	accounts(func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }, users)
	return b.String()
}

// accounts writes the accounts with their users.
//
// Permissions alone do not keep a service in its place. Whoever asks names the
// subject of the answer, and the server publishes the answer there by its own
// right: in one account, a service that may read one document could have it
// stored as another. So each service is alone in an account of its own, where
// there are no streams; what it may ask is imported from the account that
// holds them, and the answers come back to where it is.
func accounts(line func(string, ...any), users map[string]string) {
	exports := map[string][]string{}
	line("accounts {")
	for _, p := range bus.Permissions() {
		if p.Home() {
			continue
		}
		line("  %q: {", p.User)
		line("    users: [")
		user(line, p, users[p.User])
		line("    ]")
		line("    imports: [")
		asked := append([]string{apiInfo}, p.Publish.Allow...)
		slices.Sort(asked)
		for _, subject := range slices.Compact(asked) {
			exports[subject] = append(exports[subject], p.User)
			line("      { service: { account: %s, subject: %q } }", account, subject)
		}
		line("      { stream: { account: %s, subject: %q } }", account, bus.InboxPrefix(p.User)+".>")
		line("    ]")
		line("  }")
	}
	line("  %s: {", account)
	line("    jetstream: enabled")
	line("    users: [")
	for _, p := range bus.Permissions() {
		if p.Home() {
			user(line, p, users[p.User])
		}
	}
	if root, ok := users[UserRoot]; ok {
		line("      { nkey: %q } # %s", root, UserRoot)
	}
	line("    ]")
	line("    exports: [")
	for _, subject := range slices.Sorted(maps.Keys(exports)) {
		answers := ""
		if strings.HasPrefix(subject, "$JS.API.CONSUMER.MSG.NEXT.") {
			answers = ", response_type: stream" // one request, many messages
		}
		line("      { service: %q, accounts: [%s]%s }", subject, quoted(exports[subject]), answers)
	}
	for _, p := range bus.Permissions() {
		if !p.Home() {
			line("      { stream: %q, accounts: [%q] }", bus.InboxPrefix(p.User)+".>", p.User)
		}
	}
	line("    ]")
	line("  }")
	line("}")
}

func user(line func(string, ...any), p bus.Permission, key string) {
	line("      { # %s", p.User)
	line("        nkey: %q", key)
	line("        permissions: {")
	subjects(line, "publish", p.Publish)
	subjects(line, "subscribe", p.Subscribe)
	line("        }")
	line("      }")
}

func quoted(names []string) string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = fmt.Sprintf("%q", name)
	}
	return strings.Join(all, ", ")
}
