package backup

import (
	"errors"
	"fmt"
	"os"

	"filippo.io/age"

	"github.com/rotor-fleet/rotor/shared/secret"
)

// Key says how a backup is sealed or opened: by a passphrase, or to recipients
// whose identities lie elsewhere, so that who makes backups cannot read them.
type Key struct {
	PassphraseFile string   // mode 0600 or stricter
	Recipients     []string // age1..., for sealing
	IdentityFile   string   // AGE-SECRET-KEY-1..., for opening; mode 0600 or stricter
}

var errNoKey = errors.New("no key is named")

// Named reports whether there is anything to seal or to open with.
func (k Key) Named() bool {
	return k.PassphraseFile != "" || k.IdentityFile != "" || len(k.Recipients) > 0
}

func (k Key) recipients() ([]age.Recipient, error) {
	var all []age.Recipient
	for _, text := range k.Recipients {
		r, err := age.ParseX25519Recipient(text)
		if err != nil {
			return nil, fmt.Errorf("recipient %q: it is no public key of age, which begins with age1 and has 62 characters", text)
		}
		all = append(all, r)
	}
	if k.PassphraseFile == "" {
		if len(all) == 0 {
			return nil, errNoKey
		}
		return all, nil
	}
	if len(all) > 0 {
		return nil, errors.New("--passphrase-file and --recipient exclude each other")
	}
	text, err := k.passphrase()
	if err != nil {
		return nil, err
	}
	r, err := age.NewScryptRecipient(text.Reveal())
	if err != nil {
		return nil, fmt.Errorf("passphrase: %w", err)
	}
	return []age.Recipient{r}, nil
}

// minPassphrase is the least length: whoever has the file can try passphrases
// for as long as they like.
const minPassphrase = 12

func (k Key) passphrase() (secret.Text, error) {
	text, err := secret.ReadFile(k.PassphraseFile)
	if err != nil {
		return text, fmt.Errorf("passphrase: %w", err)
	}
	if len(text.Reveal()) < minPassphrase {
		return text, fmt.Errorf("passphrase in %s: at least %d characters", k.PassphraseFile, minPassphrase)
	}
	return text, nil
}

func (k Key) identities() ([]age.Identity, error) {
	switch {
	case k.PassphraseFile != "":
		text, err := k.passphrase()
		if err != nil {
			return nil, err
		}
		i, err := age.NewScryptIdentity(text.Reveal())
		if err != nil {
			return nil, fmt.Errorf("passphrase: %w", err)
		}
		return []age.Identity{i}, nil
	case k.IdentityFile != "":
		if _, err := secret.ReadFile(k.IdentityFile); err != nil { // checks the mode
			return nil, fmt.Errorf("identity: %w", err)
		}
		file, err := os.Open(k.IdentityFile)
		if err != nil {
			return nil, fmt.Errorf("identity: %w", err)
		}
		defer func() { _ = file.Close() }()
		all, err := age.ParseIdentities(file)
		if err != nil {
			return nil, fmt.Errorf("identity file %s: no identity of age in it", k.IdentityFile) // the cause could quote it
		}
		return all, nil
	default:
		return nil, errNoKey
	}
}
