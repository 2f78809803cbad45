// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"strings"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
)

const maxAnswer = 1 << 20 // bytes, both as they come and unpacked

// body is what came of an answer's body.
type body struct {
	text []byte // UTF-8, unpacked; of a body that is one JSON value, nothing after that
	json bool   // text is one JSON value
	err  error  // why it is not; io.EOF: there was no body
}

// isEmpty reports whether the answer had no body, or one of white space.
func (b body) isEmpty() bool { return errors.Is(b.err, io.EOF) }

// cutOff reports whether a part of the body is missing.
func (b body) cutOff() bool {
	var syntax *json.SyntaxError
	return b.err != nil && !b.isEmpty() && !errors.As(b.err, &syntax)
}

// readBody reads an answer until its JSON value is complete, and not for longer: a server may
// announce a byte that it does not send, or leave the last chunk out. What follows the value is of
// no interest. Of an answer that ends earlier, or is larger than maxAnswer, it returns what came.
func readBody(r io.Reader, contentEncoding string) (b body) {
	var text bytes.Buffer
	d := json.NewDecoder(io.TeeReader(decoded(&capped{r, maxAnswer}, contentEncoding), &text))
	var value json.RawMessage
	if b.err = d.Decode(&value); b.err == nil {
		return body{text: value, json: true}
	}
	b.text = text.Bytes()
	return b
}

var errTooLarge = errors.New("the answer is larger than 1 MiB")

// capped returns an error where io.LimitedReader ends, because an answer that is not read to its
// end is not complete.
type capped struct {
	r    io.Reader
	left int
}

func (c *capped) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, errTooLarge
	}
	n, err := c.r.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// maxPacked is how many times an answer may be compressed.
const maxPacked = 3

// decoded unpacks an answer that is compressed although we ask for identity, and turns it into
// UTF-8 without a byte order mark. The bytes decide and not the header: a proxy may unpack an
// answer and leave the header, or the other way round.
func decoded(r io.Reader, contentEncoding string) io.Reader {
	in := bufio.NewReader(r)
	for range maxPacked {
		unpacked := unpack(in, contentEncoding)
		if unpacked == nil {
			break
		}
		in = bufio.NewReader(&capped{unpacked, maxAnswer})
	}
	return transform.NewReader(in, unicode.BOMOverride(encoding.Nop.NewDecoder())) // UTF-8 and UTF-16
}

// unpack returns what is in compressed content (RFC 9110 section 8.4.1), or nil if it is not
// compressed.
func unpack(in *bufio.Reader, contentEncoding string) io.Reader {
	start, _ := in.Peek(2)
	if len(start) < 2 {
		return nil
	}
	var unpacked io.Reader
	var err error
	switch {
	case start[0] == 0x1f && start[1] == 0x8b: // RFC 1952; no text begins so
		var z *gzip.Reader
		if z, err = gzip.NewReader(in); err == nil {
			z.Multistream(false) // else it would wait for another member before it returns the first
			unpacked = z
		}
	case start[0]&0x0f == 8 && binary.BigEndian.Uint16(start)%31 == 0: // RFC 1950; no object does
		unpacked, err = zlib.NewReader(in)
	case strings.Contains(strings.ToLower(contentEncoding), "deflate") && !beginsObject(in):
		unpacked = flate.NewReader(in) // without the header that "deflate" should have
	default:
		return nil
	}
	if err != nil {
		return failing{err}
	}
	return unpacked
}

var objectRegexp = regexp.MustCompile(`^\s*\{\s*["}]`)

func beginsObject(in *bufio.Reader) bool {
	_, _ = in.Peek(16) // as much as there is
	start, _ := in.Peek(in.Buffered())
	return objectRegexp.Match(start)
}

// failing is a reader that only fails.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
