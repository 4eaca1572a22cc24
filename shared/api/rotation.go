package api

import (
	"context"
	"net/http"
	"net/url"
)

// WaveProgress is how far one wave of a rotation has come.
type WaveProgress struct {
	Wave     int `json:"wave" doc:"from 1, the canary"`
	Clusters int `json:"clusters"`
	Begun    int `json:"begun" doc:"clusters of which the turn has come"`
	Held     int `json:"held" doc:"clusters that wait for their maintenance window"`
	Ended    int `json:"ended" doc:"clusters"`
	Failed   int `json:"failed" doc:"clients"`
}

// ResumeRequest lets a halted rotation go on.
type ResumeRequest struct {
	Halt  int  `json:"halt,omitempty" doc:"number of the halt that was seen; a later one is not resumed. The one that holds, if absent"`
	Retry bool `json:"retry,omitempty" doc:"try the clients that have failed again, in place of accepting that they have"`
}

// CancelRequest ends a rotation.
type CancelRequest struct {
	Reason string `json:"reason,omitempty" maxLength:"500"`
}

// ExclusionRequest leaves a cluster out of a rotation.
type ExclusionRequest struct {
	Cluster string `json:"cluster" maxLength:"63"`
	Reason  string `json:"reason" minLength:"1" maxLength:"500" doc:"why; it goes into the ledger"`
}

func pathOf(id string) string { return PathRotations + "/" + url.PathEscape(id) }

// Resume lets a halted rotation go on.
func (c *Client) Resume(ctx context.Context, id string, r ResumeRequest) (view RotationView, err error) {
	return view, c.Call(ctx, http.MethodPost, pathOf(id)+"/resume", r, &view)
}

// Cancel ends a rotation.
func (c *Client) Cancel(ctx context.Context, id string, r CancelRequest) (view RotationView, err error) {
	return view, c.Call(ctx, http.MethodPost, pathOf(id)+"/cancel", r, &view)
}

// Exclude leaves a cluster out of a rotation.
func (c *Client) Exclude(ctx context.Context, id string, r ExclusionRequest) (view RotationView, err error) {
	return view, c.Call(ctx, http.MethodPost, pathOf(id)+"/exclusions", r, &view)
}

// Include takes an exclusion back.
func (c *Client) Include(ctx context.Context, id, cluster string) (view RotationView, err error) {
	return view, c.Call(ctx, http.MethodDelete, pathOf(id)+"/exclusions/"+url.PathEscape(cluster), nil, &view)
}
