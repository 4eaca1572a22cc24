package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

const samplePath = "../../../deploy/agent.yaml"

func TestSampleIsRightAndShowsEveryKey(t *testing.T) {
	f, err := ReadFile(samplePath)
	if err != nil {
		t.Fatal(err)
	}
	c := f.Settings.Clients
	kms := c.For(fleet.ClientKey{Kind: "kms"})
	want := Client{
		Directory: Directory{Path: "/opt/wssd/k8s/kms", Mode: 0o640, DirMode: 0o750, Owner: "kms", Group: "kms"},
		Reload:    Reload{Command: []string{"systemctl", "reload-or-restart", "kms-plugin"}, Timeout: 30 * time.Second, Attempts: 5, Backoff: 15 * time.Second},
		Verify:    Verify{Address: "127.0.0.1:9443", ServerName: "kms.local", Timeout: 30 * time.Second}, Rollback: true,
	}
	if !reflect.DeepEqual(kms, want) {
		t.Errorf("kms\n got %+v\nwant %+v", kms, want)
	}
	raw, err := os.ReadFile(samplePath)
	if err != nil {
		t.Fatal(err)
	}
	keys := append([]string{
		"namespace", "secret", "context", "kubeconfig", "file", "configMap", "name", "key", "path", "mode", "dirMode", "owner", "group",
		"secretPrefix", "include", "reload", "verify", "rollback", "command", "signal", "rollout", "timeout", "attempts", "backoff", "pidFile", "address", "serverName",
	}, fileKeys...)
	for _, key := range keys {
		if !strings.Contains(string(raw), key+":") {
			t.Errorf("the sample does not show %s", key)
		}
	}
	if f.Settings.Allowed() != 1 || len(f.Settings.TrustBundles) != 2 || f.PollWait != 25*time.Second {
		t.Errorf("%+v", f)
	}
}

func TestEntriesAddUp(t *testing.T) {
	f, err := Parse([]byte(`
clients:
  "*":
    kubernetes: {namespace: rotor}
    reload: {command: [all]}
    verify: {address: "127.0.0.1:1"}
    rollback: false
  node-agent: {directory: {path: hosts, mode: "0640", owner: root}}
  node-agent/host-1: {directory: {owner: kms}, reload: none}
  csi: {rollback: true, verify: none}
`))
	if err != nil {
		t.Fatal(err)
	}
	for client, want := range map[string]struct {
		directory  Directory
		kubernetes bool
		reload     bool
		verify     bool
		rollback   bool
	}{
		"kms":               {Directory{}, true, true, true, false},
		"csi":               {Directory{}, true, true, false, true},
		"node-agent/host-2": {Directory{Path: "hosts", Mode: 0o640, DirMode: 0o750, Owner: "root"}, false, true, true, false},
		"node-agent/host-1": {Directory{Path: "hosts", Mode: 0o640, DirMode: 0o750, Owner: "kms"}, false, false, true, false},
	} {
		key, _ := fleet.ParseClientKey(client)
		got := f.Settings.Clients.For(key)
		if got.Directory != want.directory || (got.Kubernetes != nil) != want.kubernetes || got.Reload.Some() != want.reload ||
			(got.Verify.Address != "") != want.verify || got.Rollback != want.rollback {
			t.Errorf("%s: %+v", client, got)
		}
		if got.Reload.Attempts != DefaultAttempts || got.Reload.Backoff != DefaultBackoff {
			t.Errorf("%s: no defaults: %+v", client, got.Reload)
		}
	}
	if zero := (Clients{}).For(fleet.ClientKey{Kind: "kms"}); zero.Reload.Some() || zero.Verify.Address != "" || !zero.Rollback {
		t.Errorf("without a file: %+v", zero)
	}
}

func TestParseErrors(t *testing.T) {
	in := func(entry string) string { return "clients:\n  kms: {" + entry + "}\n" }
	for name, c := range map[string]struct{ file, want string }{
		"empty":            {"", "1:1: the file is empty: deploy/agent.yaml is one to begin with"},
		"unknown key":      {"sever: https://x:1\n", `1:1: unknown key "sever" in the configuration: did you mean "server"?`},
		"plain HTTP":       {"server: http://x:1\n", `1:9: server "http://x:1": write https://host:port, several with commas`},
		"bad pin":          {"caHash: md5:00\n", `1:9: caHash "md5:00": write sha256: and 64 hexadecimal digits, as they are shown with the join token`},
		"bad cluster":      {"cluster: Edge_1\n", `1:10: cluster "Edge_1": use 1-63 lower-case letters, digits and '-', starting and ending with a letter or digit`},
		"home":             {"directory: ~/x\n", `1:12: directory "~/x": write the whole path, '~' and '$' are not expanded`},
		"wrong type":       {"directory: [a]\n", "1:12: directory must be a single value, not a list"},
		"bad duration":     {"pollWait: soon\n", `1:11: pollWait "soon": write days, hours or minutes, such as 90d, 36h or 30m`},
		"long duration":    {"pollWait: 2m\n", `1:11: pollWait "2m": use 1s to 50s`},
		"bad listen":       {"healthListen: 9642\n", `1:15: healthListen "9642": write host:port, such as 127.0.0.1:9642`},
		"bad level":        {"logLevel: loud\n", `1:11: logLevel "loud": use debug, info, warn or error`},
		"bad count":        {"maxFailures: -1\n", `1:14: maxFailures "-1": write a number from 0 to 1000`},
		"clients list":     {"clients: [kms]\n", `1:10: clients must be keys and values, such as "kms: {reload: ...}", not a list`},
		"bad client":       {"clients: {KMS: {}}\n", `1:11: client kind "KMS": use 1-63 lower-case letters, digits and '-', starting and ending with a letter or digit`},
		"client twice":     {"clients:\n  kms: {}\n  kms: {}\n", "3:3: client kms stands twice: the first time on line 2"},
		"key of a client":  {in("reaload: none"), `2:9: unknown key "reaload" in client kms: did you mean "reload"?`},
		"directory, other": {in("directory: {paths: x}"), `2:21: unknown key "paths" in directory: did you mean "path"?`},
		"path of all":      {"clients:\n  '*': {directory: {path: x}}\n", `2:27: path "x": all clients would share one folder: give each of them an entry with a path of its own`},
		"path up":          {in("directory: {path: ../x}"), `2:27: path "../x": name a folder of its own, without ".."`},
		"same path":        {"directory: /c\nclients:\n  kms: {directory: {path: x}}\n  csi: {directory: {path: /c/x}}\n", "4:27: clients kms and csi would install into the folder /c/x: give each a place of its own"},
		"path inside":      {"clients:\n  kms: {directory: {path: /x}}\n  csi: {directory: {path: /x/y}}\n", "3:27: clients kms and csi would install into the folder /x/y: give each a place of its own"},
		"mode for others":  {in("directory: {mode: '0644'}"), `2:27: mode "0644": write octal digits such as 0640, with at least 0400 and at most 0660`},
		"mode decimal":     {in("directory: {mode: 8}"), `2:27: mode "8": write octal digits such as 0640, with at least 0400 and at most 0660`},
		"dirMode":          {in("directory: {dirMode: '0777'}"), `2:30: dirMode "0777": write octal digits such as 0750, with at least 0700 and at most 0775`},
		"owner":            {in("directory: {owner: 'a b'}"), `2:28: owner "a b": write a name or a number of this machine`},
		"both places":      {in("directory: {mode: '0600'}, kubernetes: {secret: x}"), "2:20: client kms has a directory and a Secret: choose one"},
		"same Secret":      {"clients:\n  kms: {kubernetes: {secret: x}}\n  csi: {kubernetes: {secret: x}}\n", "3:30: clients kms and csi would install into the Secret :x: give each a place of its own"},
		"Secret of all":    {"clients:\n  '*': {kubernetes: {secret: x}}\n", `2:30: secret "x": all clients would share one Secret: leave it out, or give each of them an entry with a Secret of its own`},
		"bad Secret":       {in("kubernetes: {secret: X}"), `2:30: secret "X": use lower-case letters, digits, '-' and '.', as Kubernetes does`},
		"shell":            {in("reload: {command: systemctl reload kms}"), `2:27: command must be a list of the program and its arguments, such as [systemctl, reload, kms-plugin], not "systemctl reload kms": it is run without a shell`},
		"no command":       {in("reload: {command: []}"), "2:27: command is empty: write the program and its arguments, such as [systemctl, reload, kms-plugin]"},
		"relative program": {in("reload: {command: [./x]}"), `2:28: program "./x": write its whole path, or a name that is found in the PATH of the agent`},
		"nested argument":  {in("reload: {command: [x, [y]]}"), "2:31: an argument of command must be a single value, not a list"},
		"two ways":         {in("reload: {command: [x], signal: {pidFile: /x}}"), "2:17: reload has 2 of command, signal and rollout: write one of them, or reload: none"},
		"no way":           {in("reload: {timeout: 3s}"), "2:17: reload has 0 of command, signal and rollout: write one of them, or reload: none"},
		"reload word":      {in("reload: never"), `2:17: reload must be keys and values, such as "command: ...", not "never"`},
		"bad signal":       {in("reload: {signal: {pidFile: /x, signal: SIGHUB}}"), `2:48: signal "SIGHUB": did you mean "HUP"?`},
		"no pid file":      {in("reload: {signal: {signal: HUP}}"), "2:26: pidFile is missing: write the file with the number of the process, such as /run/kms.pid"},
		"relative pid":     {in("reload: {signal: {pidFile: x}}"), `2:36: pidFile "x": write the whole path, such as /run/kms.pid`},
		"bad workload":     {in("reload: {rollout: [pod/x]}"), `2:28: workload "pod/x": write deployment/NAME, daemonset/NAME or statefulset/NAME, with NAMESPACE/ before it where it is another one`},
		"bad attempts":     {in("reload: {command: [x], attempts: 0}"), `2:42: attempts "0": write a number from 1 to 100`},
		"no address":       {in("verify: {timeout: 3s}"), "2:17: address is missing: write host:port of a TLS server, such as 127.0.0.1:9443"},
		"bad address":      {in("verify: {address: ':9443'}"), `2:27: address ":9443": write host:port, such as 127.0.0.1:9443`},
		"bad rollback":     {in("rollback: maybe"), `2:19: rollback "maybe": write true or false`},
		"bad prefix":       {"kubernetes: {secretPrefix: -a}\n", `1:28: secretPrefix "-a": use 1-63 lower-case letters, digits and '-', beginning with a letter or digit`},
		"relative include": {"trustBundle: [{file: {path: /x, include: [ca.crt]}}]\n", `1:43: include "ca.crt": write the whole path of another file, such as /etc/kubernetes/pki/ca.crt`},
		"includes itself":  {"trustBundle: [{file: {path: /x, include: [//x]}}]\n", `1:43: include "//x": write the whole path of another file, such as /etc/kubernetes/pki/ca.crt`},
		"empty bundle":     {"trustBundle: [{}]\n", "1:15: an entry of trustBundle is a file or a configMap: write one of them in each entry"},
		"relative bundle":  {"trustBundle: [{file: {path: x}}]\n", `1:29: path "x": write the whole path, such as /etc/kubernetes/pki/rotor-ca.crt`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(c.file))
			if err == nil || !errors.Is(err, fleet.ErrInvalid) || strings.Split(err.Error(), "\n")[0] != c.want {
				t.Errorf("\n got %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestReadFileNamesTheFileInEachLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte("sever: x\nlogLevel: loud\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := ReadFile(path)
	if !errors.Is(err, fleet.ErrInvalid) || strings.Count(err.Error(), path+":") != 2 || !strings.Contains(err.Error(), path+":2:11: ") {
		t.Errorf("%v", err)
	}
	if err := errors.Join(os.WriteFile(path, []byte("maxFailures: 2\n"), 0o600), os.Chmod(path, 0o646)); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(path); !errors.Is(err, fleet.ErrInvalid) || !strings.Contains(err.Error(), "chmod o-w") {
		t.Errorf("a file that everybody may write: %v", err)
	}
	if _, err := ReadFile(path + "-none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func FuzzParse(f *testing.F) {
	raw, err := os.ReadFile(samplePath)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte("clients: {kms: {reload: none}}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		file, err := Parse(raw)
		if err != nil && !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%v", err)
		}
		if got := file.Settings.Clients.For(fleet.ClientKey{Kind: "kms"}); got.Reload.Attempts < 1 || got.Directory.Mode&0o007 != 0 {
			t.Errorf("%+v", got)
		}
	})
}
