package rest

import (
	"encoding/base64"
	"fmt"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Paging is the part of a request that asks for one page of a list.
type Paging struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"500" doc:"how many items at most"`
	Cursor string `query:"cursor" maxLength:"400" doc:"next of the page before"`
}

// after returns the key of the last item of the page before, "" for the first.
func (p Paging) after() (string, error) {
	raw, err := base64.RawURLEncoding.DecodeString(p.Cursor)
	if err != nil {
		return "", fmt.Errorf("%w: cursor %q: use the next of the page before", fleet.ErrInvalid, p.Cursor)
	}
	return string(raw), nil
}

func cursor(key string) string { return base64.RawURLEncoding.EncodeToString([]byte(key)) }

// pageOf cuts one page out of a list whose items are in the order of less; an
// item that has gone since the page before does no harm.
func pageOf[T any](items []T, p Paging, key func(T) string, less func(a, b string) bool) (api.Page[T], error) {
	page := api.Page[T]{Items: []T{}}
	after, err := p.after()
	if err != nil {
		return page, err
	}
	for _, item := range items {
		if after != "" && !less(after, key(item)) {
			continue
		}
		if len(page.Items) == p.Limit {
			page.Next = cursor(key(page.Items[p.Limit-1]))
			break
		}
		page.Items = append(page.Items, item)
	}
	return page, nil
}

func ascending(a, b string) bool { return a < b }
