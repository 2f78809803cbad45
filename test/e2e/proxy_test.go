// SPDX-License-Identifier: MPL-2.0

//go:build linux

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// payProxy is a running open-payments-proxy.
type payProxy struct {
	*engine
	url, admin string
	secret     string // of the callers; empty if none is demanded
	process    *exec.Cmd
	exited     chan struct{} // closed at the end of its log

	mu  sync.Mutex
	log strings.Builder
}

var proxyListening = regexp.MustCompile(`listening: address=(\S+) .*admin=(\S+)`)

// startPayProxy starts the program with only the user's token, and waits until it listens.
func (e *engine) startPayProxy(program, token string, args ...string) *payProxy {
	e.t.Helper()
	dir := e.t.TempDir()
	p := &payProxy{engine: e, exited: make(chan struct{})}
	caller := filepath.Join(dir, "caller")
	args = append(args, "-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0")
	if !slices.Contains(args, "-no-caller-secret") {
		args = append(args, "-caller-file", caller)
	}
	p.process = exec.Command(program, args...)
	p.process.Env = []string{"HOME=" + dir, "VAULT_ADDR=" + e.Address}
	if token != "" {
		p.process.Env = append(p.process.Env, "VAULT_TOKEN="+token)
	}
	stderr, err := p.process.StderrPipe()
	if err != nil {
		e.t.Fatal(err)
	}
	if err := p.process.Start(); err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() {
		_ = p.process.Process.Kill()
		if e.t.Failed() {
			e.t.Logf("the proxy's log:\n%s", p.said())
		}
	})
	listening := make(chan []string, 1)
	go func() {
		defer close(p.exited)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			p.mu.Lock()
			p.log.WriteString(lines.Text() + "\n")
			p.mu.Unlock()
			if found := proxyListening.FindStringSubmatch(lines.Text()); found != nil {
				listening <- found
			}
		}
	}()
	select {
	case found := <-listening:
		p.url, p.admin = found[1], found[2]
	case <-p.exited:
		e.t.Fatalf("the proxy exits: %s", p.said())
	}
	if secret, err := os.ReadFile(caller); err == nil {
		p.secret = string(secret)
	}
	return p
}

func (p *payProxy) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// pay creates an incoming payment as any program does, and returns the answer's status and text. It is
// safe for concurrent use.
func (p *payProxy) pay(name string) (int, string, error) {
	body := fmt.Sprintf(`{"walletAddress":%q}`, p.wallet.WalletAddress("shop"))
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, p.url+"/incoming-payments", strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "GNAP "+name+"."+p.secret)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// stop sends SIGTERM, and checks that the program exits with status 0 and has told no secret.
func (p *payProxy) stop() {
	p.t.Helper()
	if err := p.process.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	<-p.exited
	if err := p.process.Wait(); err != nil {
		p.t.Errorf("the proxy exits with %v:\n%s", err, p.said())
	}
	p.checkNoSecret("the proxy's log", p.said())
	if p.secret != "" && strings.Contains(p.said(), p.secret) {
		p.t.Error("the proxy's log contains the callers' secret")
	}
}

// Under load, the Vault token in the file is replaced and the old one revoked, again and again, which
// ends its leases too: no request is finally refused. Then the proxy stops: requests in progress
// finish, no lease is left, and the role's grant is cancelled.
func TestProxyUnderLoad(t *testing.T) {
	t.Parallel()
	p := startWithPolicies(t)
	role := strings.ReplaceAll(p.exampleFile(filepath.Join("policies", "application.hcl")), "op/token/shop-income", "op/creds/till")
	role = strings.ReplaceAll(role, "op/sign/shop-income", "op/creds/till/sign")
	if err := p.vault.Sys().PutPolicy("till", role); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "vault-token")
	replace := func(token string) {
		if err := os.WriteFile(file+".next", []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".next", file); err != nil {
			t.Fatal(err)
		}
	}
	old := p.Token("application", "till")
	replace(old)
	proxy := p.startPayProxy(buildCommand(t, "open-payments-proxy"), "", "-grant", "shop-income", "-role", "till", "-token-file", file,
		"-wait", "1m") // a loaded machine is slow, and only refusals are looked for
	p.eventually("readiness", func() bool { return proxy.ready() })

	var done, refused atomic.Int64
	stopping := make(chan struct{})
	var callers sync.WaitGroup
	for i := range 6 {
		callers.Go(func() {
			for {
				select {
				case <-stopping:
					return
				default:
				}
				status, text, err := proxy.pay([]string{"shop-income", "till"}[i%2])
				if err != nil || status != http.StatusCreated {
					refused.Add(1)
					t.Errorf("%d %s %v", status, text, err)
				}
				done.Add(1)
			}
		})
	}
	for range 5 {
		before := done.Load()
		p.eventually("payments", func() bool { return done.Load() > before+20 || t.Failed() })
		next := p.Token("application", "till")
		replace(next)
		if err := p.vault.Auth().Token().RevokeTree(old); err != nil {
			t.Fatal(err)
		}
		old = next
	}
	before := done.Load()
	p.eventually("payments", func() bool { return done.Load() > before+20 || t.Failed() })
	close(stopping)
	callers.Wait()
	t.Logf("%d payments, %d refused", done.Load(), refused.Load())
	proxy.stop()
	p.checkLeaseCount(0)
	if left, err := p.vault.Logical().List("sys/leases/lookup/op/creds/till"); err != nil || left != nil {
		t.Errorf("leases of the role are left: %v, %v", left, err)
	}
}

// ready reports whether the proxy's probe says so.
func (p *payProxy) ready() bool {
	resp, err := http.Get(p.admin + "/readyz")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// Two proxies on one grant that is not shared are in each other's way: each logs it, and neither
// makes the server rotate more than once a second. Requests go on.
func TestTwoProxiesOnOneGrant(t *testing.T) {
	t.Parallel()
	p := startWithPolicies(t)
	program := buildCommand(t, "open-payments-proxy")
	token := p.Token("application")
	proxies := []*payProxy{p.startPayProxy(program, token, "-grant", "shop-income"), p.startPayProxy(program, token, "-grant", "shop-income")}
	rotations := p.countRequests("rotate")
	begun := time.Now()
	for time.Since(begun) < 4*time.Second {
		for _, proxy := range proxies {
			if status, text, err := proxy.pay("shop-income"); err != nil || status != http.StatusCreated {
				t.Errorf("%d %s %v", status, text, err)
			}
		}
	}
	if n, limit := rotations(), 2*(int(time.Since(begun).Seconds())+2); n < 4 || n > limit {
		t.Errorf("%d rotations in %s, want at most %d", n, time.Since(begun), limit)
	}
	for _, proxy := range proxies {
		if n := strings.Count(proxy.said(), "another reader"); n != 1 {
			t.Errorf("%d lines about another reader", n)
		}
		proxy.stop()
	}
}

// A page in a real browser tries to pay through a proxy that demands no secret: across origins, with a
// form, and with a name of its own that resolves to the proxy (DNS rebinding). Nothing gets through.
func TestBrowserCannotPay(t *testing.T) {
	t.Parallel()
	p := startWithPolicies(t)
	proxy := p.startPayProxy(buildCommand(t, "open-payments-proxy"), p.Token("application"), "-grant", "shop-income", "-no-caller-secret")
	tab := openBrowser(t, chromedp.Flag("host-resolver-rules", "MAP *.example 127.0.0.1"))
	resource := p.countRequests("resource")

	attacker := startRebinding(t, strings.TrimPrefix(proxy.url, "http://"))
	page := attacker.page(fmt.Sprintf(attack, proxy.url, p.wallet.WalletAddress("shop")))
	tab.open(page)
	tried := do(tab, "attack across origins", chromedp.Evaluate[int](`across()`, chromedp.EvalAwaitPromise))
	attacker.rebind()
	tried += do(tab, "attack after DNS rebinding", chromedp.Evaluate[int](`rebound()`, chromedp.EvalAwaitPromise))

	refused := strings.Count(proxy.said(), "error=browser") + strings.Count(proxy.said(), "error=not_loopback")
	if n := strings.Count(proxy.said(), "error=not_loopback"); n == 0 {
		t.Error("no request came by DNS rebinding")
	}
	if refused < tried || resource() != 0 {
		t.Errorf("%d ways were tried and %d requests refused; the wallet received %d:\n%s", tried, refused, resource(), proxy.said())
	}
	if status, text, err := proxy.pay("shop-income"); err != nil || status != http.StatusCreated {
		t.Errorf("the same request of a program: %d %s %v", status, text, err)
	}
	proxy.stop()
}

// attack is a page's script. Each function returns how many requests of it must have reached the
// proxy and been refused: preflights, where the browser asks first, among them.
const attack = `<!doctype html><script>
const proxy = %q, body = JSON.stringify({ walletAddress: %q })
const json = { 'Content-Type': 'application/json' }, text = { 'Content-Type': 'text/plain' }
const ways = async (base, options) => {
	const list = base + '/incoming-payments?wallet-address=x'
	let tried = 0
	for (const [url, init] of [
		[list, {}], [list, { headers: { Authorization: 'GNAP shop-income' } }],
		...[json, text, {}].map(headers => [base + '/incoming-payments', { method: 'POST', headers, body }]),
		[base + '/incoming-payments', { method: 'POST', headers: text, body, keepalive: true }]
	]) {
		tried++
		try { await fetch(url, { ...init, ...options }) } catch {}
	}
	return tried
}
async function across() {
	let tried = await ways(proxy, { mode: 'cors' })
	try { await fetch(proxy + '/incoming-payments', { method: 'POST', mode: 'no-cors', headers: text, body }) } catch {}
	tried++
	const frame = document.createElement('iframe')
	frame.name = 'frame'
	document.body.append(frame)
	for (const enctype of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data']) {
		const form = document.createElement('form')
		Object.assign(form, { method: 'POST', enctype, action: proxy + '/incoming-payments', target: 'frame' })
		const field = document.createElement('input')
		Object.assign(field, { type: 'hidden', name: body.slice(0, -1) + ',"x":"', value: '"}' })
		form.append(field)
		document.body.append(form)
		const loaded = new Promise(resolve => frame.addEventListener('load', resolve, { once: true }))
		form.submit()
		await loaded
		tried++
	}
	const image = new Image()
	const failed = new Promise(resolve => { image.onerror = resolve })
	image.src = proxy + '/incoming-payments?wallet-address=x'
	await failed
	return tried + 1
}
const rebound = () => ways('', {})
</script><body>`

// rebinding is an attacker's web server, whose name resolves to the proxy once rebind has been called:
// from then on it passes every byte on to the proxy, which is where the browser would connect to.
type rebinding struct {
	t        *testing.T
	listener net.Listener
	to       string
	rebound  atomic.Bool
	html     string
}

func startRebinding(t *testing.T, to string) *rebinding {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rebinding{t: t, listener: listener, to: to}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go r.serve(connection)
		}
	}()
	return r
}

// page returns the URL of a page of the attacker's.
func (r *rebinding) page(html string) string {
	r.html = html
	_, port, _ := net.SplitHostPort(r.listener.Addr().String())
	return "http://attacker.example:" + port + "/"
}

func (r *rebinding) rebind() { r.rebound.Store(true) }

func (r *rebinding) serve(connection net.Conn) {
	defer connection.Close()
	if r.rebound.Load() {
		upstream, err := net.Dial("tcp", r.to)
		if err != nil {
			return
		}
		defer upstream.Close()
		go io.Copy(upstream, connection)
		_, _ = io.Copy(connection, upstream)
		return
	}
	request, err := http.ReadRequest(bufio.NewReader(connection))
	if err != nil {
		return
	}
	status := "200 OK"
	if request.URL.Path != "/" {
		status = "404 Not Found"
	}
	fmt.Fprintf(connection, "HTTP/1.1 %s\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		status, len(r.html), r.html)
}

// systemd accepts the example, with the program where it is here.
func TestSystemdUnit(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "examples", "systemd", "open-payments-proxy.service"))
	if err != nil {
		t.Fatal(err)
	}
	const installed = "/usr/local/bin/open-payments-proxy"
	unit := strings.ReplaceAll(string(text), installed, buildCommand(t, "open-payments-proxy"))
	if unit == string(text) {
		t.Fatalf("the unit does not run %s", installed)
	}
	file := filepath.Join(t.TempDir(), "open-payments-proxy.service")
	if err := os.WriteFile(file, []byte(unit), 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := exec.Command("systemd-analyze", "verify", "--man=no", file).CombinedOutput()
	if err != nil || strings.Contains(string(said), filepath.Base(file)) {
		t.Errorf("%v\n%s", err, said)
	}
}
