package agent

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(killedVariable); text != "" {
		fmt.Fprintln(os.Stderr, runKilled(text)) // only if it is not killed
		return
	}
	goleak.VerifyTestMain(m)
}
