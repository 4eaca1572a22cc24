//go:build pkcs11

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestPKCS11 runs the scripts in testdata/pkcs11 with a rotor that has PKCS#11
// and with SoftHSM. The one without is there as rotor-default. `make test-pkcs11`
// says what is missing.
func TestPKCS11(t *testing.T) {
	t.Setenv("SOFTHSM2_CONF", "softhsm2.conf") // in the folder of the script, where its programs run
	program := filepath.Join(binaries, "rotor")
	if err := os.Rename(program, program+"-default"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Rename(program+"-default", program) }) // the scripts run after this function
	c := exec.CommandContext(t.Context(), "go", "build", "-tags", "pkcs11", "-o", program, module+"cmd/rotor")
	c.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build rotor with PKCS#11: %v\n%s", err, out)
	}
	runScripts(t, topologies["one"], []string{"testdata/pkcs11/hsm.txtar"})
}
