// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jonboulle/clockwork"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

const walletDocument = `{"id":"https://example.com/client","authServer":"https://example.com/auth"}`

// proxy is an HTTP proxy that connects wherever the test wants.
type proxy struct {
	*httptest.Server

	mu     sync.Mutex
	to     string // where it connects, whatever it is asked for; empty: where it is asked to
	status int    // what it answers instead of connecting; 0: it connects
	asked  []string
	auth   string
}

func startProxy(t *testing.T, secured bool) *proxy {
	t.Helper()
	p := &proxy{}
	p.Server = httptest.NewUnstartedServer(p)
	p.Config.ErrorLog = log.New(io.Discard, "", 0)
	if secured {
		p.StartTLS()
	} else {
		p.Start()
	}
	t.Cleanup(p.Close)
	return p
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, req.Method+" "+req.Host)
	p.auth = req.Header.Get("Proxy-Authorization")
	to, status := p.to, p.status
	p.mu.Unlock()
	if status != 0 {
		http.Error(w, "s3cr3t", status)
		return
	}
	if to == "" {
		to = req.Host
	}
	server, err := net.Dial("tcp", to)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	w.WriteHeader(http.StatusOK)
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = server.Close()
		return
	}
	var up sync.WaitGroup
	up.Go(func() { pass(server, buffered) })
	pass(client, server)
	up.Wait()
	_, _ = client.Close(), server.Close()
}

// pass copies until the end, and passes that on as well.
func pass(to net.Conn, from io.Reader) {
	_, _ = io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// requests returns what the proxy was asked for since the last call.
func (p *proxy) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := p.asked
	p.asked = nil
	return asked
}

// set changes what the proxy does.
func (p *proxy) set(to string, status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to, p.status = to, status
}

// with returns the proxy's URL with a user.
func (p *proxy) with(user *url.Userinfo) string {
	u, _ := url.Parse(p.URL)
	u.User = user
	return u.String()
}

func pemOfCertificate(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: certificateLabel, Bytes: c.Raw}))
}

// walletServer starts a TLS server that answers everything with a wallet document. Its certificate is
// for example.com too, and the one of TLS proxies.
func walletServer(t *testing.T) (address, ca string) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, walletDocument)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), pemOfCertificate(server.Certificate())
}

// D6: names go to the proxy as they are, and the proxy gets its user name and password.
func TestProxy(t *testing.T) {
	address, ca := walletServer(t)
	for name, secured := range map[string]bool{"http": false, "https": true} {
		t.Run(name, func(t *testing.T) {
			p := startProxy(t, secured)
			p.set(address, 0)
			c, _ := clientAt(t, "https://example.com/client")
			c.CACert, c.EgressProxy = ca, p.with(url.UserPassword("u", "p@ss/word"))
			doc, err := c.Wallet(context.Background(), "https://example.com/client")
			if err != nil || doc.AuthServer != "https://example.com/auth" {
				t.Fatal(err)
			}
			req := http.Request{Header: http.Header{"Authorization": {p.auth}}}
			user, password, _ := strings.Cut(p.auth, " ")
			if user != "Basic" || password == "" {
				t.Errorf("Proxy-Authorization: %s", user)
			}
			if user, password, _ := req.BasicAuth(); user != "u" || password != "p@ss/word" {
				t.Errorf("the proxy got other credentials")
			}
			if asked := p.requests(); len(asked) != 1 || asked[0] != "CONNECT example.com:443" {
				t.Errorf("%v", asked)
			}
		})
	}
}

// What no operator typed is refused by name, because the address that the proxy connects to is not
// known here. The proxy itself may be anywhere, and its host is not typed as a server's.
func TestReachThroughProxy(t *testing.T) {
	address, ca := walletServer(t)
	p := startProxy(t, false)
	p.set(address, 0)
	c, _ := clientAt(t, "https://wallet.internal/client")
	c.CACert, c.EgressProxy = ca, p.URL
	_, port, _ := net.SplitHostPort(p.Listener.Addr().String())
	for _, host := range []string{
		"127.0.0.1", "127.0.0.1:" + port, "[::1]", "10.0.0.7", "169.254.169.254", "[fd00::7]", "[::ffff:10.0.0.7]", "localhost",
		"LOCALHOST", "localhost.", "a.localhost", "127.1", "2130706433", "0x7f000001", "0x7f.1", "10.7.", "127.0.0.1.", "metadata",
		"vault", "metadata.google.internal", "printer.local", "nas.home.arpa", "router.lan", "vault.corp", "localhost.localdomain",
	} {
		f, ok := c.Rotate(context.Background(), "https://"+host+"/token/1", "t").(RequestFailed)
		if u, _ := url.Parse("https://" + host + "/"); !ok || !errors.Is(f.Rule, errNotPublic) || c.CheckReach(u) == nil {
			t.Errorf("%s: %v", host, f)
		}
	}
	if asked := p.requests(); len(asked) != 0 {
		t.Errorf("the proxy was asked for %v", asked)
	}
	for _, host := range []string{"wallet.internal", "example.com", "93.184.216.34", "local.example.com", "1.example.com"} {
		if f, ok := c.Rotate(context.Background(), "https://"+host+"/token/1", "t").(RequestFailed); ok && f.Rule != nil {
			t.Errorf("%s: %v", host, f)
		}
	}
	if asked := p.requests(); len(asked) != 5 {
		t.Errorf("the proxy was asked for %v", asked)
	}
}

// Plain http is for this machine's loopback, which no proxy can reach.
func TestLoopbackIsReachedDirectly(t *testing.T) {
	c, server := answering(t, http.StatusOK, "application/json", walletDocument)
	c.EgressProxy = "http://" + closedPort(t)
	if _, err := c.Wallet(context.Background(), server+"/client"); err != nil {
		t.Error(err)
	}
}

// Connections that were made through one proxy, or without one, serve no request that is to go
// through another.
func TestProxyIsChanged(t *testing.T) {
	address, ca := walletServer(t)
	clock := clockwork.NewRealClock()
	network := NewNetwork(clock)
	c, _ := clientAt(t, "https://"+address+"/client")
	c.network, c.CACert = network, ca
	first, second := startProxy(t, false), startProxy(t, false)
	for _, row := range []struct {
		proxy         string
		first, second int
	}{{"", 0, 0}, {first.URL, 1, 0}, {first.URL, 0, 0}, {second.URL, 0, 1}, {"", 0, 0}, {first.URL, 1, 0}} {
		c.EgressProxy = row.proxy
		if _, err := c.Wallet(context.Background(), c.WalletAddress); err != nil {
			t.Fatal(err)
		}
		if a, b := len(first.requests()), len(second.requests()); a != row.first || b != row.second {
			t.Errorf("%+v: %d and %d connections", row, a, b)
		}
	}
}

// A proxy that does not connect is told as the proxy's trouble, without its credentials and words.
// Nothing was sent to the server.
func TestProxyTrouble(t *testing.T) {
	address, _ := walletServer(t)
	p := startProxy(t, false)
	credentials := url.UserPassword("s3cr3t", "s3cr3t")
	for _, row := range []struct {
		status int
		user   *url.Userinfo
		words  string
	}{
		{407, nil, "answered 407 to CONNECT; write egress_proxy of config with the user name and password that it wants"},
		{407, credentials, "answered 407 to CONNECT; correct the user name and password in egress_proxy of config"},
		{403, credentials, "answered 403 to CONNECT; it has to allow this host and port"},
		{502, credentials, "answered 502 to CONNECT, because it could not connect to the server itself"},
		{302, credentials, "answered 302 to CONNECT; it may not be an HTTP proxy"},
		{204, nil, "answered 204 to CONNECT; it may not be an HTTP proxy"},
	} {
		p.set("", row.status)
		c, _ := clientAt(t, "https://wallet.example/client")
		c.EgressProxy = p.with(row.user)
		f, ok := c.Rotate(context.Background(), "https://wallet.example/token/s3cr3t", "t").(RequestFailed)
		want := "https://wallet.example could not be reached: the proxy " + p.URL + " " + row.words
		if !ok || f.Status != 0 || f.MaybeHeard() || f.Timeout || f.Error() != want {
			t.Errorf("%v", f)
		}
	}
	secured := startProxy(t, true)
	for proxy, words := range map[string]string{
		"http://s3cr3t:s3cr3t@" + closedPort(t):                          "connection refused",
		"https://s3cr3t@" + closedPort(t):                                "connection refused",
		secured.with(credentials):                                        "ca_cert of config",
		strings.Replace(secured.with(credentials), "https:", "http:", 1): "closed without an answer; check the scheme",
		strings.Replace(p.with(credentials), "http:", "https:", 1):       "speaks plain HTTP",
		"http://s3cr3t@" + listening(t, resetting):                       "the connection was reset",
		"http://s3cr3t@" + listening(t, saying("")):                      "the connection was closed",
		"http://s3cr3t@" + listening(t, saying("SSH-2.0-s3cr3t\r\n")):    "not HTTP/1.1",
		"https://s3cr3t@" + listening(t, saying("SSH-2.0-s3cr3t\r\n")):   "does not speak TLS",
	} {
		c, _ := clientAt(t, "https://wallet.example/client")
		c.EgressProxy = proxy
		f, ok := c.Rotate(context.Background(), "https://wallet.example/token/s3cr3t", "t").(RequestFailed)
		if text := f.Error(); !ok || f.MaybeHeard() || !strings.Contains(text, words) || !strings.Contains(text, "the proxy http") ||
			strings.Contains(text, "s3cr3t") || strings.Contains(text, "egress_proxy") {
			t.Errorf("%s\ndoes not say %q", text, words)
		}
	}
	// Trouble behind the proxy is the server's.
	p.set(address, 0)
	c, _ := clientAt(t, "https://example.com/client")
	c.EgressProxy = p.URL
	f, ok := c.Rotate(context.Background(), "https://example.com/token/1", "t").(RequestFailed)
	if text := f.Error(); !ok || f.MaybeHeard() || !strings.Contains(text, "ca_cert") || strings.Contains(text, p.URL) {
		t.Errorf("%s", text)
	}
	p.set(listening(t, saying("")), 0)
	f, ok = c.Rotate(context.Background(), "https://example.com/token/1", "t").(RequestFailed)
	if text := f.Error(); !ok || f.MaybeHeard() || !strings.Contains(text, "closed during the TLS handshake") || strings.Contains(text, p.URL) {
		t.Errorf("%s", text)
	}
}

// A proxy that does not answer CONNECT is the one that is named.
func TestSilentProxy(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	address := listening(t, func(conn *net.TCPConn) {
		_, _ = conn.Read(make([]byte, 4096))
		close(arrived)
		<-release
		_ = conn.Close()
	})
	defer close(release)
	c, clock := clientAt(t, "https://wallet.example/client")
	c.EgressProxy = "http://" + address
	out := make(chan Outcome)
	go func() { out <- c.Rotate(context.Background(), "https://wallet.example/token/1", "t") }()
	<-arrived
	clock.Advance(AnswerTimeout)
	f, ok := (<-out).(RequestFailed)
	if !ok || !f.Timeout || f.MaybeHeard() || !strings.Contains(f.Error(), "the proxy http://"+address+" could not be used: no answer in time") {
		t.Errorf("%v", f)
	}
}

func TestParseProxy(t *testing.T) {
	for s, want := range map[string]string{
		"": "", " \r\n": "",
		"http://proxy.example:3128":              "http://proxy.example:3128",
		"\ufeff'HTTP://Proxy.Example:3128/'\r\n": "http://proxy.example:3128",
		"https://proxy.example":                  "https://proxy.example",
		"http://10.0.0.7:8080":                   "http://10.0.0.7:8080",
		"http://[fd00::7]:8080":                  "http://[fd00::7]:8080",
		"http://proxy:3128":                      "http://proxy:3128",
		"http://u@proxy:3128":                    "http://u@proxy:3128",
		"http://u:p%40ss@proxy:3128":             "http://u:p%40ss@proxy:3128",
		"http://u:xxxxx@proxy:3128":              "http://u:s3cr3t@proxy:3128", // as it is read
	} {
		got, err := ParseProxy(s, "http://u:s3cr3t@proxy:3128")
		if err != nil || got != want {
			t.Errorf("%q: %q %v", s, got, err)
		}
		if again, err := ParseProxy(RedactProxy(got), got); err != nil || again != got {
			t.Errorf("what is read of %q is not what is stored: %q %v", got, again, err)
		}
	}
	for s, words := range map[string]string{
		"proxy.s3cr3t:3128":               "such as http://proxy.example:3128",
		"10.3.3.3:3128":                   "such as http://proxy.example:3128",
		"s3cr3t":                          "such as http",
		"socks5://s3cr3t:1080":            "must begin with http",
		"http://u:s3cr#t@proxy:3128":      "percent-encoded",
		"http://u:s3cr/t@proxy:3128":      "percent-encoded",
		"http://u:s3cr t@proxy:3128":      "percent-encoded",
		"http://u:s3cr%t@proxy:3128":      "percent-encoded",
		"http://proxy:s3cr3t":             "such as http",
		"http://proxy:0":                  "such as http",
		"http://proxy:3128/s3cr3t":        "such as http",
		"http://proxy:3128?s3cr3t":        "such as http",
		"http://:3128":                    "such as http",
		"http:s3cr3t":                     "such as http",
		"$S3CR3T":                         "such as http",
		"http://u:xxxxx@proxy:3129":       "placeholder",
		"http://another:xxxxx@proxy:3128": "placeholder",
	} {
		got, err := ParseProxy(s, "http://u:s3cr3t@proxy:3128")
		if err == nil || got != "" || !strings.Contains(err.Error(), words) || strings.Contains(strings.ToLower(err.Error()), "s3cr") {
			t.Errorf("%q: %q %v", s, got, err)
		}
	}
	if text := RedactProxy("http://u:s3cr3t@proxy:3128"); text != "http://u:xxxxx@proxy:3128" {
		t.Errorf("%s", text)
	}
	// What cannot be read sends nothing, and nothing past the proxy.
	c, _ := clientAt(t, "https://127.0.0.1/client")
	c.EgressProxy = "http://u:s3cr%t@proxy"
	if f, ok := c.Rotate(context.Background(), "https://127.0.0.1/token/1", "t").(RequestFailed); !ok || f.MaybeHeard() || strings.Contains(f.Error(), "s3cr") {
		t.Errorf("%v", f)
	}
}

// tinyproxy starts Debian's tinyproxy, which takes a user name and a password, and returns its host
// and port. It connects to the given ports only.
func tinyproxy(t *testing.T, user, password string, ports ...string) string {
	t.Helper()
	program, err := exec.LookPath("tinyproxy")
	if err != nil {
		t.Fatal("tinyproxy is needed and not on the PATH. On Debian: apt-get install tinyproxy-bin")
	}
	address := closedPort(t)
	_, port, _ := net.SplitHostPort(address)
	text := fmt.Sprintf("Port %s\nListen 127.0.0.1\nMaxClients 20\nTimeout 60\nLogLevel Info\nBasicAuth %s %s\n", port, user, password)
	for _, to := range ports {
		text += "ConnectPort " + to + "\n"
	}
	file := filepath.Join(t.TempDir(), "tinyproxy.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program, "-d", "-c", file)
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	command.Stderr = command.Stdout
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	var said strings.Builder
	for lines := bufio.NewScanner(output); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), "Accepting connections") {
			go func() { _, _ = io.Copy(io.Discard, output) }()
			return address
		}
	}
	t.Fatalf("tinyproxy does not run:\n%s", said.String())
	return ""
}

// D6, with a proxy as people have it: a grant's whole life goes through it.
func TestTinyproxy(t *testing.T) {
	wallet, err := sandbox.Start(sandbox.Options{TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	defer wallet.Close()
	origin, err := url.Parse(wallet.URL())
	if err != nil {
		t.Fatal(err)
	}
	closed := closedPort(t)
	_, closedNumber, _ := net.SplitHostPort(closed)
	proxy := tinyproxy(t, "vault", "s3cr3t", origin.Port(), closedNumber)

	c, _ := clientAt(t, wallet.WalletAddress("client"))
	c.CACert, c.EgressProxy = string(wallet.CertificatePEM()), "http://vault:s3cr3t@"+proxy
	key, err := parsePrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	wallet.PublishKey(c.KeyID, key.Public().(ed25519.PublicKey)) //nolint:forcetypeassert // of an Ed25519 key
	ctx := context.Background()
	if published, err := c.KeyPublished(ctx); err != nil || !published {
		t.Fatal(published, err)
	}
	asked := c.RequestGrant(ctx, wallet.AuthServer(), json.RawMessage(`[{"type":"incoming-payment","actions":["read"]}]`), nil)
	granted, ok := asked.(TokenIssued)
	if !ok {
		t.Fatal(asked)
	}
	rotated, ok := c.Rotate(ctx, granted.Manage, granted.Value).(TokenIssued)
	if !ok || rotated.Value == granted.Value {
		t.Fatal("not rotated")
	}
	if err := c.Cancel(ctx, granted.Continue); err != nil || wallet.LiveTokens() != 0 {
		t.Error(err)
	}

	// The sandbox is on loopback: only because its host was typed.
	stranger, _ := clientAt(t, "https://wallet.example/client")
	stranger.CACert, stranger.EgressProxy = c.CACert, c.EgressProxy
	var f RequestFailed
	if _, err := stranger.Wallet(ctx, wallet.WalletAddress("shop")); !errors.As(err, &f) || !errors.Is(f.Rule, errNotPublic) {
		t.Errorf("%v", err)
	}
	for what, row := range map[string]struct{ proxy, target, words string }{
		"no credentials":    {"http://" + proxy, wallet.URL(), "answered 407 to CONNECT; write egress_proxy"},
		"wrong credentials": {"http://vault:s3cr3t2@" + proxy, wallet.URL(), "answered 401 to CONNECT; correct the user name"},
		"port not allowed":  {c.EgressProxy, "https://127.0.0.1:1", "answered 403 to CONNECT"},
		"nothing there":     {c.EgressProxy, "https://" + closed, "answered 500 to CONNECT"},
	} {
		c.EgressProxy = row.proxy
		f, ok := c.Rotate(ctx, row.target+"/token/1", "t").(RequestFailed)
		if text := f.Error(); !ok || f.MaybeHeard() || !strings.Contains(text, row.words) || strings.Contains(text, "s3cr3t") {
			t.Errorf("%s: %s", what, text)
		}
	}
}
