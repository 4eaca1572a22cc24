package api

import "testing"

func TestJoinTokenSaysWhereItBelongs(t *testing.T) {
	for token, want := range map[string]struct {
		cluster string
		bundle  int
	}{
		JoinToken("edge-04", 7, "SECRET"): {"edge-04", 7},
		"edge-04.SECRET":                  {"edge-04", 0},
		"edge-04.x.SECRET":                {"edge-04", 0},
		"edge-04.-1.SECRET":               {"edge-04", 0},
		"SECRET":                          {"", 0},
		"":                                {"", 0},
	} {
		if cluster, bundle := ReadJoinToken(token); cluster != want.cluster || bundle != want.bundle {
			t.Errorf("%q: %q and %d, want %q and %d", token, cluster, bundle, want.cluster, want.bundle)
		}
	}
}

func FuzzReadJoinToken(f *testing.F) {
	f.Add("edge-04.7.SECRET")
	f.Fuzz(func(t *testing.T, token string) {
		if _, bundle := ReadJoinToken(token); bundle < 0 {
			t.Errorf("bundle %d", bundle)
		}
	})
}
