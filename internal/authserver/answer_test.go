// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
)

// wire is what a server writes for each request, byte for byte.
type wire struct {
	text     string
	silent   bool        // the connection stays open, and nothing more is said
	received chan string // the head of each request, if there is room
}

// start returns a client and the URL of a server that writes w.
func (w *wire) start(t *testing.T) (*Client, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	end := make(chan struct{})
	t.Cleanup(func() { close(end); _ = listener.Close() })
	w.received = make(chan string, 10)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go w.answer(conn, end)
		}
	}()
	server := "http://" + listener.Addr().String()
	c, _ := clientAt(t, server+"/client")
	return c, server
}

func (w *wire) answer(conn net.Conn, end <-chan struct{}) {
	defer conn.Close()
	var head []byte
	for buffer := make([]byte, 4096); !bytes.Contains(head, []byte("\r\n\r\n")); {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		head = append(head, buffer[:n]...)
	}
	w.received <- string(head)
	_, _ = io.WriteString(conn, w.text)
	if w.silent {
		<-end
		return
	}
	_ = conn.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, conn) // else the rest of the request would reset the connection
}

const token1 = `{"access_token":{"access":[{"type":"quote","actions":["create"]}],"value":"v","manage":"https://a.example/token/1",` +
	`"expires_in":600},"continue":{"access_token":{"value":"c"},"uri":"https://a.example/continue/1"}}`

func response(header, body string) string { return "HTTP/1.1 200 OK\r\n" + header + "\r\n" + body }

func withLength(header, body string) string {
	return response(fmt.Sprintf("%sContent-Length: %d\r\n", header, len(body)), body)
}

func packed(t testing.TB, text string, pack func(io.Writer) io.WriteCloser) string {
	t.Helper()
	var b bytes.Buffer
	w := pack(&b)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func gzipped(t testing.TB, text string) string {
	return packed(t, text, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
}

func zlibbed(t testing.TB, text string) string {
	return packed(t, text, func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) })
}

func deflated(t *testing.T, text string) string {
	return packed(t, text, func(w io.Writer) io.WriteCloser {
		f, err := flate.NewWriter(w, flate.BestCompression)
		if err != nil {
			t.Fatal(err)
		}
		return f
	})
}

func inUTF16(t *testing.T, order binary.ByteOrder, text string) string {
	t.Helper()
	var b bytes.Buffer
	if err := binary.Write(&b, order, append([]uint16{0xfeff}, utf16.Encode([]rune(text))...)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// B8: a complete answer is taken, however its connection ends and however it is wrapped. Nobody can
// request it again.
func TestCompleteAnswersAreTaken(t *testing.T) {
	chunk := func(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }
	const chunked = "Transfer-Encoding: chunked\r\n"
	zipped := gzipped(t, token1)
	for name, w := range map[string]*wire{
		"as it should be":                {text: withLength("", token1)},
		"length one too large":           {text: response(fmt.Sprintf("Content-Length: %d\r\n", len(token1)+1), token1)},
		"length too large, and silence":  {text: response(fmt.Sprintf("Content-Length: %d\r\n", len(token1)+1), token1), silent: true},
		"last chunk missing":             {text: response(chunked, chunk(token1))},
		"last chunk missing, silence":    {text: response(chunked, chunk(token1)), silent: true},
		"chunk cut off after the value":  {text: response(chunked, fmt.Sprintf("%x\r\n%s", len(token1)+7, token1))},
		"bad chunk after the value":      {text: response(chunked, chunk(token1)+"zz\r\n")},
		"many chunks":                    {text: response(chunked, chunk(token1[:9])+chunk(token1[9:50])+chunk(token1[50:]))},
		"no length, then the end":        {text: response("", token1)},
		"no length, and silence":         {text: response("", token1), silent: true},
		"length too small by a line end": {text: response(fmt.Sprintf("Content-Length: %d\r\n", len(token1)), token1+"\n\n")},
		"gzip":                           {text: withLength("Content-Encoding: gzip\r\n", zipped)},
		"GZip":                           {text: withLength("Content-Encoding: GZip\r\n", zipped)},
		"x-gzip":                         {text: withLength("Content-Encoding: x-gzip\r\n", zipped)},
		"gzip, not named":                {text: withLength("", zipped)},
		"gzip, named identity":           {text: withLength("Content-Encoding: identity\r\n", zipped)},
		"named gzip, and is not":         {text: withLength("Content-Encoding: gzip\r\n", token1)},
		"gzip twice":                     {text: withLength("Content-Encoding: gzip, gzip\r\n", gzipped(t, zipped))},
		"gzip without its end":           {text: response("Content-Encoding: gzip\r\n", zipped[:len(zipped)-8])},
		"gzip, length one too large":     {text: response(fmt.Sprintf("Content-Encoding: gzip\r\nContent-Length: %d\r\n", len(zipped)+1), zipped)},
		"gzip, wrong checksum":           {text: withLength("Content-Encoding: gzip\r\n", zipped[:len(zipped)-8]+"12345678")},
		"gzip, then more":                {text: withLength("Content-Encoding: gzip\r\n", zipped+"\n\n")},
		"gzip, and silence":              {text: response("Content-Encoding: gzip\r\n", zipped), silent: true},
		"gzip of a byte order mark":      {text: withLength("Content-Encoding: gzip\r\n", gzipped(t, "\xEF\xBB\xBF"+token1))},
		"deflate":                        {text: withLength("Content-Encoding: deflate\r\n", zlibbed(t, token1))},
		"Deflate without a header":       {text: withLength("Content-Encoding: Deflate\r\n", deflated(t, token1))},
		"named deflate, and is not":      {text: withLength("Content-Encoding: deflate\r\n", token1)},
		"named br, and is not":           {text: withLength("Content-Encoding: br\r\n", token1)},
		"byte order mark":                {text: withLength("", "\xEF\xBB\xBF"+token1)},
		"UTF-16, little-endian":          {text: withLength("", inUTF16(t, binary.LittleEndian, token1))},
		"UTF-16, big-endian":             {text: withLength("", inUTF16(t, binary.BigEndian, token1))},
		"line ends":                      {text: withLength("", "\r\n\n "+token1+"\n\r\n")},
		"text after it":                  {text: withLength("", token1+"</html>")},
		"NUL after it":                   {text: withLength("", token1+"\x00")},
		"itself after it":                {text: withLength("", token1+token1)},
		"an HTML page, it says":          {text: withLength("Content-Type: text/html\r\n", token1)},
		"a type that is none":            {text: withLength("Content-Type: ;;\r\n", token1)},
		"another charset":                {text: withLength("Content-Type: application/json; charset=utf-16\r\n", token1)},
		"status 201":                     {text: strings.Replace(withLength("", token1), "200 OK", "201 Created", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			for what, send := range map[string]func(c *Client, server string) Outcome{
				"rotate": func(c *Client, server string) Outcome {
					return c.Rotate(context.Background(), server+"/token/1", "t")
				},
				"ask": func(c *Client, server string) Outcome {
					return c.RequestGrant(context.Background(), server+"/", json.RawMessage(`[]`), nil)
				},
				"continue": func(c *Client, server string) Outcome {
					return c.Continue(context.Background(), Continuation{URL: server + "/continue/1", Token: "t"}, "ref")
				},
			} {
				out := send(w.start(t))
				got, ok := out.(TokenIssued)
				if !ok || got.Value != "v" || got.Manage != "https://a.example/token/1" || got.Lifetime != 600*time.Second ||
					!strings.Contains(string(got.Access), "quote") ||
					got.Continue != (Continuation{URL: "https://a.example/continue/1", Token: "c"}) {
					t.Errorf("%s: %+v", what, out)
				}
			}
		})
	}
}

// B8: what came before an answer was cut off counts as far as it is complete: whatever of it can be
// used is better than nothing, since the server has made the token.
func TestAnswersThatAreCutOff(t *testing.T) {
	after := func(part string) string { return token1[:strings.Index(token1, part)+len(part)] }
	for part, want := range map[string]TokenIssued{
		after(`"value":"v"`):                         {Value: "v"},
		after(`"manage":`):                           {Value: "v"},
		after(`"manage":"https://a.example/to`):      {Value: "v"},
		after(`token/1"`):                            {Value: "v", Manage: "https://a.example/token/1"},
		after(`"expires_in":60`):                     {Value: "v", Manage: "https://a.example/token/1"},
		after(`"expires_in":600`):                    {Value: "v", Manage: "https://a.example/token/1"},
		after(`"expires_in":600}`):                   {Value: "v", Manage: "https://a.example/token/1", Lifetime: 600 * time.Second},
		after(`"continue":{"access_token":{"value"`): {Value: "v", Manage: "https://a.example/token/1", Lifetime: 600 * time.Second},
		after(`continue/1"`): {Value: "v", Manage: "https://a.example/token/1", Lifetime: 600 * time.Second,
			Continue: Continuation{URL: "https://a.example/continue/1", Token: "c"}},
		`{"access_token":[{"value":"v","manage":"m","expires`:              {Value: "v", Manage: "m"},
		`{"access_token":{"value":"v","manage":{"uri":"m","access_tok`:     {Value: "v", Manage: "m"},
		`{"access_token":{"value":"v","access":[{"type":"quote"},{"ty`:     {Value: "v"}, // a part of the rights is not the rights
		`{"continue":{"uri":"u"},"access_token":{"value":"v"`:              {Value: "v"},
		`{"access_token":{"value":"v","manage":"m",},"x"`:                  {Value: "v", Manage: "m"},
		`{"access_token":{"value":"v","manage":"m"}, and then something`:   {Value: "v", Manage: "m"},
		`{"access_token":{"value":"v","manage":"m","x":"` + "\n" + `"}}`:   {Value: "v", Manage: "m"},
		`{"access_token":{"value":"v","manage":"m"},"x":` + string('\x01'): {Value: "v", Manage: "m"},
	} {
		for name, text := range map[string]string{
			"cut off": response(fmt.Sprintf("Content-Length: %d\r\n", len(part)+10), part),
			"whole":   withLength("", part),
			"gzip":    withLength("", gzipped(t, part)),
		} {
			c, server := (&wire{text: text}).start(t)
			out, ok := c.Rotate(context.Background(), server+"/token/1", "t").(TokenIssued)
			if out.Access = nil; !ok || out.Value != want.Value || out.Manage != want.Manage || out.Lifetime != want.Lifetime || out.Continue != want.Continue {
				t.Errorf("%s, %s: %+v", part, name, out)
			}
		}
	}
}

// B8: a 2xx that cannot be read is a failure that says so: the server may have done what was asked.
func TestUnreadableAnswers(t *testing.T) {
	cut := token1[:strings.Index(token1, `"value"`)+9]
	for name, row := range map[string]struct {
		text       string
		unreadable bool
	}{
		"cut off before the token":   {response(fmt.Sprintf("Content-Length: %d\r\n", len(token1)), cut), true},
		"nothing of it came":         {response("Content-Length: 5\r\n", ""), true},
		"no chunk came":              {response("Transfer-Encoding: chunked\r\n", ""), true},
		"gzip, cut off":              {response("Content-Length: 90\r\n", gzipped(t, token1)[:12]), true},
		"gzip, cut off in its head":  {response("Content-Length: 90\r\n", gzipped(t, token1)[:5]), true},
		"a compression of others":    {withLength("Content-Encoding: br\r\n", "\x8b\x02\x80\x7b\x7d\x03"), true},
		"an HTML page":               {withLength("", "<html></html>"), true},
		"more than a mebibyte":       {withLength("", `{"x":"`+strings.Repeat("x", maxAnswer)+`",`+token1[1:]), true},
		"a gzip bomb":                {withLength("", gzipped(t, `{"x":"`+strings.Repeat("x", 8*maxAnswer)+`",`+token1[1:])), true},
		"nothing":                    {withLength("", ""), false},
		"white space":                {withLength("", " \n"), false},
		"an empty object":            {withLength("", "{}"), false},
		"null":                       {withLength("", "null"), false},
		"a list":                     {withLength("", "["+token1+"]"), false},
		"members of the wrong types": {withLength("", `{"access_token":7,"interact":"x","continue":[]}`), false},
	} {
		c, server := (&wire{text: row.text}).start(t)
		out := c.Rotate(context.Background(), server+"/token/1", "t")
		f, ok := out.(RequestFailed)
		if !ok || f.Unreadable != row.unreadable || !f.MaybeHeard() || f.Status != http.StatusOK || f.Timeout {
			t.Errorf("%s: %T %+v", name, out, out)
		}
		if said := strings.Contains(f.Error(), "could not be read"); said != row.unreadable {
			t.Errorf("%s: %s", name, f)
		}
	}
}

// An error answer that is cut off is no rejection: what is missing may say that the signature is.
func TestErrorAnswersAreNotGuessed(t *testing.T) {
	body := coded("invalid_client", "invalid access token")
	for cut := range len(body) {
		text := fmt.Sprintf("HTTP/1.1 401 Unauthorized\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:cut])
		c, server := (&wire{text: text}).start(t)
		if f, ok := c.Rotate(context.Background(), server+"/token/1", "t").(RequestFailed); !ok || f.Code != "" || f.HasCode || f.Unreadable {
			t.Fatalf("%s: %+v", body[:cut], f)
		}
	}
	for name, text := range map[string]string{
		"length": fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body)+1, body),
		"gzip":   "\r\n" + gzipped(t, body),
		"mark":   "\r\n\xEF\xBB\xBF" + body,
	} {
		c, server := (&wire{text: "HTTP/1.1 401 Unauthorized\r\n" + text}).start(t)
		if out, ok := c.Rotate(context.Background(), server+"/token/1", "t").(TokenRejected); !ok {
			t.Errorf("%s: %+v", name, out)
		}
	}
}

// Waiting for an answer's end is bounded as waiting for its beginning is.
func TestAnswerThatStops(t *testing.T) {
	listener := httptest.NewUnstartedServer(nil)
	began := make(chan struct{})
	end := make(chan struct{})
	listener.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"access_token":{"valu`)
		_ = http.NewResponseController(w).Flush()
		close(began)
		<-end
	})
	listener.Start()
	defer listener.Close()
	defer close(end)
	c, clock := clientAt(t, listener.URL+"/client")
	out := make(chan Outcome)
	go func() { out <- c.Rotate(context.Background(), listener.URL+"/token/1", "t") }()
	<-began
	clock.Advance(AnswerTimeout)
	if f, ok := (<-out).(RequestFailed); !ok || !f.Timeout || f.Status == http.StatusOK && !f.Unreadable {
		t.Errorf("%+v", f)
	}
}

// Answers are asked for as they are, on every request, and requests are signed all the same.
func TestAcceptEncoding(t *testing.T) {
	w := &wire{text: withLength("Connection: close\r\n", `{"authServer":"https://a.example"}`)}
	c, server := w.start(t)
	_ = c.Rotate(context.Background(), server+"/token/1", "t")
	_ = c.RequestGrant(context.Background(), server+"/", json.RawMessage(`[]`), nil)
	_ = c.Cancel(context.Background(), Continuation{URL: server + "/continue/1", Token: "t"})
	_, _ = c.Wallet(context.Background(), server+"/client")
	_, _ = c.KeyPublished(context.Background())
	for range 5 {
		head := strings.Split(<-w.received, "\r\n")
		if !slices.Contains(head, "Accept-Encoding: identity") {
			t.Errorf("%s", head)
		}
		for _, line := range head {
			if strings.HasPrefix(line, "Signature-Input:") && strings.Contains(line, "encoding") {
				t.Errorf("the signature covers it: %s", line)
			}
		}
	}
}

// A document that is cut off is not a document, and a key set that is does not lack a key.
func TestDocumentsThatAreCutOff(t *testing.T) {
	for _, body := range []string{`{"id":"x","authServer":"https://a.example","reso`, `{"keys":[{"kid":"another"},`} {
		c, server := (&wire{text: response("Connection: close\r\nContent-Length: 200\r\n", body)}).start(t)
		_, walletErr := c.Wallet(context.Background(), server+"/client")
		published, keysErr := c.KeyPublished(context.Background())
		for _, err := range []error{walletErr, keysErr} {
			if f, ok := err.(RequestFailed); !ok || !f.Unreadable || published { //nolint:errorlint // it is not wrapped
				t.Errorf("%v", err)
			}
		}
	}
}
