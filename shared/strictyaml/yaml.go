// Package strictyaml reads files of which every word counts: an unknown key, a
// value of the wrong type or a second document is an error, and every error
// names line and column and says what would be right. It takes plain keys and
// values only, so that a small file cannot become a large one.
package strictyaml

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Place is where something stands, both from 1.
type Place struct{ Line, Column int }

// Kind is what a value is.
type Kind int

// The kinds of value.
const (
	Absent Kind = iota
	Scalar
	List
	Mapping
)

// Node is one value of the file. A scalar keeps its text as it was written, so
// that the version 2026.10 does not become the number 2026.1.
type Node struct {
	Place
	Kind   Kind
	Text   string
	Items  []Node
	Fields []Field
}

// Field is one key of a mapping, with its value.
type Field struct {
	Key   string
	At    Place
	Value Node
}

// MaxSize is the size, in bytes, above which a file is not read at all.
const MaxSize = 16 << 20

// maxDepth bounds the nesting: the deepest thing in our files lies six deep,
// and a parser that recurses must not be led to exhaust its stack.
const maxDepth = 20

// maxKeys bounds the keys of one mapping. The parser takes time in the square of
// their number, and one call deeper for each; no mapping here needs as many.
const maxKeys = 1000

// Parse reads the one document of a file. What names the kind of file in an
// error, such as "fleet file"; hint says what to do about an empty one.
func Parse(raw []byte, what, hint string) (Node, Errors) {
	if len(raw) > MaxSize {
		return Node{}, Errors{{1, 1, fmt.Sprintf("the file has %d bytes: a %s has at most %d", len(raw), what, MaxSize)}}
	}
	if at, bad := firstBad(raw); bad {
		return Node{}, Errors{{at.Line, at.Column, "the file is not plain text in UTF-8"}}
	}
	// With line ends of one kind the lexer counts lines and columns alike.
	text := strings.ReplaceAll(strings.TrimPrefix(string(raw), "\ufeff"), "\r\n", "\n")
	tokens := lexer.Tokenize(text)
	if errs := checkTokens(tokens, what); len(errs) > 0 {
		return Node{}, errs
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return Node{}, syntaxError(err)
	}
	var top Node
	documents := 0
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentGroupType {
			continue
		}
		if documents++; documents > 1 {
			at := placeOf(doc.Body)
			return Node{}, Errors{{at.Line, at.Column, "a second document begins here: remove the line '---', one file is one document"}}
		}
		if top, err = convert(doc.Body, 0); err != nil {
			return Node{}, syntaxError(err)
		}
	}
	if top.Kind == Absent {
		return Node{}, Errors{{1, 1, "the file is empty: " + hint}}
	}
	return top, nil
}

// firstBad finds bytes that are no UTF-8, and control characters.
func firstBad(raw []byte) (Place, bool) {
	at := Place{1, 1}
	for i := 0; i < len(raw); {
		r, size := utf8.DecodeRune(raw[i:])
		switch {
		case r == utf8.RuneError && size == 1, r < ' ' && r != '\n' && r != '\r' && r != '\t', r == 0x7f:
			return at, true
		case r == '\n':
			at = Place{at.Line + 1, 1}
		default:
			at.Column++
		}
		i += size
	}
	return Place{}, false
}

// checkTokens refuses what our files do not need and what could make a
// small file a large one, before anything recurses over it.
func checkTokens(tokens token.Tokens, what string) Errors {
	var errs Errors
	refuse := func(t *token.Token, message string) {
		errs = append(errs, Error{max(t.Position.Line, 1), max(t.Position.Column, 1), message})
	}
	flow, entries, line := 0, 0, 0
	keys := map[int]int{} // lines that began at each column since one began further left
	for _, t := range tokens {
		if t.Position.Line != line {
			line, entries = t.Position.Line, 0
			maps.DeleteFunc(keys, func(column, _ int) bool { return column > t.Position.Column })
			if flow == 0 && t.Type != token.SequenceEntryType && t.Type != token.CommentType {
				keys[t.Position.Column]++
			}
			if keys[t.Position.Column] > maxKeys {
				refuse(t, fmt.Sprintf("too many keys: a mapping has at most %d", maxKeys))
				return errs
			}
		}
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			refuse(t, "anchors, aliases and merge keys are not read here: write the value out")
		case token.TagType, token.DirectiveType, token.MappingKeyType:
			refuse(t, fmt.Sprintf("%q is not read here: write plain keys and values", Clip(t.Value)))
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.SequenceEntryType, token.MappingValueType:
			entries++
		case token.InvalidType:
			refuse(t, "this is not YAML: "+t.Error)
		default:
		}
		if flow > maxDepth || (flow == 0 && entries > maxDepth) || t.Position.IndentNum > 1000 {
			refuse(t, "this is nested too deeply for a "+what)
			return errs
		}
	}
	return errs
}

func syntaxError(err error) Errors {
	if e, ok := errors.AsType[*yaml.SyntaxError](err); ok && e.Token != nil {
		return Errors{{max(e.Token.Position.Line, 1), max(e.Token.Position.Column, 1), "this is not YAML: " + e.Message}}
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return Errors{*e}
	}
	return Errors{{1, 1, "this is not YAML: " + err.Error()}}
}

func placeOf(n ast.Node) Place {
	// A mapping's own token is the first colon; its place is its first key.
	switch v := n.(type) {
	case *ast.MappingNode:
		if len(v.Values) > 0 && !v.IsFlowStyle {
			return placeOf(v.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return placeOf(v.Key)
	}
	t := n.GetToken()
	if t == nil || t.Position == nil {
		return Place{1, 1}
	}
	return Place{max(t.Position.Line, 1), max(t.Position.Column, 1)}
}

func convert(n ast.Node, depth int) (Node, error) {
	out := Node{Place: placeOf(n)}
	if depth > maxDepth {
		return out, &Error{out.Line, out.Column, "this is nested too deeply"}
	}
	switch v := n.(type) {
	case *ast.NullNode:
		return out, nil
	case *ast.MappingNode:
		out.Kind = Mapping
		for _, value := range v.Values {
			if err := out.add(value, depth); err != nil {
				return out, err
			}
		}
	case *ast.MappingValueNode:
		out.Kind = Mapping
		return out, out.add(v, depth)
	case *ast.SequenceNode:
		out.Kind = List
		for _, value := range v.Values {
			item, err := convert(value, depth+1)
			if err != nil {
				return out, err
			}
			out.Items = append(out.Items, item)
		}
	case *ast.StringNode:
		out.Kind, out.Text = Scalar, v.Value
	case *ast.LiteralNode:
		out.Kind, out.Text = Scalar, strings.TrimSpace(v.Value.Value)
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		out.Kind, out.Text = Scalar, v.GetToken().Value
	default:
		return out, &Error{out.Line, out.Column, "this is not read here: write plain keys and values"}
	}
	return out, nil
}

func (n *Node) add(value *ast.MappingValueNode, depth int) error {
	inner, err := convert(value.Value, depth+1)
	if err != nil {
		return err
	}
	at := placeOf(value.Key)
	n.Fields = append(n.Fields, Field{Key: value.Key.GetToken().Value, At: at, Value: inner})
	return nil
}
