// SPDX-License-Identifier: MPL-2.0

package interop

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

const keyID = "interop-1"

// world is a sandbox whose exchanges are recorded, and a client whose key it knows.
type world struct {
	*testing.T
	sandbox *sandbox.Server
	record  *record
	bodies  string // the file with the bodies that TestBodies has had signed
	key     ed25519.PrivateKey
	pem     string
	passed  atomic.Int64 // how far the sandbox's clock is ahead, in nanoseconds
	meeting atomic.Pointer[sync.WaitGroup]
}

func newWorld(t *testing.T) *world {
	t.Helper()
	requireNode(t)
	w := &world{T: t, record: newRecord(t)}
	var err error
	w.sandbox, err = sandbox.Start(sandbox.Options{
		Wait: time.Second,
		Now:  func() time.Time { return time.Now().Add(time.Duration(w.passed.Load())) },
		Wrap: func(next http.Handler) http.Handler { return w.record.wrap(w.delayKeys(next)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.sandbox.Close)
	w.key = newKey(t)
	w.publishKey()
	der, err := x509.MarshalPKCS8PrivateKey(w.key)
	if err != nil {
		t.Fatal(err)
	}
	w.pem = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return w
}

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func publicOf(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

func (w *world) publishKey() { w.sandbox.PublishKey(keyID, publicOf(w.key)) }

// delayKeys makes requests that are being verified at the same time wait for each other.
func (w *world) delayKeys(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if meeting := w.meeting.Load(); meeting != nil && sandbox.Operation(r) == "keys" {
			meeting.Done()
			meeting.Wait()
		}
		next.ServeHTTP(rw, r)
	})
}

// exchange is a request as the server received it, and its response.
type exchange struct {
	Step    string            `json:"step"` // the part of the test
	Method  string            `json:"method"`
	URL     string            `json:"url"`     // the target URI, byte for byte
	Headers map[string]string `json:"headers"` // names in lower case
	Body    string            `json:"body"`
	Status  int               `json:"status"`
	Answer  answer            `json:"answer"`
}

type answer struct {
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

// record writes exchanges to a file, one JSON object per line.
type record struct {
	path string

	mu    sync.Mutex
	file  *os.File
	now   string // the step
	count int
	err   error
}

func newRecord(t *testing.T) *record {
	t.Helper()
	path := filepath.Join(t.TempDir(), "exchanges.jsonl")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600) // it contains tokens
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return &record{path: path, file: file}
}

// step sets the step of the exchanges that follow.
func (r *record) step(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = name
}

// wrap records an exchange before the client gets the response.
func (r *record) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, "/auth/interact/") { // the owner's pages, which are not in the documents
			next.ServeHTTP(w, req)
			return
		}
		body, err := io.ReadAll(req.Body)
		req.Body = io.NopCloser(bytes.NewReader(body))
		seen := httptest.NewRecorder()
		next.ServeHTTP(seen, req)
		r.add(err, exchange{
			Method: req.Method, URL: "http://" + req.Host + req.RequestURI, Headers: flat(req.Header), Body: string(body),
			Status: seen.Code, Answer: answer{flat(seen.Header()), seen.Body.String()},
		})
		for name, values := range seen.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(seen.Code)
		_, _ = w.Write(seen.Body.Bytes())
	})
}

func (r *record) add(err error, x exchange) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x.Step = r.now
	if r.err == nil {
		r.err = err
	}
	if err := json.NewEncoder(r.file).Encode(x); r.err == nil {
		r.err = err
	}
	r.count++
}

// close closes the file and returns the number of exchanges in it.
func (r *record) close(t *testing.T) int {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.file.Close(); r.err == nil {
		r.err = err
	}
	if r.err != nil {
		t.Fatalf("recording: %v", r.err)
	}
	return r.count
}

// flat joins the lines of each header (RFC 9110 section 5.2).
func flat(header http.Header) map[string]string {
	joined := make(map[string]string, len(header))
	for name, values := range header {
		joined[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	return joined
}

// requireNode fails if the packages are not installed. Nothing is skipped: a passing run must mean
// that they agree.
func requireNode(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		t.Fatal("Node.js is needed to run the official JavaScript packages; there is no node on the PATH")
	}
	if _, err := os.Stat("node_modules/@interledger/open-payments/package.json"); err != nil {
		t.Fatal("the official JavaScript packages are not installed: run `make test`, or `npm ci` in test/interop")
	}
}

var passedLine = regexp.MustCompile(`(?m)^# pass (\d+)$`)

// node runs a test file with node --test, and checks that exactly that many tests pass: with no
// tests at all, node --test would also succeed.
func (w *world) node(file string, tests int) {
	w.Helper()
	// go test caches a result until a file that this process has opened changes.
	for _, read := range []string{file, "document.mjs", "signature.mjs", "package-lock.json"} {
		if _, err := os.ReadFile(read); err != nil {
			w.Fatal(err)
		}
	}
	keyFile := filepath.Join(w.TempDir(), "key.pem")
	if err := os.WriteFile(keyFile, []byte(w.pem), 0o600); err != nil {
		w.Fatal(err)
	}
	told, err := json.Marshal(map[string]any{
		"exchanges": w.record.path,
		"bodies":    w.bodies,
		"keyFile":   keyFile,
		"keyId":     keyID,
		"publicKey": base64.RawURLEncoding.EncodeToString(publicOf(w.key)),
		"auth":      w.sandbox.AuthServer(),
		"resource":  w.sandbox.ResourceServer(),
		"alice":     w.sandbox.WalletAddress("alice"),
		"shop":      w.sandbox.WalletAddress("shop"),
		"client":    w.sandbox.WalletAddress("client"),
	})
	if err != nil {
		w.Fatal(err)
	}
	run := exec.CommandContext(w.Context(), "node", "--test", "--test-reporter=tap", file)
	run.Env = append(os.Environ(), "INTEROP="+string(told))
	output, err := run.CombinedOutput()
	if err != nil {
		w.Fatalf("node --test %s: %v\n%s", file, err, output)
	}
	passed := passedLine.FindSubmatch(output)
	if passed == nil || string(passed[1]) != strconv.Itoa(tests) {
		w.Fatalf("node --test %s: did not pass %d tests\n%s", file, tests, output)
	}
	w.Logf("node --test %s: %d tests passed", file, tests)
}
