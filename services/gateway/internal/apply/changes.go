package apply

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Changes says in words what leads from one document to another, a line for
// each field: "release 2026.07 -> 2026.08", "policy.mode automatic -> manual".
// It compares what would be stored, so what is stored alike is alike.
func Changes(have, want any) []string {
	before, after := flatten(have), flatten(want)
	names := map[string]bool{}
	for name := range before {
		names[name] = true
	}
	for name := range after {
		names[name] = true
	}
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if before[name] != after[name] {
			lines = append(lines, fmt.Sprintf("%s %s -> %s", name, shown(before[name]), shown(after[name])))
		}
	}
	return lines
}

func shown(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

// flatten returns the fields of a document by their path.
func flatten(doc any) map[string]string {
	fields := map[string]string{}
	raw, err := json.Marshal(doc)
	if err != nil {
		return fields // the types that are compared always marshal
	}
	var tree any
	if err := json.Unmarshal(raw, &tree); err == nil {
		walk("", tree, fields)
	}
	return fields
}

func walk(path string, node any, into map[string]string) {
	switch v := node.(type) {
	case map[string]any:
		for key, child := range v {
			walk(strings.TrimPrefix(path+"."+key, "."), child, into)
		}
	case []any:
		parts := make([]string, len(v))
		for i, item := range v {
			parts[i] = text(item)
		}
		into[path] = strings.Join(parts, ", ")
	default:
		into[path] = text(v)
	}
}

// text shows a value as people write it: a date without its midnight, a
// composed value as its fields.
func text(v any) string {
	switch v := v.(type) {
	case string:
		if t, err := time.Parse(time.RFC3339, v); err == nil && t.Equal(t.Truncate(24*time.Hour)) {
			return t.UTC().Format(time.DateOnly)
		}
		return v
	case map[string]any:
		inner := map[string]string{}
		walk("", v, inner)
		parts := []string{}
		for _, key := range slices.Sorted(maps.Keys(inner)) {
			parts = append(parts, key+"="+inner[key])
		}
		return "{" + strings.Join(parts, " ") + "}"
	default:
		return fmt.Sprint(v)
	}
}
