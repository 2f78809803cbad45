// SPDX-License-Identifier: MPL-2.0

package openpayments_test

import (
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

// verify checks the signature with a label as a server does, according to RFC 9421 sections 2.5 and
// 3.2 and without the package under test, and returns what it covers. The request must have been
// received over HTTP, or look like it.
func verify(r *http.Request, label string, key ed25519.PublicKey) (covered []string, err error) {
	params, ok := strings.CutPrefix(r.Header.Get("Signature-Input"), label+"=")
	if !ok || len(r.Header.Values("Signature-Input")) != 1 {
		return nil, errors.New("not one Signature-Input of that label")
	}
	list, _, ok := strings.Cut(strings.TrimPrefix(params, "("), ")")
	if !ok {
		return nil, errors.New("no list of components")
	}
	var base strings.Builder
	for _, quoted := range strings.Split(list, " ") {
		name := strings.Trim(quoted, `"`)
		covered = append(covered, name)
		var value string
		switch name {
		case "@method":
			value = r.Method
		case "@target-uri":
			value = "http://" + r.Host + r.RequestURI
		case "@authority":
			value = r.Host
		case "@path":
			value = r.URL.EscapedPath()
		default:
			if len(r.Header.Values(name)) == 0 {
				return nil, fmt.Errorf("%s is covered, but not there", name)
			}
			value = strings.Join(r.Header.Values(name), ", ")
		}
		base.WriteString(quoted + ": " + value + "\n")
	}
	base.WriteString(`"@signature-params": ` + params)

	text, ok := strings.CutPrefix(r.Header.Get("Signature"), label+"=:")
	if !ok || !strings.HasSuffix(text, ":") || len(r.Header.Values("Signature")) != 1 {
		return nil, errors.New("not one Signature of that label")
	}
	signature, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(text, ":"))
	if err != nil {
		return nil, err
	}
	if !ed25519.Verify(key, []byte(base.String()), signature) {
		return nil, errors.New("the signature is another one's, or over something else")
	}
	return covered, nil
}

// The verifier is checked with RFC 9421's test vector for Ed25519 (section B.2.6, with the key of
// section B.1.4).
func TestVerifierAgainstRFC9421(t *testing.T) {
	key, err := base64.RawURLEncoding.DecodeString("JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs")
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "http://example.com/foo?param=Value&Pet=dog", nil)
	r.Header.Set("Date", "Tue, 20 Apr 2021 02:07:55 GMT")
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Content-Length", "18")
	r.Header.Set("Signature-Input", `sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length")`+
		`;created=1618884473;keyid="test-key-ed25519"`)
	r.Header.Set("Signature",
		"sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:")
	if _, err := verify(r, "sig-b26", key); err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Length", "19")
	if _, err := verify(r, "sig-b26", key); err == nil {
		t.Fatal("a changed header passes")
	}
}

var (
	wantInput = regexp.MustCompile(`^sig1=\("[a-z@-]+"( "[a-z@-]+")*\);created=[0-9]{10,};keyid="` + keyID +
		`";alg="ed25519"$`)

	bare      = []string{"@method", "@target-uri"}
	withToken = []string{"@method", "@target-uri", "authorization"}
	withBody  = []string{"@method", "@target-uri", "content-digest", "content-length", "content-type"}
	withBoth  = []string{"@method", "@target-uri", "authorization", "content-digest", "content-length", "content-type"}
)

// seen is a request as it was received.
type seen struct {
	method, target string
	header         http.Header
	body           string
	length         int64
	chunked        bool
	covered        []string
	signature      error
}

// wallet responds to every request with status and body, and records the last one.
type wallet struct {
	*httptest.Server
	status int
	body   string
	count  int
	last   seen
}

func newWallet(t *testing.T, key ed25519.PublicKey, status int, body string) *wallet {
	t.Helper()
	w := &wallet{status: status, body: body}
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.count++
		w.last = seen{
			method: r.Method, target: r.RequestURI, header: r.Header, body: string(b),
			length: r.ContentLength, chunked: len(r.TransferEncoding) > 0,
		}
		w.last.covered, w.last.signature = verify(r, "sig1", key)
		rw.WriteHeader(w.status)
		_, _ = io.WriteString(rw, w.body)
	}))
	t.Cleanup(w.Close)
	return w
}

// check checks what is true of every signed request.
func (s seen) check(t *testing.T, covered []string) {
	t.Helper()
	if s.signature != nil {
		t.Fatalf("signature: %v", s.signature)
	}
	if got, want := strings.Join(s.covered, " "), strings.Join(covered, " "); got != want {
		t.Errorf("covered: %s, want %s", got, want)
	}
	if input := s.header.Get("Signature-Input"); !wantInput.MatchString(input) {
		t.Errorf("Signature-Input: %s", input)
	}
	if got := s.header.Get("Accept"); got != "application/json" {
		t.Errorf("Accept: %q", got)
	}
	if s.chunked {
		t.Error("the body came in chunks")
	}
	if s.body == "" {
		for _, name := range []string{"Content-Digest", "Content-Type"} {
			if s.header.Get(name) != "" {
				t.Errorf("%s without a body", name)
			}
		}
		return
	}
	sum := sha512.Sum512([]byte(s.body))
	if got, want := s.header.Get("Content-Digest"),
		"sha-512=:"+base64.StdEncoding.EncodeToString(sum[:])+":"; got != want {
		t.Errorf("Content-Digest: %s, want %s", got, want)
	}
	if got, want := s.header.Get("Content-Length"), fmt.Sprint(len(s.body)); got != want {
		t.Errorf("Content-Length: %s, want %s", got, want)
	}
	if got := s.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type: %q", got)
	}
}
