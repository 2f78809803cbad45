// SPDX-License-Identifier: MPL-2.0

package sandbox_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// clock is a time that passes when a test says so.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// world is a sandbox with a client whose key is published.
type world struct {
	*sandbox.Server
	t     *testing.T
	clock *clock
	key   ed25519.PrivateKey
	http  *http.Client
}

const keyID = "key-1"

func newWorld(t *testing.T) *world { return newWorldWith(t, sandbox.Options{}) }

func newWorldWith(t *testing.T, o sandbox.Options) *world {
	t.Helper()
	c := &clock{now: time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)}
	o.Now = c.Now
	s, err := sandbox.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s.PublishKey(keyID, public)
	w := &world{Server: s, t: t, clock: c, key: private}
	w.http = &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return w
}

// in is the same world in a subtest.
func (w *world) in(t *testing.T) *world {
	here := *w
	here.t = t
	return &here
}

// ask is a request, and how it is signed if not as it should be.
type ask struct {
	method, url string
	token       string
	body        string

	digestOf  string              // what the digest is computed over, if not the body
	covered   []string            // what the signature covers, if not what it should
	label     string              // of the signature, if not sig1
	keyID     string              // if not the published one
	key       ed25519.PrivateKey  // if not the client's
	unsigned  bool                //
	chunked   bool                //
	setHeader map[string]string   // before signing
	afterward func(*http.Request) // after signing
}

// reply is what came back.
type reply struct {
	status int
	header http.Header
	body   string
}

// String never shows a body that may hold a token.
func (r reply) String() string {
	if r.status < 400 {
		return fmt.Sprintf("%d %s", r.status, r.header.Get("Content-Type"))
	}
	return fmt.Sprintf("%d %s %s", r.status, r.header.Get("Content-Type"), r.body)
}

func (w *world) try(a ask) (reply, error) {
	request := w.build(a)
	response, err := w.http.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, string(body)}, err
}

func (w *world) ask(a ask) reply {
	w.t.Helper()
	r, err := w.try(a)
	if err != nil {
		w.t.Fatalf("%s: %v", a.method, err)
	}
	return r
}

func (w *world) build(a ask) *http.Request {
	var body io.Reader
	if a.body != "" {
		body = strings.NewReader(a.body)
	}
	if a.chunked {
		body = io.MultiReader(body) // a reader whose length net/http does not know
	}
	request, err := http.NewRequest(a.method, a.url, body)
	if err != nil {
		panic(err)
	}
	if a.token != "" {
		request.Header.Set("Authorization", "GNAP "+a.token)
	}
	for name, value := range a.setHeader {
		request.Header.Set(name, value)
	}
	if a.body != "" && request.Header.Get("Content-Type") == "" {
		request.Header.Set("Content-Type", "application/json")
	}
	if !a.unsigned {
		w.sign(request, a)
	}
	if a.afterward != nil {
		a.afterward(request)
	}
	return request
}

// sign is the test's own signer, so that the sandbox is not judged by its own code.
func (w *world) sign(request *http.Request, a ask) {
	digestOf := a.body
	if a.digestOf != "" {
		digestOf = a.digestOf
	}
	sum := sha512.Sum512([]byte(digestOf))
	digest := "sha-512=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
	covered := a.covered
	if covered == nil {
		covered = []string{"@method", "@target-uri"}
		if request.Header.Get("Authorization") != "" {
			covered = append(covered, "authorization")
		}
		if a.body != "" {
			covered = append(covered, "content-digest", "content-length", "content-type")
		}
	}
	values := map[string]string{
		"@method": request.Method, "@target-uri": a.url, "authorization": request.Header.Get("Authorization"),
		"content-digest": digest, "content-length": fmt.Sprint(len(a.body)), "content-type": request.Header.Get("Content-Type"),
	}
	id, key, label := keyID, w.key, "sig1"
	if a.keyID != "" {
		id = a.keyID
	}
	if a.key != nil {
		key = a.key
	}
	if a.label != "" {
		label = a.label
	}
	var base strings.Builder
	for _, name := range covered {
		fmt.Fprintf(&base, "%q: %s\n", name, values[name])
		if name == "content-digest" {
			request.Header.Set("Content-Digest", digest)
		}
	}
	parameters := fmt.Sprintf(`("%s");created=%d;keyid="%s";alg="ed25519"`, strings.Join(covered, `" "`), 1785585600, id)
	fmt.Fprintf(&base, `"@signature-params": %s`, parameters)
	signature := ed25519.Sign(key, []byte(base.String()))
	request.Header.Set("Signature-Input", label+"="+parameters)
	request.Header.Set("Signature", label+"=:"+base64.StdEncoding.EncodeToString(signature)+":")
}

// granted is the answer to a grant request, a continue or a rotation.
type granted struct {
	AccessToken struct {
		Value     string            `json:"value"`
		Manage    string            `json:"manage"`
		ExpiresIn int               `json:"expires_in"`
		Access    []json.RawMessage `json:"access"`
	} `json:"access_token"`
	Continue struct {
		AccessToken struct {
			Value string `json:"value"`
		} `json:"access_token"`
		URI  string `json:"uri"`
		Wait *int   `json:"wait"`
	} `json:"continue"`
	Interact struct {
		Redirect string `json:"redirect"`
		Finish   string `json:"finish"`
	} `json:"interact"`
}

func (w *world) decode(r reply) granted {
	w.t.Helper()
	var g granted
	if r.status != http.StatusOK {
		w.t.Fatalf("got %s, want 200", r)
	}
	if err := json.Unmarshal([]byte(r.body), &g); err != nil {
		w.t.Fatal(err)
	}
	return g
}

// right is a right on alice's incoming payments.
func (w *world) right(actions string) string {
	return fmt.Sprintf(`{"type":"incoming-payment","actions":[%s],"identifier":%q}`, actions, w.WalletAddress("alice"))
}

func (w *world) grantBody(access, more string) string {
	return fmt.Sprintf(`{"access_token":{"access":[%s]},"client":%q%s}`, access, w.WalletAddress("client"), more)
}

func (w *world) requestGrant(body string) reply {
	w.t.Helper()
	return w.ask(ask{method: "POST", url: w.AuthServer(), body: body})
}

// grant gets a grant that needs nobody's consent.
func (w *world) grant() granted {
	w.t.Helper()
	return w.decode(w.requestGrant(w.grantBody(w.right(`"create","read","list","complete"`), "")))
}

// outgoing is a right on alice's outgoing payments.
func (w *world) outgoing(more string) string {
	return fmt.Sprintf(`{"type":"outgoing-payment","actions":["create","read"],"identifier":%q%s}`, w.WalletAddress("alice"), more)
}

func (w *world) rotate(g granted) ask {
	return ask{method: "POST", url: g.AccessToken.Manage, token: g.AccessToken.Value}
}

func (w *world) revoke(g granted) ask {
	return ask{method: "DELETE", url: g.AccessToken.Manage, token: g.AccessToken.Value}
}

func (w *world) poll(g granted) ask {
	return ask{method: "POST", url: g.Continue.URI, token: g.Continue.AccessToken.Value}
}

func (w *world) cancel(g granted) ask {
	return ask{method: "DELETE", url: g.Continue.URI, token: g.Continue.AccessToken.Value}
}

// want checks a status and, if body is not empty, the whole body.
func (w *world) want(r reply, status int, body string) {
	w.t.Helper()
	if r.status != status || (body != "" && r.body != body) {
		w.t.Errorf("got %s, want %d %s", r, status, body)
	}
}

func (w *world) wantText(r reply, status int) {
	w.t.Helper()
	if r.status != status || !strings.HasPrefix(r.header.Get("Content-Type"), "text/plain") {
		w.t.Errorf("got %s, want %d text/plain", r, status)
	}
}

// wantLive checks how many tokens are accepted.
func (w *world) wantLive(n int) {
	w.t.Helper()
	if got := w.LiveTokens(); got != n {
		w.t.Errorf("%d tokens live, want %d", got, n)
	}
}

func errorBody(code, description string) string {
	return fmt.Sprintf(`{"error":{"code":%q,"description":%q}}`, code, description)
}

var (
	invalidAccessToken = errorBody("invalid_client", "invalid access token")
	invalidHeaders     = errorBody("invalid_client", "invalid signature headers")
	invalidSignature   = errorBody("invalid_client", "invalid signature")
	noClient           = errorBody("invalid_client", "could not determine client")
	invalidGrant       = errorBody("invalid_continuation", "invalid grant")
)
