package gateway_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rotor-fleet/rotor/services/gateway"
	"github.com/rotor-fleet/rotor/shared/event"
)

var update = flag.Bool("update", false, "write the generated documents")

// The documents in docs/ are made from the code:
//
//	go test ./services/gateway -run TestDocuments -update
func TestDocuments(t *testing.T) {
	api, forAgents, err := gateway.OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{
		"../../docs/api/openapi.json":     indent(t, api),
		"../../docs/api/agents.json":      indent(t, forAgents),
		"../../docs/events/asyncapi.json": indent(t, asyncAPI(t)),
		"../../docs/events/README.md":     table(),
	} {
		if *update {
			if err := os.WriteFile(path, content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(have, content) {
			t.Errorf("%s is stale: go test ./services/gateway -run TestDocuments -update", path)
		}
	}
}

func indent(t *testing.T, raw []byte) []byte {
	t.Helper()
	var tree any
	if err := json.Unmarshal(raw, &tree); err != nil {
		t.Fatal(err)
	}
	b, err := json.MarshalIndent(tree, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(b, '\n')
}

func topic(row event.Row) string {
	return strings.Join(strings.Split(row.Type, ".")[1:], "_")
}

// asyncAPI describes every fact and command in AsyncAPI 3.
func asyncAPI(t *testing.T) []byte {
	t.Helper()
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	nkey := []any{map[string]any{"$ref": "#/components/securitySchemes/nkey"}}
	channels, operations, messages := map[string]any{}, map[string]any{}, map[string]any{}
	for _, row := range event.Catalog() {
		name := topic(row)
		data := registry.Schema(reflect.TypeOf(row.Payload), true, "")
		messages[name] = map[string]any{
			"name": row.Type, "title": row.Type, "summary": row.Doc, "contentType": "application/cloudevents+json",
			"payload": map[string]any{"allOf": []any{
				map[string]any{"$ref": "#/components/schemas/CloudEvent"},
				map[string]any{"type": "object", "properties": map[string]any{"type": map[string]any{"const": row.Type}, "data": data}},
			}},
		}
		channels[name] = map[string]any{
			"address": row.Subject("{cluster}"), "description": row.Doc,
			"parameters": map[string]any{"cluster": map[string]any{"description": "cluster concerned; " + event.FleetWide + " for more than one"}},
			"messages":   map[string]any{name: map[string]any{"$ref": "#/components/messages/" + name}},
		}
		operations[name] = map[string]any{
			"action": "send", "summary": "Published by the " + strings.Join(row.Owners(), ", the ") + ".",
			"channel": map[string]any{"$ref": "#/channels/" + name}, "security": nkey,
		}
	}
	schemas := map[string]any{"CloudEvent": map[string]any{
		"type": "object", "description": "CloudEvents 1.0, structured JSON", "required": []string{"specversion", "id", "source", "type", "subject", "time", "data"},
		"properties": map[string]any{
			"specversion": map[string]any{"const": "1.0"}, "id": map[string]any{"type": "string", "format": "uuid", "description": "UUIDv5 of what happened: a repeat has the same"},
			"source": map[string]any{"type": "string"}, "type": map[string]any{"type": "string"}, "subject": map[string]any{"type": "string", "description": "the cluster"},
			"time": map[string]any{"type": "string", "format": "date-time"}, "datacontenttype": map[string]any{"const": "application/json"},
		},
	}}
	for name, schema := range registry.Map() {
		schemas[name] = schema
	}
	raw, err := json.Marshal(map[string]any{
		"asyncapi": "3.0.0",
		"info": map[string]any{
			"title": "Rotor events", "version": "1.0.0", "license": map[string]any{"name": "Apache-2.0"},
			"description": "Facts and commands on NATS JetStream. Only optional fields are added to a version.",
		},
		"defaultContentType": "application/cloudevents+json",
		"servers": map[string]any{"nats": map[string]any{
			"host": "127.0.0.1:4222", "protocol": "nats", "security": nkey, "description": "where `rotor up` listens by default; subscribers hear facts only",
		}},
		"channels": channels, "operations": operations,
		"components": map[string]any{"messages": messages, "schemas": schemas, "securitySchemes": map[string]any{
			"nkey": map[string]any{"type": "asymmetricEncryption", "description": "nkey of the user (Ed25519)"},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func table() []byte {
	var b bytes.Buffer
	b.WriteString("# Events\n\nMade from `shared/event/catalog.go`; `asyncapi.json` has the payloads.\n" +
		"Every message is a CloudEvent 1.0 in structured JSON. `GET /v1/events` streams the facts over HTTP.\n")
	for _, part := range []struct {
		title   string
		command bool
	}{{"Facts", false}, {"Commands", true}} {
		fmt.Fprintf(&b, "\n## %s\n\n| type | subject | published by | meaning |\n|---|---|---|---|\n", part.title)
		for _, row := range event.Catalog() {
			if row.Command() == part.command {
				fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s |\n", row.Type, row.Subject("<cluster>"), strings.Join(row.Owners(), ", "), row.Doc)
			}
		}
	}
	return b.Bytes()
}
