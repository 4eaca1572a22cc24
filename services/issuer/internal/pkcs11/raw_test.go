//go:build pkcs11 && cgo

package pkcs11_test

import (
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/rotor-fleet/rotor/services/issuer/internal/pkcs11"
)

// raw calls the module without anything between: it is the same instance that
// the tokens of this process use.
func (h softHSM) raw(t testing.TB, do func(module *p11.Ctx, slot uint) error) error {
	t.Helper()
	token := pkcs11.New(h.Config) // keeps the module initialised meanwhile
	must(t, token.Check(t.Context()))
	defer func() { must(t, token.Close()) }()
	module := p11.New(h.Module)
	if module == nil {
		t.Fatal("the module cannot be loaded")
	}
	defer module.Destroy()
	slots, err := module.GetSlotList(true)
	must(t, err)
	for _, slot := range slots {
		if info, err := module.GetTokenInfo(slot); err == nil && info.Label == h.Token {
			return do(module, slot)
		}
	}
	t.Fatal("no token")
	return nil
}

// objects calls do with each private key.
func (h softHSM) objects(t testing.TB, do func(*p11.Ctx, p11.SessionHandle, p11.ObjectHandle)) {
	t.Helper()
	must(t, h.raw(t, func(module *p11.Ctx, slot uint) error {
		session, err := module.OpenSession(slot, p11.CKF_SERIAL_SESSION)
		must(t, err)
		defer func() { must(t, module.CloseSession(session)) }()
		must(t, module.FindObjectsInit(session, []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY)}))
		found, _, err := module.FindObjects(session, 100)
		must(t, err)
		must(t, module.FindObjectsFinal(session))
		if len(found) == 0 {
			t.Error("no private key in the token")
		}
		for _, object := range found {
			do(module, session, object)
		}
		return nil
	}))
}

// labels counts the private keys by their labels.
func (h softHSM) labels(t testing.TB) map[string]int {
	t.Helper()
	labels := map[string]int{}
	h.objects(t, func(module *p11.Ctx, session p11.SessionHandle, object p11.ObjectHandle) {
		attributes, err := module.GetAttributeValue(session, object, []*p11.Attribute{p11.NewAttribute(p11.CKA_LABEL, nil)})
		must(t, err)
		labels[string(attributes[0].Value)]++
	})
	return labels
}

// logout takes the login from all sessions of the process.
func (h softHSM) logout(t testing.TB) error {
	return h.raw(t, func(module *p11.Ctx, slot uint) error {
		session, err := module.OpenSession(slot, p11.CKF_SERIAL_SESSION)
		must(t, err)
		return module.Logout(session)
	})
}

// closeSessions ends all sessions of the process.
func (h softHSM) closeSessions(t testing.TB) error {
	return h.raw(t, func(module *p11.Ctx, slot uint) error { return module.CloseAllSessions(slot) })
}
