package bus

import (
	"slices"

	"github.com/rotor-fleet/rotor/shared/event"
)

// The users of NATS. Each service is one, so that each has no more rights than
// its job needs.
const (
	UserDeploy     = "deploy" // makes and changes streams, buckets and durable consumers; the only one
	UserIssuer     = "issuer"
	UserScheduler  = "scheduler"
	UserNotifier   = "notifier"
	UserGateway    = "gateway"
	UserSubscriber = "subscriber" // outside: hears facts
	UserBackup     = "backup"     // reads all state, writes nothing
	UserRestore    = "restore"    // writes all state, while nothing else runs
)

// Subjects are the patterns that a user may use, less those that it may not.
type Subjects struct {
	Allow, Deny []string
}

// Permission is what a user may do on NATS. All else is refused.
type Permission struct {
	User      string
	Publish   Subjects
	Subscribe Subjects
}

// Home reports whether the user lives in the account that holds the streams.
// Each service has an account of its own: see package natsconf.
func (p Permission) Home() bool { return p.User == UserDeploy || p.User == UserSubscriber }

// access is the row of a service in the table below.
type access struct {
	user    string
	writes  []string // buckets; nobody else writes them
	reads   []string // buckets of which it gets single documents
	watches []string // buckets of which it follows all documents
	looks   bool     // looks facts up on the stream of facts
	follows bool     // follows the stream of facts
	letters bool     // reads the dead letters of all services
	audits  bool     // writes its chain of the ledger, and reads the ledger
	leads   bool     // begins terms
}

// table is the whole of who may do what with the state. Facts and commands
// follow from the catalog, consumers from Durables.
func table() []access {
	return []access{
		{
			user: UserIssuer, looks: true, audits: true,
			writes:  []string{Credentials, Bundles, Authority, Keys},
			reads:   []string{Agents, Credentials, Bundles, Authority, Keys},
			watches: []string{Credentials, Keys},
		},
		{
			user: UserScheduler, leads: true,
			writes:  []string{Rotations, Schedule, Leases},
			reads:   []string{Clusters, Credentials, Agents, Rotations, Schedule, Authority},
			watches: []string{Clusters, Credentials, Agents, Releases, Schedule, Rotations, Authority},
		},
		{
			user: UserNotifier, looks: true,
			writes:  []string{Alerts},
			reads:   []string{Clusters, Alerts},
			watches: []string{Alerts},
		},
		{
			user: UserGateway, follows: true, letters: true, audits: true,
			writes:  []string{Clusters, Releases, Agents},
			reads:   []string{Clusters, Releases, Agents, Credentials, Bundles, Authority, Alerts, Rotations},
			watches: []string{Clusters, Releases, Agents, Credentials, Bundles, Authority, Alerts, Rotations},
		},
	}
}

// Users returns the names of all users.
func Users() []string {
	var names []string
	for _, p := range Permissions() {
		names = append(names, p.User)
	}
	return names
}

// Services returns the names of the users that are services.
func Services() []string {
	var names []string
	for _, row := range table() {
		names = append(names, row.user)
	}
	return names
}

// InboxPrefix is where a user receives answers. It may listen nowhere else, so
// nobody overhears another.
func InboxPrefix(user string) string { return "_INBOX_" + user }

// Permissions returns what each user may do.
func Permissions() []Permission {
	all := []Permission{deploy()}
	for _, row := range table() {
		all = append(all, row.permission())
	}
	return append(all, subscriber(), backup(), restore())
}

// PermissionOf returns what one user may do; nothing, for a name that is none.
func PermissionOf(user string) Permission {
	for _, p := range Permissions() {
		if p.User == user {
			return p
		}
	}
	return Permission{User: user, Publish: Subjects{Deny: []string{">"}}, Subscribe: Subjects{Deny: []string{">"}}}
}

// subscriber lets an outside subscriber hear of facts and do nothing else: no
// publishing, so no request to JetStream, so no bucket and no stream.
func subscriber() Permission {
	return Permission{
		User:      UserSubscriber,
		Publish:   Subjects{Deny: []string{">"}},
		Subscribe: Subjects{Allow: []string{"rotor.v1.event.>", InboxPrefix(UserSubscriber) + ".>"}},
	}
}

// deploy may make and change what the layout names. It may neither delete nor
// purge, nor read what a stream holds.
func deploy() Permission {
	allow := []string{"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST"}
	for _, stream := range Layout(1) {
		for _, verb := range []string{"CREATE", "UPDATE", "INFO"} {
			allow = append(allow, "$JS.API.STREAM."+verb+"."+stream.Name)
		}
	}
	for _, d := range Durables() {
		allow = append(allow,
			"$JS.API.CONSUMER.INFO."+d.Stream+"."+d.Name,
			"$JS.API.CONSUMER.CREATE."+d.Stream+"."+d.Name, "$JS.API.CONSUMER.CREATE."+d.Stream+"."+d.Name+".>",
		)
	}
	return Permission{User: UserDeploy, Publish: Subjects{Allow: allow}, Subscribe: Subjects{Allow: []string{InboxPrefix(UserDeploy) + ".>"}}}
}

func (a access) permission() Permission {
	p := Permission{User: a.user, Subscribe: Subjects{Allow: []string{InboxPrefix(a.user) + ".>"}}}
	for _, row := range event.Catalog() {
		if row.OwnedBy(a.user) {
			p.allow(row.Subject("*"))
		}
	}
	for _, stream := range a.streams() {
		p.allow("$JS.API.STREAM.INFO." + stream)
	}
	for _, name := range a.writes {
		p.allow("$KV." + name + ".>")
	}
	for _, name := range a.reads {
		// By the leader where there are replicas, directly where there are none.
		p.allow("$JS.API.STREAM.MSG.GET.KV_"+name, "$JS.API.DIRECT.GET.KV_"+name+".$KV."+name+".>")
	}
	for _, name := range a.watches {
		p.watch("KV_" + name)
	}
	for _, d := range Durables() {
		if d.Name == a.user {
			p.consume(d)
		}
	}
	if a.looks {
		p.allow("$JS.API.DIRECT.GET."+Events, "$JS.API.DIRECT.GET."+Events+".rotor.v1.event.>")
	}
	if a.follows {
		p.watch(Events)
	}
	if a.leads {
		for _, stream := range fenced() {
			p.allow(fencesOf(stream), "$JS.API.DIRECT.GET."+stream+"."+fencesOf(stream))
		}
	}
	if a.buries() {
		own := deadPrefix + a.user + ".*.*"
		p.allow(own, "$JS.API.DIRECT.GET."+Dead+"."+own)
	}
	if a.letters {
		p.watch(Dead)
		p.allow("$JS.API.DIRECT.GET." + Dead + "." + deadLetters)
	}
	if a.audits {
		p.allow(auditPrefix + a.user)
		p.readAudit()
	}
	return p
}

// readAudit allows to read the ledger: by the leader where there are replicas,
// directly where there are none.
func (p *Permission) readAudit() {
	p.allow("$JS.API.STREAM.MSG.GET."+Audit, "$JS.API.DIRECT.GET."+Audit, "$JS.API.DIRECT.GET."+Audit+"."+auditPrefix+"*")
}

// buries reports whether a service gives up what it cannot handle: each does
// that consumes. It may read and change its own letters and no others.
func (a access) buries() bool {
	return slices.ContainsFunc(Durables(), func(d Durable) bool { return d.Name == a.user })
}

func (p *Permission) allow(subjects ...string) {
	p.Publish.Allow = append(p.Publish.Allow, subjects...)
}

// watch allows consumers of its own on a stream, but keeps off those of others.
func (p *Permission) watch(stream string) {
	p.allow("$JS.API.CONSUMER.CREATE."+stream+".>",
		"$JS.API.CONSUMER.INFO."+stream+".*", "$JS.API.CONSUMER.DELETE."+stream+".*",
		"$JS.API.CONSUMER.MSG.NEXT."+stream+".*", "$JS.FC."+stream+".>")
	for _, d := range Durables() {
		if d.Stream != stream {
			continue
		}
		name := stream + "." + d.Name
		p.Publish.Deny = append(p.Publish.Deny, "$JS.API.CONSUMER.CREATE."+name, "$JS.API.CONSUMER.CREATE."+name+".>",
			"$JS.API.CONSUMER.DELETE."+name, "$JS.API.CONSUMER.MSG.NEXT."+name)
	}
}

// consume allows to pull from a durable consumer and to settle what was pulled.
func (p *Permission) consume(d Durable) {
	name := d.Stream + "." + d.Name
	p.allow("$JS.API.CONSUMER.INFO."+name, "$JS.API.CONSUMER.MSG.NEXT."+name, "$JS.ACK."+name+".>")
}

// streams returns the streams and buckets that a service uses.
func (a access) streams() []string {
	names := map[string]bool{}
	for _, bucket := range slices.Concat(a.writes, a.reads, a.watches) {
		names["KV_"+bucket] = true
	}
	for _, d := range Durables() {
		if d.Name == a.user {
			names[d.Stream] = true
		}
	}
	if a.buries() || a.letters {
		names[Dead] = true
	}
	for _, row := range event.Catalog() {
		if row.OwnedBy(a.user) && row.Command() {
			names[Commands] = true
		}
	}
	if a.audits {
		names[Audit] = true
	}
	names[Events] = true // every service has facts to tell
	var all []string
	for _, config := range Layout(1) {
		if names[config.Name] {
			all = append(all, config.Name)
		}
	}
	return all
}
