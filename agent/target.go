package agent

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rotor-fleet/rotor/agent/internal/config"
	"github.com/rotor-fleet/rotor/agent/internal/install"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// target is where the readers of one client find its credentials. It has one
// writer. Whatever happens, and wherever a crash falls, readers see one whole
// set: that of before, or the new one. Every method may be repeated.
//
// Targets of different clients are used at the same time; calls on one target
// are made one after the other. A call that leaves the machine ends with ctx.
type target interface {
	// Read returns the set that readers see. The error is fs.ErrNotExist when
	// nothing is installed, install.ErrDamaged when what is there is not one whole
	// set and must be replaced; any other means that there was no way to look.
	Read(ctx context.Context) (install.Set, error)
	// Install makes s the set that readers see. The one of before is kept for Back
	// until Prune.
	Install(ctx context.Context, s install.Set) error
	// Mend puts right what others have changed around the set. It is called in
	// every round in which nothing is installed, so it is cheap when all is well.
	Mend(ctx context.Context) error
	// Previous returns the set that Back would return to, fs.ErrNotExist if there
	// is none.
	Previous(ctx context.Context) (install.Set, error)
	// Back makes readers see the set of before instead of a generation. It has no
	// effect when they do not see that generation, and is fs.ErrNotExist, and
	// changes nothing, when there is no set of before.
	Back(ctx context.Context, generation int) error
	// Prune forgets every set but the one that readers see. It is called once that
	// one is proven: until then the one before is the way back.
	Prune(ctx context.Context) error
	// Clean takes away what a crash has left behind. It is called once, at start.
	Clean(ctx context.Context) error
}

// target returns where a client is installed: where its configuration says, or
// in its folder.
func (a *agent) target(key fleet.ClientKey) target {
	c := a.config.Settings.Clients.For(key)
	if c.Kubernetes != nil {
		return a.secret(key, *c.Kubernetes)
	}
	d := c.Directory
	return &folder{Folder: install.Folder{
		Path: a.folderOf(key, d), Within: a.config.Directory, Ops: a.ops,
		Access: install.Access{Mode: d.Mode, DirMode: d.DirMode, Owner: d.Owner, Group: d.Group},
	}}
}

// folderOf returns the path of a client's folder.
func (a *agent) folderOf(key fleet.ClientKey, d config.Directory) string {
	switch {
	case d.Path == "":
		return filepath.Join(a.config.Directory, filepath.FromSlash(key.String()))
	case filepath.IsAbs(d.Path):
		return d.Path
	default:
		return filepath.Join(a.config.Directory, d.Path)
	}
}

// clashes returns the clients that would install into each other, with why: the
// names of the clients are the server's, so the configuration alone does not
// show it.
func (a *agent) clashes(w api.Work) map[fleet.ClientKey]error {
	type place struct {
		key  fleet.ClientKey
		path string
	}
	var places []place
	for _, c := range w.Clients {
		if how := a.config.Settings.Clients.For(c.Client); how.Kubernetes == nil {
			places = append(places, place{c.Client, filepath.Clean(a.folderOf(c.Client, how.Directory)) + string(filepath.Separator)})
		}
	}
	slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(a.path, b.path) })
	found := map[fleet.ClientKey]error{}
	// Sorted, everything inside a folder follows it directly.
	for i, outer := 1, 0; i < len(places); i++ {
		if !strings.HasPrefix(places[i].path, places[outer].path) {
			outer = i
			continue
		}
		err := fmt.Errorf("%w: clients %s and %s would install into %s: give each a folder of its own in the configuration of the agent",
			fleet.ErrConflict, places[outer].key, places[i].key, filepath.Clean(places[i].path))
		found[places[outer].key], found[places[i].key] = err, err
	}
	return found
}

// staged is a target that can be made ready ahead of the moment at which it is
// installed. What was staged is forgotten when nothing comes of it.
type staged interface {
	Stage(s install.Set) error
	Unstage() error
}

// folder is the target on the disk. What it does ends by itself, so that ctx
// is of no use to it.
type folder struct {
	install.Folder
	ready *install.Set // is staged
}

func (f *folder) Stage(s install.Set) error {
	if err := f.Folder.Stage(s); err != nil {
		return err
	}
	f.ready = &s
	return nil
}

func (f *folder) Unstage() error {
	if f.ready == nil {
		return nil
	}
	s := *f.ready
	f.ready = nil
	return f.Folder.Unstage(s)
}

func (f *folder) Install(_ context.Context, s install.Set) error {
	if f.ready != nil && f.ready.Metadata == s.Metadata {
		f.ready = nil
		return f.Show(s)
	}
	return f.Folder.Install(s)
}

func (f *folder) Read(context.Context) (install.Set, error)     { return f.Folder.Read() }
func (f *folder) Mend(context.Context) error                    { return f.Folder.Mend() }
func (f *folder) Previous(context.Context) (install.Set, error) { return f.Folder.Previous() }
func (f *folder) Back(_ context.Context, generation int) error  { return f.Folder.Back(generation) }
func (f *folder) Prune(context.Context) error                   { return f.Folder.Prune() }
func (f *folder) Clean(context.Context) error                   { return f.Folder.Clean() }
