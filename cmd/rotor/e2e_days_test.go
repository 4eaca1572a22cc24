package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// cmdDays waits until so many days have passed on the clock of the fleet since
// `days mark`: days mark, days N.
func cmdDays(ts *testscript.TestScript, _ bool, args []string) {
	client := &api.Client{URL: ts.Getenv("API"), Token: secret.New(ts.Getenv("TOKEN"))}
	now := func() time.Time {
		var status api.Status
		ts.Check(client.Call(context.Background(), http.MethodGet, api.PathStatus, nil, &status))
		return status.Now
	}
	if args[0] == "mark" {
		ts.Setenv("MARK", now().Format(time.RFC3339))
		return
	}
	days, err := strconv.Atoi(args[0])
	ts.Check(err)
	mark, err := time.Parse(time.RFC3339, ts.Getenv("MARK"))
	ts.Check(err)
	eventually(ts, func() error {
		if passed := now().Sub(mark); passed < time.Duration(days)*fleet.Day {
			return fmt.Errorf("%d days have passed", passed/fleet.Day)
		}
		return nil
	})
}
