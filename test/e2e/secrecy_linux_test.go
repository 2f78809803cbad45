// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

// spy is an engine all of whose outputs are recorded.
type spy struct {
	*engine
	direct *api.Client // past the recorder, for what the test alone looks into
	api    *recorder
	audit  string // file
	output string // file: what the plugin's process writes to its standard error
	keys   []string
	plain  map[string][]byte // storage entries as the plugin stores them, by key
}

// startSpy starts an engine on a server whose storage is on disk.
func startSpy(t *testing.T) *spy {
	t.Helper()
	server := vaulttest.StartOnDisk(t, vaulttest.Options{LogLevel: "trace"})
	s := &spy{engine: startWallet(t, server, "op", 0), plain: map[string][]byte{}}
	s.audit = s.EnableAudit()
	s.output = filepath.Join(s.PluginDir(), "output")
	s.mountRecorded()
	s.direct = s.vault
	s.api = s.recordAPI()
	s.keys = []string{s.key}
	return s
}

// recordOutput is a plugin that is the engine, and writes its standard error also to a file.
const recordOutput = `#!/bin/sh
here=$(dirname "$0")
mkfifo "$here/pipe-$$"
tee -a "$here/output" <"$here/pipe-$$" >&2 &
exec "$here/` + vaulttest.Plugin + `" "$@" 2>"$here/pipe-$$"
`

func (s *spy) mountRecorded() {
	s.t.Helper()
	const name = "recorded"
	if err := os.WriteFile(filepath.Join(s.PluginDir(), name), []byte(recordOutput), 0o700); err != nil {
		s.t.Fatal(err)
	}
	err := s.vault.Sys().RegisterPlugin(&api.RegisterPluginInput{
		Name: name, Type: api.PluginTypeSecrets, Command: name,
		SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte(recordOutput))),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.vault.Sys().Mount(s.mount, &api.MountInput{Type: name}); err != nil {
		s.t.Fatal(err)
	}
}

// any sends a request whose outcome does not matter: what is said of it does.
func (s *spy) any(method, path string, body any) {
	s.t.Helper()
	text := ""
	if body != nil {
		text = asJSON(s.t, body)
	}
	if _, err := s.send(s.t.Context(), method, path, text); err != nil {
		s.t.Error(err)
	}
}

// Whatever is done with the engine, and whatever goes wrong, no secret is in a log, in the audit log, in
// the plugin's own output, in a response that is not there to hand it out, in the storage as it is on
// disk, or in an entry that is not seal-wrapped.
func TestNoLeaks(t *testing.T) {
	t.Parallel()
	s := startSpy(t)
	s.useEveryPath()
	s.makeMistakes()
	s.sufferEveryFault()
	s.lookIntoStorage() // for the second ticket key
	s.dumpGoroutines()
	s.checkEveryPathWasUsed()

	// The test of the test: a grant whose name is a secret, which every place shows.
	const probe = "Pr0be4ndNothingButAProbe"
	s.ask(probe, nil)
	s.any("GET", "token/"+probe, nil)
	s.any("GET", "token/"+probe+"-2", nil)
	s.lookIntoStorage()
	s.Stop()
	for _, ticket := range s.api.tickets() {
		s.wire.addSecret(signingTicket, ticket)
	}

	places := s.places()
	leaks := newSearch(s.wire.secretsSoFar())
	leaks.addKeys(s.keys...)
	for where, text := range places {
		leaks.check(t, where, text)
	}
	s.checkWrappedEntries(leaks)
	s.checkKindsOfSecrets()
	checkProbeIsFound(t, places, probe)
}

func checkProbeIsFound(t *testing.T, places map[string][]byte, probe string) {
	t.Helper()
	probes := newSearch(map[string]string{probe: "the probe"})
	for where, text := range places {
		if len(probes.in(text)) == 0 {
			t.Errorf("%s does not contain the probe: nothing would be found there", where)
		}
		for how, form := range formsOf(probe) {
			leaking := slices.Concat(text[:len(text)/2], []byte(form), text[len(text)/2:])
			if !slices.Contains(probes.in(leaking), "the probe, "+how) {
				t.Errorf("a leak in %s, %s, is not found", where, how)
			}
		}
	}
}

// places returns everything in which there must be no secret, once the server has stopped.
func (s *spy) places() map[string][]byte {
	s.t.Helper()
	places := map[string][]byte{"the server's log": []byte(s.Log())}
	for where, file := range map[string]string{"the audit log": s.audit, "the plugin's output": s.output} {
		text, err := os.ReadFile(file)
		if err != nil {
			s.t.Fatal(err)
		}
		places[where] = text
	}
	secrets := s.wire.secretsSoFar()
	isHandedOut := func(value string) bool {
		return secrets[value] == "an access token" || secrets[value] == signingTicket
	}
	var answers, refusals bytes.Buffer
	for _, x := range s.api.all() {
		answers.Write(x.withoutHandOuts(isHandedOut))
		if x.status >= http.StatusBadRequest {
			refusals.Write(x.body)
		}
	}
	places["the responses, without what they hand out"] = answers.Bytes()
	places["the errors"] = refusals.Bytes()

	var unwrapped bytes.Buffer
	for key, value := range s.plain {
		unwrapped.WriteString(key + "\n")
		if !isSealWrapped(key) {
			unwrapped.Write(value)
		}
	}
	places["the names of storage entries, and those that are not seal-wrapped"] = unwrapped.Bytes()

	var disk bytes.Buffer
	err := filepath.WalkDir(s.StorageDir(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		disk.Write(content)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	places["the storage on disk"] = disk.Bytes()
	return places
}

// isSealWrapped reports whether Vault seal-wraps an entry of the plugin's.
func isSealWrapped(key string) bool {
	return regexp.MustCompile(`^(config$|keys/|tickets/|grants/|wal/)`).MatchString(key)
}

// lookIntoStorage reads what the plugin has stored, decrypted, and notes the keys that are in it.
func (s *spy) lookIntoStorage() {
	s.t.Helper()
	mounts, err := s.vault.Sys().ListMounts()
	if err != nil {
		s.t.Fatal(err)
	}
	var read func(prefix, key string)
	root := "sys/raw/logical/" + mounts[s.mount+"/"].UUID + "/"
	read = func(prefix, key string) {
		if key == "" || strings.HasSuffix(key, "/") {
			for _, name := range s.listRaw(prefix + key) {
				read(prefix, key+name)
			}
			return
		}
		secret, err := s.direct.Logical().Read(prefix + key)
		if err != nil || secret == nil {
			return // it was deleted meanwhile
		}
		value := fmt.Sprint(secret.Data["value"])
		s.plain[key] = []byte(value)
		var holder struct {
			PrivateKey string               `json:"private_key"`
			Current    struct{ Key string } // of signing tickets
		}
		if json.Unmarshal([]byte(value), &holder) != nil {
			return
		}
		if holder.PrivateKey != "" {
			s.keys = append(s.keys, holder.PrivateKey)
		}
		s.wire.addSecret("a ticket key", holder.Current.Key)
	}
	read(root, "")
}

// checkWrappedEntries checks that the entries that are seal-wrapped do contain secrets.
func (s *spy) checkWrappedEntries(leaks *search) {
	s.t.Helper()
	wrapped := bytes.Join(slices.Collect(maps.Values(s.plain)), nil)
	found := strings.Join(leaks.in(wrapped), ", ")
	for _, what := range []string{"a private key in PEM", "an access token", "a manage URL", "the proxy's password", "a ticket key"} {
		if !strings.Contains(found, what) {
			s.t.Errorf("the entries that are seal-wrapped do not contain %s", what)
		}
	}
}

func (s *spy) listRaw(prefix string) []string {
	s.t.Helper()
	secret, err := s.direct.Logical().List(strings.TrimSuffix(prefix, "/"))
	if err != nil {
		s.t.Fatal(err)
	}
	if secret == nil {
		return nil
	}
	var names []string
	for _, name := range secret.Data["keys"].([]any) {
		names = append(names, name.(string))
	}
	return names
}
