package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestFailuresAreShown holds docs/failures.md to the truth: each of the failures
// has a row, and each test and script that a row names exists.
func TestFailuresAreShown(t *testing.T) {
	const root = "../.."
	raw, err := os.ReadFile(filepath.Join(root, "docs", "failures.md"))
	if err != nil {
		t.Fatal(err)
	}
	exist := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "var" || entry.Name() == "bin" || path != root && strings.HasPrefix(entry.Name(), ".")) {
			return fs.SkipDir
		}
		source := strings.HasSuffix(path, "_test.go")
		if !source && filepath.Ext(path) != ".txtar" {
			return nil
		}
		if !source {
			exist[entry.Name()] = true
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, found := range declared.FindAllStringSubmatch(string(content), -1) {
			exist[found[1]] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(Test\\w+|[\\w-]+\\.txtar)`")
	for number := 1; number <= 29; number++ {
		name := fmt.Sprintf("F%d", number)
		row := regexp.MustCompile(`(?m)^\| ` + name + ` \|.*$`).FindString(string(raw))
		shown := named.FindAllStringSubmatch(row, -1)
		if len(shown) == 0 {
			t.Errorf("%s: no row, or no test in it", name)
		}
		for _, s := range shown {
			if !exist[s[1]] {
				t.Errorf("%s: %s does not exist", name, s[1])
			}
		}
	}
}
