// SPDX-License-Identifier: MPL-2.0

package httpsignatureutils

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestSignatureBytes(t *testing.T) {
	key := newKey(t)
	content := CreateContentHeaders([]byte(`{"hello": "world"}`))
	body := http.Header{
		"Content-Digest": {content.ContentDigest}, "Content-Length": {content.ContentLength},
		"Content-Type": {content.ContentType},
	}
	post, err := http.NewRequest("POST", "https://auth.example", strings.NewReader(`{"hello": "world"}`))
	if err != nil {
		t.Fatal(err)
	}
	post.Header = body
	get, err := http.NewRequest("GET", "https://rs.example:8443/a%2Fb?c=d%20e#f", nil)
	if err != nil {
		t.Fatal(err)
	}
	get.Header = http.Header{"Authorization": {"GNAP t"}, "Content-Type": {"application/json"}}

	for name, tc := range map[string]struct {
		req         *http.Request
		input, base string
	}{
		"body": {
			req: post,
			input: `("@method" "@target-uri" "content-digest" "content-length" "content-type");` +
				`created=1618884473;keyid="k \"1\"";alg="ed25519"`,
			base: `"@method": POST` + "\n" + `"@target-uri": https://auth.example/` + "\n" +
				// The body and digest of RFC 9421 section B.2's request.
				`"content-digest": sha-512=:` +
				`WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:` + "\n" +
				`"content-length": 18` + "\n" + `"content-type": application/json` + "\n",
		},
		"token, no body": {
			req:   get,
			input: `("@method" "@target-uri" "authorization");created=1618884473;keyid="k \"1\"";alg="ed25519"`,
			base: `"@method": GET` + "\n" + `"@target-uri": https://rs.example:8443/a%2Fb?c=d%20e` + "\n" +
				`"authorization": GNAP t` + "\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := createSignatureHeaders(SignOptions{Request: tc.req, PrivateKey: key, KeyID: `k "1"`},
				time.Unix(1618884473, 999))
			if err != nil {
				t.Fatal(err)
			}
			if got.SignatureInput != "sig1="+tc.input {
				t.Errorf("Signature-Input: %s", got.SignatureInput)
			}
			signature, err := base64.StdEncoding.DecodeString(got.Signature)
			if err != nil {
				t.Fatalf("not bare base64: %v", err)
			}
			if !ed25519.Verify(key.Public().(ed25519.PublicKey), []byte(tc.base+`"@signature-params": `+tc.input), signature) {
				t.Error("signature over something else")
			}
		})
	}
}

func TestCreatedIsNow(t *testing.T) {
	req, err := http.NewRequest("GET", "https://rs.example", nil)
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	got, err := CreateSignatureHeaders(SignOptions{Request: req, PrivateKey: newKey(t), KeyID: "k"})
	if err != nil {
		t.Fatal(err)
	}
	for at := before; !at.After(time.Now().Add(time.Second)); at = at.Add(time.Second) {
		params, err := signatureParams([]string{"@method", "@target-uri"}, at, "k")
		if err != nil {
			t.Fatal(err)
		}
		if got.SignatureInput == "sig1="+params {
			return
		}
	}
	t.Errorf("created is not now: %s", got.SignatureInput)
}

func TestNotSigned(t *testing.T) {
	key := newKey(t)
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header[name] = []string{value} }
	}
	for name, change := range map[string]func(*http.Request){
		"body without its headers": func(r *http.Request) {
			r.Body = http.MaxBytesReader(nil, http.NoBody, 1)
		},
		"no URL":                 func(r *http.Request) { r.URL = nil },
		"relative URL":           func(r *http.Request) { r.URL = &url.URL{Path: "/p"} },
		"opaque URL":             func(r *http.Request) { r.URL.Opaque = "//rs.example/p" },
		"host outside ASCII":     func(r *http.Request) { r.Host = "bücher.example" },
		"host with a zone":       func(r *http.Request) { r.Host = "[fe80::1%eth0]" },
		"line break in a header": header("Authorization", "GNAP t\n\"x\": y"),
		"line break in a method": func(r *http.Request) { r.Method = "GET\n" },
		"line break in a query":  func(r *http.Request) { r.URL.RawQuery = "a\nb" },
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequest("GET", "https://rs.example/p", nil)
			if err != nil {
				t.Fatal(err)
			}
			change(req)
			if _, err := CreateSignatureHeaders(SignOptions{Request: req, PrivateKey: key, KeyID: "k"}); err == nil {
				t.Error("signed")
			}
		})
	}
	req, err := http.NewRequest("GET", "https://rs.example/p", nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string]SignOptions{
		"no request":               {PrivateKey: key, KeyID: "k"},
		"no key":                   {Request: req, KeyID: "k"},
		"half a key":               {Request: req, PrivateKey: key[:32], KeyID: "k"},
		"key id outside ASCII":     {Request: req, PrivateKey: key, KeyID: "é"},
		"line break in the key id": {Request: req, PrivateKey: key, KeyID: "a\nb"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := CreateSignatureHeaders(opts); err == nil {
				t.Error("signed")
			}
		})
	}
}

func TestCreateContentHeaders(t *testing.T) {
	for body, want := range map[string]ContentHeaders{
		`{"hello": "world"}`: {
			"sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:",
			"18", "application/json"},
		"": {
			"sha-512=:z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==:",
			"0", "application/json"},
	} {
		if got := CreateContentHeaders([]byte(body)); got != want {
			t.Errorf("%s: %+v", body, got)
		}
	}
	if got := CreateContentHeaders([]byte("é")).ContentLength; got != "2" {
		t.Errorf("length of é: %s", got)
	}
}

func pkcs8(t *testing.T, key crypto.PrivateKey, blockType string) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der}))
}

func TestLoadKey(t *testing.T) {
	key := newKey(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := pkcs8(t, key, "PRIVATE KEY")
	for name, tc := range map[string]struct {
		text string
		ok   bool
	}{
		"Ed25519":        {good, true},
		"text before it": {"a comment\n" + good, true},
		"Windows' lines": {strings.ReplaceAll(good, "\n", "\r\n"), true},
		"RSA":            {pkcs8(t, rsaKey, "PRIVATE KEY"), false},
		"RSA in PKCS#1": {string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY",
			Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)})), false},
		"P-256":         {pkcs8(t, ecKey, "PRIVATE KEY"), false},
		"another label": {pkcs8(t, key, "SECRET"), false},
		"PKCS#1, relabel": {string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY",
			Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)})), false},
		"damaged":          {string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("0123456789")})), false},
		"no PEM":           {"private key", false},
		"nothing":          {"", false},
		"bare, not in PEM": {base64.StdEncoding.EncodeToString(key), false},
	} {
		t.Run(name, func(t *testing.T) {
			for form, load := range map[string]func() (ed25519.PrivateKey, error){
				"PEM": func() (ed25519.PrivateKey, error) { return LoadPEMKey(tc.text) },
				"base64": func() (ed25519.PrivateKey, error) {
					return LoadBase64Key(base64.StdEncoding.EncodeToString([]byte(tc.text)))
				},
			} {
				got, err := load()
				switch {
				case tc.ok && (err != nil || !got.Equal(key)):
					t.Errorf("%s: not loaded", form)
				case !tc.ok && (err == nil || got != nil):
					t.Errorf("%s: loaded", form)
				case !tc.ok && len(tc.text) > 20 && strings.Contains(err.Error(), tc.text[30:50]):
					t.Errorf("%s: the error holds the key", form)
				}
			}
		})
	}
	if _, err := LoadBase64Key(good); err == nil {
		t.Error("PEM taken for base64")
	}
}
