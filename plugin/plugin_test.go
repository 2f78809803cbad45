// SPDX-License-Identifier: MPL-2.0

package plugin

import (
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
)

func TestArguments(t *testing.T) {
	for _, row := range []struct {
		args   []string
		status int
		stdout string
		stderr string
	}{
		{args: []string{"-version"}, stdout: Version + "\n"},
		{args: []string{"-help"}, stderr: "-version"},
		{args: []string{"-verson"}, status: 2, stderr: "-verson"},
	} {
		var stdout, stderr strings.Builder
		status := Main(row.args, &stdout, &stderr)
		if status != row.status || stdout.String() != row.stdout || !strings.Contains(stderr.String(), row.stderr) {
			t.Errorf("%v: status %d, stdout %q, stderr %q", row.args, status, stdout.String(), stderr.String())
		}
	}
}

// B8: net/http logs the answer that a server sends twice, token and all.
func TestAnswersSentTwiceAreNotLogged(t *testing.T) {
	var logged lockedBuilder
	log.SetOutput(&logged)
	defer log.SetOutput(os.Stderr)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4096))
			answer := "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ns3cr3t"
			_, _ = io.WriteString(conn, answer+answer)
		}
	}()
	get := func() {
		transport := &http.Transport{}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+listener.Addr().String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		transport.CloseIdleConnections()
	}
	for get(); !strings.Contains(logged.String(), "s3cr3t"); get() { // it is logged by another goroutine
		runtime.Gosched()
	}
	discardStandardLog()
	if log.Writer() != io.Discard {
		t.Error("the standard logger still writes")
	}
}

type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Vault enables no plugin with another form of version.
func TestVersionHasVaultsForm(t *testing.T) {
	if !regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`).MatchString(Version) {
		t.Errorf("Version is %q, not vX.Y.Z", Version)
	}
}
