// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
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
		ended <- run(ctx, []string{"-client-jwks", file, "-misbehave", `{"drop":true,"on":["rotate"],"times":1}`,
			"-dialect", `{"client":"string","aliases":{"/vanity":"alice"}}`, "-log-level", "off"}, in, io.Discard)
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
	if got := get(t, url+"/dialect"); got != `{"client":"string","aliases":{"/vanity":"alice"}}` {
		t.Errorf("the dialect is %s", got)
	}
	if get(t, url+"/vanity") != get(t, url+"/alice") {
		t.Error("the alias is not there")
	}
	stop()
	if status := <-ended; status != 0 {
		t.Errorf("it ended with %d", status)
	}
}

// With -ca-file it speaks https, and the file has what to trust.
func TestRunTLS(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	ctx, stop := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan int)
	go func() {
		ended <- run(ctx, []string{"-ca-file", file, "-log-level", "off"}, in, io.Discard)
		in.Close()
	}()
	lines := bufio.NewScanner(out)
	lines.Scan()
	url, _ := strings.CutPrefix(lines.Text(), "sandbox listening on ")
	go func() { _, _ = io.Copy(io.Discard, out) }()
	certificate, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(certificate) || !strings.HasPrefix(url, "https://") {
		t.Fatal("there is no certificate, or no https")
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	response, err := client.Get(url + "/alice")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	client.CloseIdleConnections()
	stop()
	if status := <-ended; status != 0 {
		t.Errorf("it ended with %d", status)
	}
}

// What it prints when it starts names all that it can be told.
func TestUsageNamesAll(t *testing.T) {
	for _, one := range []any{sandbox.Misbehaviour{}, sandbox.Dialect{}} {
		kind := reflect.TypeOf(one)
		for i := range kind.NumField() {
			name, _, _ := strings.Cut(kind.Field(i).Tag.Get("json"), ",")
			if name == "-" { // what JSON has in another form
				continue
			}
			if !strings.Contains(usage, name) {
				t.Errorf("%s is not named", name)
			}
		}
	}
	for _, wire := range sandbox.WireNames() {
		if !strings.Contains(usage, wire) {
			t.Errorf("%s is not named", wire)
		}
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
		"of a list":       {[]string{"-misbehave", `[{"drop":true},{"crash":true}]`}, 1, "crash"},
		"dialect":         {[]string{"-dialect", `{"accent":"any"}`}, 1, "accent"},
		"certificate":     {[]string{"-ca-file", filepath.Join(private, "ca.pem")}, 1, "-ca-file"},
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
