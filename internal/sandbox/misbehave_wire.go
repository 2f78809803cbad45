// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
)

// The ways to damage an answer in transit (Misbehaviour.Wire).
const (
	// WireLongLength sends the whole body with a Content-Length that is one too large, and closes
	// the connection.
	WireLongLength = "long_length"
	// WireNoLastChunk sends the whole body in chunks, and closes the connection without the last,
	// empty chunk.
	WireNoLastChunk = "no_last_chunk"
	// WireCut sends half of the body with the correct Content-Length, and closes the connection.
	WireCut = "cut"
	// WireGzip compresses the body, whatever the request accepts.
	WireGzip = "gzip"
	// WireMark puts a byte order mark before the body.
	WireMark = "byte_order_mark"
	// WireTwice sends the whole answer twice and keeps the connection open. It needs HTTP/1.1; on
	// HTTP/2 it resets the stream.
	WireTwice = "twice"
)

// wires is the table behind Misbehaviour.Wire.
var wires = map[string]func(w http.ResponseWriter, r *http.Request, whole recorded){
	WireLongLength:  sendLongLength,
	WireNoLastChunk: sendNoLastChunk,
	WireCut:         sendCut,
	WireGzip:        sendGzip,
	WireMark:        sendMark,
	WireTwice:       sendTwice,
}

// WireNames returns the values of Misbehaviour.Wire, sorted.
func WireNames() []string { return slices.Sorted(maps.Keys(wires)) }

// recorded is an answer that has not been sent yet.
type recorded struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *recorded) Header() http.Header {
	if a.header == nil {
		a.header = make(http.Header)
	}
	return a.header
}

// WriteHeader implements http.ResponseWriter.
func (a *recorded) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

// Write implements http.ResponseWriter.
func (a *recorded) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

// hasBody reports whether an answer with this status can have a body (RFC 9110 section 6.4.1).
func (a *recorded) hasBody() bool {
	return a.status != http.StatusNoContent && a.status != http.StatusNotModified
}

// send sends the headers and the given body.
func (a *recorded) send(w http.ResponseWriter, body []byte) {
	maps.Copy(w.Header(), a.header)
	w.WriteHeader(a.status)
	if a.hasBody() {
		_, _ = w.Write(body)
	}
}

// breakOff sends what was written so far and closes the connection; on HTTP/2 it resets the stream.
func breakOff(w http.ResponseWriter) {
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func sendLongLength(w http.ResponseWriter, _ *http.Request, whole recorded) {
	if whole.hasBody() {
		w.Header().Set("Content-Length", strconv.Itoa(whole.body.Len()+1))
	}
	whole.send(w, whole.body.Bytes())
	breakOff(w)
}

func sendNoLastChunk(w http.ResponseWriter, _ *http.Request, whole recorded) {
	whole.Header().Del("Content-Length")
	maps.Copy(w.Header(), whole.header)
	w.WriteHeader(whole.status)
	_ = http.NewResponseController(w).Flush() // otherwise net/http would set a Content-Length
	if whole.hasBody() {
		_, _ = w.Write(whole.body.Bytes())
	}
	breakOff(w)
}

func sendCut(w http.ResponseWriter, _ *http.Request, whole recorded) {
	if whole.hasBody() {
		w.Header().Set("Content-Length", strconv.Itoa(whole.body.Len()))
	}
	whole.send(w, whole.body.Bytes()[:whole.body.Len()/2])
	breakOff(w)
}

func sendGzip(w http.ResponseWriter, _ *http.Request, whole recorded) {
	if !whole.hasBody() {
		whole.send(w, nil)
		return
	}
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	_, _ = writer.Write(whole.body.Bytes())
	_ = writer.Close()
	w.Header().Set("Content-Encoding", "gzip")
	whole.send(w, packed.Bytes())
}

func sendMark(w http.ResponseWriter, _ *http.Request, whole recorded) {
	whole.send(w, append([]byte("\xEF\xBB\xBF"), whole.body.Bytes()...))
}

// sendTwice writes the first answer to the connection directly, because net/http sends only one.
func sendTwice(w http.ResponseWriter, r *http.Request, whole recorded) {
	connection := connectionOf(r)
	if r.ProtoMajor != 1 || connection.top == nil {
		panic(http.ErrAbortHandler)
	}
	var first bytes.Buffer
	fmt.Fprintf(&first, "HTTP/1.1 %d %s\r\n", whole.status, http.StatusText(whole.status))
	_ = whole.Header().Write(&first)
	if whole.hasBody() {
		fmt.Fprintf(&first, "Content-Length: %d\r\n", whole.body.Len())
	}
	first.WriteString("\r\n")
	if whole.hasBody() {
		first.Write(whole.body.Bytes())
	}
	if _, err := connection.top.Write(first.Bytes()); err != nil {
		panic(http.ErrAbortHandler)
	}
	whole.send(w, whole.body.Bytes())
}

// silence makes the connection go silent and waits until the client closes it or the server is
// closed.
func (s *Server) silence(_ http.ResponseWriter, r *http.Request) {
	if connection := connectionOf(r); connection.tcp != nil {
		connection.tcp.silent.Store(true)
	}
	select {
	case <-r.Context().Done():
	case <-s.running.Done():
	}
	panic(http.ErrAbortHandler)
}

// Reset closes the connection of a request to a sandbox with a TCP reset, for tests that decide
// themselves which requests that happens to (Options.Wrap). It panics with http.ErrAbortHandler.
func Reset(w http.ResponseWriter, r *http.Request) { reset(w, r) }

// reset closes the connection with a TCP reset.
func reset(w http.ResponseWriter, r *http.Request) {
	if connection := connectionOf(r); connection.tcp != nil {
		connection.tcp.resetOnClose()
	}
	hangUp(w, r)
}

// hangUp closes the connection without an answer.
func hangUp(_ http.ResponseWriter, r *http.Request) {
	if connection := connectionOf(r); connection.tcp != nil {
		_ = connection.tcp.Close()
	}
	panic(http.ErrAbortHandler)
}
