package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/cli"
	"github.com/rotor-fleet/rotor/shared/event"
)

// pages returns the text of every page of documentation by its path from the top
// of the repository.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := fs.WalkDir(os.DirFS("../.."), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{".git", ".bin", "bin", "var"}, path) {
			return fs.SkipDir
		}
		if filepath.Ext(path) == ".md" {
			text, err := os.ReadFile(filepath.Join("../..", path))
			all[path] = string(text)
			return err
		}
		return nil
	})
	if err != nil || len(all) < 20 {
		t.Fatalf("%d pages: %v", len(all), err)
	}
	return all
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

func TestLinksOfTheDocumentationLeadSomewhere(t *testing.T) {
	all := pages(t)
	for path, text := range all {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			file, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(file, "://") {
				continue
			}
			to := path
			if file != "" {
				to = filepath.Join(filepath.Dir(path), file)
			}
			if _, err := os.Stat(filepath.Join("../..", to)); err != nil {
				t.Errorf("%s: %s: %v", path, m[1], err)
			} else if anchor != "" && !slices.Contains(anchors(all[to]), anchor) {
				t.Errorf("%s: %s has no heading #%s", path, to, anchor)
			}
		}
	}
}

var notInAnchor = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)

// anchors returns the names of the headings of a page, as GitHub makes them.
func anchors(page string) []string {
	var all []string
	for line := range strings.Lines(page) {
		if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			all = append(all, strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), ""), " ", "-"))
		}
	}
	return all
}

// said matches a command of rotor: on a line of its own, in a pipe, or between
// backquotes.
var said = regexp.MustCompile("(?m)(?:^|[`|(] ?|\\$ )(?:bin/)?rotor ([a-z][^`#|\n]*)")

func TestCommandsOfTheDocumentationExist(t *testing.T) {
	root, checked := cli.New(cli.Options{Extra: commands()}), 0
	for path, text := range pages(t) {
		if path == "CHANGELOG.md" || strings.HasPrefix(path, "docs/decisions/") {
			continue // they tell of their time
		}
		for _, m := range said.FindAllStringSubmatch(text, -1) {
			words := strings.Fields(m[1])
			c, _, err := root.Find(words[:1])
			for i := 2; err == nil && i <= len(words) && !strings.HasPrefix(words[i-1], "-"); i++ {
				below, _, wrong := root.Find(words[:i])
				if wrong != nil || below == c {
					break
				}
				c = below
			}
			if err != nil {
				t.Errorf("%s: rotor %s: %v", path, m[1], err)
				continue
			}
			checked++
			for _, word := range words {
				name, _, _ := strings.Cut(strings.TrimPrefix(word, "--"), "=")
				name = strings.TrimRight(name, ".,;:)]")
				if strings.HasPrefix(word, "--") && name != "help" && c.Flag(name) == nil {
					t.Errorf("%s: rotor %s: %s has no flag --%s", path, m[1], c.CommandPath(), name)
				}
			}
		}
	}
	if checked < 100 {
		t.Errorf("only %d commands were found", checked)
	}
}

var (
	calledPath = regexp.MustCompile(`(?:GET|POST|PUT|PATCH|DELETE) (/[A-Za-z0-9_./{}<>-]+)`)
	factName   = regexp.MustCompile("`([a-z]+\\.[a-z-]+)`")
	placeOfID  = regexp.MustCompile(`\{[^}]*\}|<[^>]*>`)
)

func TestPathsOfTheDocumentationAreServed(t *testing.T) {
	var served struct {
		Paths map[string]map[string]any `json:"paths"`
	}
	raw, err := os.ReadFile("../../docs/api/openapi.json")
	if err == nil {
		err = json.Unmarshal(raw, &served)
	}
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{"/crl/{}": true}
	for path := range served.Paths {
		known[placeOfID.ReplaceAllString(path, "{}")] = true
	}
	for path, text := range pages(t) {
		for _, m := range calledPath.FindAllStringSubmatch(text, -1) {
			called := placeOfID.ReplaceAllString(strings.TrimRight(m[1], "."), "{}")
			if !known[called] && !strings.HasPrefix(called, "/v1/agent/") { // the agents' listener is for agents, and in no document
				t.Errorf("%s: %s is not served", path, m[0])
			}
		}
	}
}

func TestFactsOfTheDocumentationAreTold(t *testing.T) {
	nouns, told := map[string]bool{}, map[string]bool{}
	for _, row := range event.Catalog() {
		nouns[row.Noun], told[row.Noun+"."+row.Verb] = true, true
	}
	all := pages(t)
	for _, path := range []string{"README.md", "docs/operating.md", "docs/security.md", "docs/architecture.md", "docs/failures.md"} {
		for _, m := range factName.FindAllStringSubmatch(all[path], -1) {
			if noun, _, _ := strings.Cut(m[1], "."); nouns[noun] && !told[m[1]] && !strings.HasSuffix(m[1], ".go") {
				t.Errorf("%s: %s is no fact", path, m[1])
			}
		}
	}
}
