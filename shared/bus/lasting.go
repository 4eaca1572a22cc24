package bus

// Lasting returns the names of the streams that a backup holds. Commands that
// wait are derived again from the state. Facts have been told: put back, everyone
// would be told of last month again. A lease belongs to a process that runs now.
func Lasting() []string {
	var names []string
	for _, c := range Layout(1) {
		if c.Name != Commands && c.Name != Events && c.Name != "KV_"+Leases {
			names = append(names, c.Name)
		}
	}
	return names
}

// backup may read every document, sealed keys included, and change nothing.
func backup() Permission {
	p := Permission{User: UserBackup, Subscribe: Subjects{Allow: []string{InboxPrefix(UserBackup) + ".>"}}}
	for _, stream := range Lasting() {
		p.allow("$JS.API.STREAM.INFO."+stream, "$JS.API.DIRECT.GET."+stream, "$JS.API.STREAM.MSG.GET."+stream)
	}
	return p
}

// restore may write every document. Its seed is used for nothing else, and is
// best kept off the machines of the services.
func restore() Permission {
	p := deploy()
	p.User, p.Subscribe = UserRestore, Subjects{Allow: []string{InboxPrefix(UserRestore) + ".>"}}
	p.allow("$JS.API.STREAM.DELETE."+Commands, "rotor.v1.dead.>", auditPrefix+"*")
	for _, c := range Layout(1) {
		p.allow("$JS.API.STREAM.MSG.GET."+c.Name, "$JS.API.DIRECT.GET."+c.Name, "$JS.API.DIRECT.GET."+c.Name+".>")
		if len(c.Name) > 3 && c.Name[:3] == "KV_" && c.Name != "KV_"+Leases {
			p.allow("$KV." + c.Name[3:] + ".>")
		}
	}
	return p
}
