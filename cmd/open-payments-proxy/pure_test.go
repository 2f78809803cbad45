// SPDX-License-Identifier: MPL-2.0

package main

import (
	"errors"
	"flag"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOptions(t *testing.T) {
	for line, want := range map[string]string{
		"-grant a -caller-file f":                                    "",
		"-grant a -grant b.c -caller-file f -listen [::1]:0":         "",
		"-grant a -caller-file f -listen localhost:9700 -admin none": "",
		"-grant a -no-caller-secret -listen 127.0.0.2:1":             "",
		"-grant a -listen unix:/run/op/pay.sock":                     "",
		"-grant a -caller-file f -admin 0.0.0.0:9701":                "",
		"-grant a -caller-file f -mount /teams/op/":                  "",
		"-caller-file f": "-grant: is required",
		"-grant a":       "-caller-file: is required",
		"-grant a -caller-file f -no-caller-secret":           "-no-caller-secret: contradicts",
		"-grant a -caller-file f -listen 0.0.0.0:9700":        "-listen: must be an address on loopback",
		"-grant a -caller-file f -listen :9700":               "-listen: must be an address on loopback",
		"-grant a -caller-file f -listen 10.0.0.1:9700":       "-listen: must be an address on loopback",
		"-grant a -caller-file f -listen wallet.example:9700": "-listen: must be an address on loopback",
		"-grant a -caller-file f -listen 9700":                "-listen: must be HOST:PORT",
		"-grant a -listen unix:":                              "-listen: unix: must be followed",
		"-grant a -grant b -grant a -caller-file f":           "a name is given twice",
		"-grant a -role b -role c -caller-file f":             "",
		"-role till -caller-file f":                           "",
		"-grant a -role a -caller-file f":                     "a name is given twice",
		"-grant a -role ../a -caller-file f":                  "a name may contain",
		"-grant ../a -caller-file f":                          "a name may contain",
		"-grant a -caller-file f -mount ../sys":               "-mount: must be",
		"-grant a -caller-file f -wait 0s":                    "-wait: must be",
		"-grant a -caller-file f -log-level loud":             "-log-level: must be",
		"-grant a -caller-file f -admin 9701":                 "-admin: must be",
		"-grant a -caller-file f x":                           "there are no arguments",
		"-unknown":                                            "flag provided but not defined",
	} {
		_, err := parseOptions(strings.Fields(line), func(string) string { return "" }, nil)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
}

func TestOptionsInTheEnvironment(t *testing.T) {
	environment := map[string]string{
		"OPEN_PAYMENTS_MOUNT": "pay", "OPEN_PAYMENTS_PROXY_GRANT": "a b,c", "OPEN_PAYMENTS_PROXY_CALLER_FILE": "f",
		"OPEN_PAYMENTS_PROXY_WAIT": "9s", "OPEN_PAYMENTS_PROXY_LOG_JSON": "true", "OPEN_PAYMENTS_PROXY_LISTEN": "127.0.0.1:1",
		"OPEN_PAYMENTS_PROXY_VERSION": "true",
	}
	getenv := func(name string) string { return environment[name] }
	o, err := parseOptions([]string{"-listen", "127.0.0.1:2"}, getenv, nil)
	if err != nil {
		t.Fatal(err)
	}
	if o.mount != "pay" || o.grants.String() != "a b c" || o.callerFile != "f" || o.wait.String() != "9s" || !o.logJSON ||
		o.listen != "127.0.0.1:2" || o.version {
		t.Errorf("%+v", o)
	}
	environment["OPEN_PAYMENTS_PROXY_WAIT"] = "soon"
	if _, err := parseOptions(nil, getenv, nil); err == nil || !strings.Contains(err.Error(), "OPEN_PAYMENTS_PROXY_WAIT") {
		t.Errorf("%v", err)
	}
	var help strings.Builder
	if _, err := parseOptions([]string{"-help"}, getenv, &help); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("%v", err)
	}
	(&options{}).flagSet().VisitAll(func(f *flag.Flag) {
		if !strings.Contains(help.String(), "  -"+f.Name) {
			t.Errorf("the help does not show -%s", f.Name)
		}
	})
}

func TestIdentify(t *testing.T) {
	two := callers{secret: "s3cret", grants: []string{"shop-income", "rent.2026"}}
	one := callers{secret: "s3cret", grants: []string{"shop-income"}}
	open := callers{grants: []string{"shop-income", "rent.2026"}}
	openOne := callers{grants: []string{"shop-income"}}
	for _, c := range []struct {
		callers callers
		header  []string
		want    string
		status  int
	}{
		{two, []string{"GNAP shop-income.s3cret"}, "shop-income", 0},
		{two, []string{"gnap rent.2026.s3cret"}, "rent.2026", 0},
		{two, []string{"GNAP rent.2026"}, "", 401},
		{two, []string{"GNAP s3cret"}, "", 404},
		{two, []string{"GNAP other.s3cret"}, "", 404},
		{two, []string{"GNAP shop-income.S3cret"}, "", 401},
		{two, []string{"GNAP shop-income."}, "", 401},
		{two, []string{"GNAP other.x"}, "", 401}, // it tells nobody which grants there are
		{two, []string{"Bearer shop-income.s3cret"}, "", 401},
		{two, []string{"GNAP shop-income.s3cret", "GNAP shop-income.s3cret"}, "", 401},
		{two, nil, "", 401},
		{one, []string{"GNAP s3cret"}, "shop-income", 0},
		{one, []string{"GNAP .s3cret"}, "shop-income", 0},
		{one, []string{"GNAP other.s3cret"}, "", 404},
		{one, nil, "", 401},
		{open, []string{"GNAP shop-income"}, "shop-income", 0},
		{open, []string{"GNAP rent.2026"}, "rent.2026", 0},
		{open, []string{"GNAP rent.2026.anything"}, "rent.2026", 0},
		{open, []string{"GNAP other"}, "", 404},
		{open, nil, "", 404},
		{openOne, nil, "shop-income", 0},
		{openOne, []string{"GNAP shop-incom"}, "", 404},
	} {
		got, refused := c.callers.identify(c.header)
		status := 0
		if refused != nil {
			status = refused.status
		}
		if got != c.want || status != c.status {
			t.Errorf("%q of %q: %q, %d", c.header, c.callers, got, status)
		}
	}
}

func TestCallerFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "caller")
	made, err := readSecret(path)
	if err != nil || len(made) < 26 {
		t.Fatalf("%d characters, %v", len(made), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if again, err := readSecret(path); err != nil || again != made {
		t.Errorf("a second start makes another secret, %v", err)
	}
	for text, want := range map[string]string{"Given-1\n": "Given-1", "": "", "two words": "", "a.b": "", "caf\u00e9": ""} {
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		if got, err := readSecret(path); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
		if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
			t.Errorf("an existing file is changed to %v", info.Mode())
		}
	}
	if _, err := readSecret(filepath.Join(path, "x")); err == nil {
		t.Error("a file that cannot be made is no error")
	}
}

func TestRefuseBrowser(t *testing.T) {
	for _, c := range []struct {
		host, header, value string
		code                string
	}{
		{"127.0.0.1:9700", "", "", ""},
		{"evil.example:9700", "", "", "not_loopback"},
		{"0.0.0.0:9700", "", "", "not_loopback"},
		{"127.0.0.1:9700", "Origin", "https://evil.example", "browser"},
		{"127.0.0.1:9700", "Origin", "null", "browser"},
		{"127.0.0.1:9700", "Origin", "", "browser"},
		{"127.0.0.1:9700", "Origin", "http://127.0.0.1:9700", "browser"},
		{"127.0.0.1:9700", "Sec-Fetch-Site", "cross-site", "browser"},
		{"127.0.0.1:9700", "Sec-Fetch-Site", "same-origin", "browser"},
		{"127.0.0.1:9700", "Sec-Fetch-Site", "none", ""},
		{"127.0.0.1:9700", "Sec-Fetch-Mode", "cors", ""}, // Node.js
	} {
		r := &http.Request{Host: c.host, Header: http.Header{}}
		if c.header != "" {
			r.Header.Set(c.header, c.value)
		}
		code := ""
		if refused := refuseBrowser(r); refused != nil {
			code = refused.code
		}
		if code != c.code {
			t.Errorf("Host %q, %s: %q is answered with %q, want %q", c.host, c.header, c.value, code, c.code)
		}
	}
}

func TestRefuseType(t *testing.T) {
	for _, c := range []struct {
		method, body string
		types        []string
		refused      bool
	}{
		{"POST", "{}", []string{"application/json"}, false},
		{"POST", "{}", []string{"Application/JSON; charset=utf-8"}, false},
		{"POST", "", nil, false},
		{"POST", "", []string{"text/plain"}, false},
		{"GET", "", nil, false},
		{"POST", "{}", nil, true},
		{"POST", "{}", []string{"text/plain"}, true},
		{"POST", "{}", []string{"application/x-www-form-urlencoded"}, true},
		{"POST", "{}", []string{"text/plain; application/json"}, true},
		{"POST", "{}", []string{"application/json", "text/plain"}, true},
		{"POST", "{}", []string{"application/jsonp"}, true},
	} {
		if got := refuseType(c.method, c.types, []byte(c.body)) != nil; got != c.refused {
			t.Errorf("%s %q %q: refused %t", c.method, c.types, c.body, got)
		}
	}
}

func TestTargetURL(t *testing.T) {
	const own = "https://wallet.example/op"
	for _, c := range []struct{ resourceServer, path, query, want string }{
		{own, "/incoming-payments", "", own + "/incoming-payments"},
		{own, "/incoming-payments", "wallet-address=https%3A%2F%2Fw%2Fshop&first=1", own + "/incoming-payments?wallet-address=https%3A%2F%2Fw%2Fshop&first=1"},
		{own, "/op/incoming-payments/1", "", own + "/incoming-payments/1"}, // an id whose origin was swapped
		{own, "/incoming-payments/1/", "", own + "/incoming-payments/1"},
		{own, "/op/incoming-payments/1/", "", own + "/incoming-payments/1"},
		{own, "/incoming-payments/", "wallet-address=x", own + "/incoming-payments?wallet-address=x"},
		{own, "/incoming-payments/1//complete", "", own + "/incoming-payments/1/complete"},
		{own, "/op/incoming-payments/1//complete", "", own + "/incoming-payments/1/complete"},
		{own, "/incoming-payments/1//complete/", "", own + "/incoming-payments/1/complete"},
		{own, "/outgoing-payment-grant", "", own + "/outgoing-payment-grant"},
		{own, "/quotes/%41", "", own + "/quotes/%41"},
		{own, "/op/op/quotes", "", ""},
		{own, "/op", "", ""},
		{own, "/", "", ""},
		{own, "*", "", ""},
		{own, "/auth", "", ""},
		{own, "/auth/token/1", "", ""},
		{own, "/incoming-paymentsX", "", ""},
		{own, "//evil.example/incoming-payments", "", ""},
		{own, "/op@evil.example/quotes", "", ""},
		{"https://wallet.example", "/quotes/1", "", "https://wallet.example/quotes/1"},
		{"https://wallet.example/tenant-1", "/tenant-1/quotes/1", "", "https://wallet.example/tenant-1/quotes/1"},
		{"https://wallet.example/tenant-1", "/tenant-2/quotes/1", "", ""},
		{"https://wallet.example/quotes", "/quotes/1", "", "https://wallet.example/quotes/quotes/1"},
		{"https://wallet.example/quotes", "/quotes/quotes/1", "", "https://wallet.example/quotes/quotes/1"},
		// Vault refuses these: no path is resolved here, and none leaves the resource server unseen.
		{own, "/quotes/../auth", "", own + "/quotes/../auth"},
		{own, "/quotes/%2e%2e/auth", "", own + "/quotes/%2e%2e/auth"},
	} {
		u, ok, err := targetURL(c.resourceServer, c.path, c.query)
		got := ""
		if ok {
			got = u.String()
		}
		if err != nil || got != c.want {
			t.Errorf("%s below %s: %q, %v, want %q", c.path, c.resourceServer, got, err, c.want)
		}
		if base, _ := url.Parse(c.resourceServer); ok && u.Host != base.Host {
			t.Errorf("%s leads to %s", c.path, u.Host)
		}
	}
}
