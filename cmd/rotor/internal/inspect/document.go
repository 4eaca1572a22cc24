package inspect

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// references are keys of a kubeconfig whose values name files.
var references = map[string]bool{"certificate-authority": true, "client-certificate": true, "tokenFile": true}

// document looks at the texts in YAML or JSON: kubeconfigs, manifests of
// Secrets, login files of cloud agents. It reports whether anything was found.
//
// The tree is walked as it is written: an alias is not followed, since what it
// stands for is looked at where it is defined, and since a few lines of aliases
// can stand for more than there is memory.
func (r *run) document(at place, content []byte, dir string) bool {
	if !bytes.ContainsAny(content, ":{") || bytes.HasPrefix(bytes.TrimSpace(content), []byte("-----BEGIN ")) {
		return false
	}
	file, err := parser.ParseBytes(content, 0)
	if err != nil {
		return false // not YAML, then
	}
	w := walker{run: r, at: at, dir: dir}
	for _, doc := range file.Docs {
		w.walk("", doc.Body)
	}
	return w.found
}

// walker goes through a document.
type walker struct {
	run   *run
	at    place
	dir   string
	found bool
}

func (w *walker) walk(path string, node ast.Node) {
	switch n := node.(type) {
	case *ast.MappingNode:
		for _, value := range n.Values {
			w.walk(path, value)
		}
	case *ast.MappingValueNode:
		key := n.Key.String()
		if text, ok := n.Value.(*ast.StringNode); ok && references[key] {
			w.reference(join(path, key), text.Value)
			return
		}
		w.walk(join(path, key), n.Value)
	case *ast.SequenceNode:
		for i, element := range n.Values {
			w.walk(path+"["+label(element, i)+"]", element)
		}
	case *ast.AnchorNode:
		w.walk(path, n.Value)
	case *ast.TagNode:
		w.walk(path, n.Value)
	case *ast.LiteralNode:
		w.walk(path, n.Value)
	case *ast.StringNode:
		w.found = w.run.text(w.at.sub(path), []byte(n.Value)) || w.found
	}
}

// reference looks at a file that the document names.
func (w *walker) reference(path, name string) {
	if !filepath.IsAbs(name) {
		name = filepath.Join(w.dir, name)
	}
	content, err := os.ReadFile(name)
	if err != nil {
		w.run.fail(w.at.source+" "+path, err)
		return
	}
	w.found = w.run.text(place{w.at.source, path + " = " + name}, content) || w.found
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// label names an element of a list: by its name, as in kubeconfigs, else by its
// number.
func label(element ast.Node, i int) string {
	if m, ok := element.(*ast.MappingNode); ok {
		for _, value := range m.Values {
			if name, ok := value.Value.(*ast.StringNode); ok && value.Key.String() == "name" {
				return name.Value
			}
		}
	}
	return strconv.Itoa(i)
}
