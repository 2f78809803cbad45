//go:build sdks

// SPDX-License-Identifier: MPL-2.0

package sdks

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// recorded is a request as a client sends it.
type recorded struct {
	does   string // what it is for
	status int    // of the answer
	name   string // what the id in the answer is known by in later requests; empty: it is not needed
	text   string // the message, with variables in double braces
}

// Such a line stands before each request: "### create a quote: 201 quote".
var recordedTitle = regexp.MustCompile(`(?m)^### (.+): (\d{3}) ?(\w*)\n`)

// readRecorded reads a file of requests. Lines that begin with # before the first request are
// comments.
func readRecorded(t *testing.T, file string) (requests []recorded) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(content)
	titles := recordedTitle.FindAllStringSubmatchIndex(text, -1)
	for i, at := range titles {
		end := len(text)
		if i+1 < len(titles) {
			end = titles[i+1][0]
		}
		status, err := strconv.Atoi(text[at[4]:at[5]])
		if err != nil {
			t.Fatal(err)
		}
		requests = append(requests, recorded{text[at[2]:at[3]], status, text[at[6]:at[7]], text[at[1]:end]})
	}
	return requests
}

// Requests of clients that cannot be built here are sent as their sources make them.
func (w *world) testRecordedRequests(t *testing.T) {
	files, err := filepath.Glob("testdata/*.http")
	if err != nil || len(files) != 4 {
		t.Fatalf("%d files, not 4: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".http"), func(t *testing.T) {
			variables := w.variables(t)
			requests := readRecorded(t, file)
			if len(requests) < 8 {
				t.Fatalf("only %d requests", len(requests))
			}
			for _, r := range requests {
				status, answer := w.exchange(t, r.message(variables))
				if status != r.status {
					t.Fatalf("%s: %d %s, not %d", r.does, status, answer, r.status)
				}
				if r.name == "" {
					continue
				}
				var created struct{ ID string }
				if err := json.Unmarshal(answer, &created); err != nil {
					t.Fatal(err)
				}
				path, err := url.Parse(created.ID)
				if err != nil {
					t.Fatal(err)
				}
				variables["{{"+r.name+"}}"], variables["{{"+r.name+".path}}"] = created.ID, path.Path
			}
			w.checkPaid(t, []string{variables["{{invoice}}"], variables["{{payment}}"], variables["{{unpaid}}"]})
		})
	}
}

// variables returns what stands for the variables in a request.
func (w *world) variables(t *testing.T) map[string]string {
	t.Helper()
	proxy, err := url.Parse(w.proxy)
	if err != nil {
		t.Fatal(err)
	}
	shop, alice := w.address("shop"), w.address("alice")
	return map[string]string{
		"{{proxy}}": proxy.Host, "{{secret}}": w.secret(t), "{{shop}}": shop, "{{alice}}": alice,
		"{{shop.query}}": url.QueryEscape(shop), "{{alice.query}}": url.QueryEscape(alice),
		"{{soon}}": time.Now().Add(10 * time.Minute).UTC().Format("2006-01-02T15:04:05.000Z"),
	}
}

// message returns the bytes to send.
func (r recorded) message(variables map[string]string) string {
	text := r.text
	for name, value := range variables {
		text = strings.ReplaceAll(text, name, value)
	}
	header, body, _ := strings.Cut(text, "\n\n")
	body = strings.TrimSpace(body)
	header = strings.ReplaceAll(header, "{{length}}", strconv.Itoa(len(body)))
	return strings.ReplaceAll(strings.TrimSpace(header), "\n", "\r\n") + "\r\n\r\n" + body
}

// exchange sends a request to the proxy, byte for byte, and returns the answer.
func (w *world) exchange(t *testing.T, message string) (status int, body []byte) {
	t.Helper()
	if missing := regexp.MustCompile(`\{\{.*?}}`).FindString(message); missing != "" {
		t.Fatalf("there is no %s", missing)
	}
	proxy, err := url.Parse(w.proxy)
	if err != nil {
		t.Fatal(err)
	}
	connection, err := net.DialTimeout("tcp", proxy.Host, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(connection, message); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}
