// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const jwks = `{"keys":[{"kid":"key-1","alg":"EdDSA","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`

func get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, []byte(jwks), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan int)
	go func() {
		ended <- run(ctx, []string{"-client-jwks", file, "-misbehave", `{"drop":true,"on":["rotate"],"times":1}`, "-log-level", "off"}, in, io.Discard)
		in.Close()
	}()
	lines := bufio.NewScanner(out)
	lines.Scan()
	url, ok := strings.CutPrefix(lines.Text(), "sandbox listening on ")
	if !ok {
		t.Fatalf("the first line is %q", lines.Text())
	}
	var rest strings.Builder
	for !strings.Contains(lines.Text(), "Interactive grants") && lines.Scan() {
		rest.WriteString(lines.Text() + "\n")
	}
	for _, want := range []string{url + "/alice", url + "/shop", url + "/client", url + "/auth", url + "/op", "trying and testing only"} {
		if !strings.Contains(rest.String(), want) {
			t.Errorf("what it prints does not name %s", want)
		}
	}
	if got := get(t, url+"/client/jwks.json"); got != jwks {
		t.Errorf("the client's keys are %s", got)
	}
	if got := get(t, url+"/misbehave"); got != `{"on":["rotate"],"times":1,"drop":true}` {
		t.Errorf("what is switched on is %s", got)
	}
	stop()
	if status := <-ended; status != 0 {
		t.Errorf("it ended with %d", status)
	}
}

func TestRunRefuses(t *testing.T) {
	private := filepath.Join(t.TempDir(), "private.json")
	if err := os.WriteFile(private, []byte(strings.Replace(jwks, `"kty"`, `"d":"c2VjcmV0","kty"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		args   []string
		status int
		says   string
	}{
		"help":            {[]string{"-help"}, 0, "for trying and testing only"},
		"unknown flag":    {[]string{"-port", "1"}, 2, "-port"},
		"argument":        {[]string{"serve"}, 2, "only flags"},
		"not loopback":    {[]string{"-addr", "0.0.0.0:0"}, 1, "loopback"},
		"lifetime":        {[]string{"-token-lifetime", "1500ms"}, 1, "whole number of seconds"},
		"no such file":    {[]string{"-client-jwks", private + ".missing"}, 1, "-client-jwks"},
		"private key":     {[]string{"-client-jwks", private}, 1, "private key"},
		"misbehaviour":    {[]string{"-misbehave", `{"crash":true}`}, 1, "crash"},
		"not JSON":        {[]string{"-misbehave", "drop"}, 1, "-misbehave"},
		"unknown level":   {[]string{"-log-level", "loud"}, 1, "loud"},
		"unknown version": {[]string{"-version"}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if status := run(t.Context(), row.args, &stdout, &stderr); status != row.status {
				t.Errorf("status %d, want %d", status, row.status)
			}
			if !strings.Contains(stderr.String(), row.says) {
				t.Errorf("it says %q, nothing of %q", stderr.String(), row.says)
			}
			if strings.Contains(stdout.String(), "listening") {
				t.Error("it started")
			}
			if strings.Contains(stderr.String(), "c2VjcmV0") {
				t.Error("it says the private key")
			}
		})
	}
}
