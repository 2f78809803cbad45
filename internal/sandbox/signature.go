// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/dunglas/httpsfv"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/ecmascript"
)

// maxBody is how much of a request's body is read, in bytes.
const maxBody = 1 << 20

// content is a request's body after parsing.
type content struct {
	present bool
	json    string // in normal form; {} if there was none
}

// readContent reads the body. What it rejects, the body parser of a real server rejects before
// anything else looks at the request.
func readContent(r *http.Request) (content, error) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return content{}, textError(http.StatusBadRequest, "the body could not be read")
	}
	if len(raw) == 0 {
		return content{json: "{}"}, nil
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return content{}, schemaError(http.StatusUnsupportedMediaType, "the body must be application/json")
	}
	normal, err := ecmascript.Normal(raw)
	if err != nil || (normal[0] != '{' && normal[0] != '[') {
		return content{}, textError(http.StatusBadRequest, "the body is not a JSON object or array")
	}
	return content{present: true, json: normal}, nil
}

// signature is a request's signature (RFC 9421) before it is verified.
type signature struct {
	keyID string // empty if the parameters name none
	base  []byte
	value []byte
}

var errSignatureForm = errors.New("the signature headers are not well-formed or do not cover what they must")

// readSignature checks what can be checked without the key: that there is exactly one signature,
// labelled sig1; that it covers the method, the target, the authorization (if there is one) and the
// digest of the body (if there is one); and that the digest is correct.
func readSignature(r *http.Request, body content) (*signature, error) {
	list, err := inputList(r.Header)
	if err != nil {
		return nil, err
	}
	covered := make([]string, 0, len(list.Items))
	for _, item := range list.Items {
		name, ok := item.Value.(string)
		if !ok || name != strings.ToLower(name) || len(item.Params.Names()) > 0 || slices.Contains(covered, name) {
			return nil, errSignatureForm
		}
		covered = append(covered, name)
	}
	if !coversEnough(covered, r, body) {
		return nil, errSignatureForm
	}
	value, err := signatureValue(r.Header)
	if err != nil {
		return nil, err
	}
	base, err := signatureBase(covered, r)
	if err != nil {
		return nil, err
	}
	keyID, _ := list.Params.Get("keyid")
	id, _ := keyID.(string)
	return &signature{keyID: id, base: base, value: value}, nil
}

// inputList parses Signature-Input.
func inputList(header http.Header) (httpsfv.InnerList, error) {
	dictionary, err := httpsfv.UnmarshalDictionary(header.Values("Signature-Input"))
	if err != nil || !slices.Equal(dictionary.Names(), []string{"sig1"}) {
		return httpsfv.InnerList{}, errSignatureForm
	}
	label, _ := dictionary.Get("sig1")
	list, ok := label.(httpsfv.InnerList)
	if !ok {
		return httpsfv.InnerList{}, errSignatureForm
	}
	// Today's servers split the header at each semicolon and do not find the key id after a
	// semicolon and a space, so only the canonical serialization works.
	canonical, err := httpsfv.Marshal(dictionary)
	if err != nil || canonical != header.Get("Signature-Input") {
		return httpsfv.InnerList{}, errSignatureForm
	}
	if alg, given := list.Params.Get("alg"); given && alg != "ed25519" {
		return httpsfv.InnerList{}, errSignatureForm
	}
	return list, nil
}

// signatureValue parses Signature.
func signatureValue(header http.Header) ([]byte, error) {
	dictionary, err := httpsfv.UnmarshalDictionary(header.Values("Signature"))
	if err != nil || !slices.Equal(dictionary.Names(), []string{"sig1"}) {
		return nil, errSignatureForm
	}
	label, _ := dictionary.Get("sig1")
	item, ok := label.(httpsfv.Item)
	if !ok {
		return nil, errSignatureForm
	}
	value, ok := item.Value.([]byte)
	if !ok {
		return nil, errSignatureForm
	}
	return value, nil
}

// coversEnough reports whether a signature covers what RFC 9635 section 7.3.1 asks for. A digest
// without a body is rejected: servers see an empty object there, whose digest is not that of an
// empty body.
func coversEnough(covered []string, r *http.Request, body content) bool {
	if !slices.Contains(covered, "@method") || !slices.Contains(covered, "@target-uri") {
		return false
	}
	if r.Header.Get("Authorization") != "" && !slices.Contains(covered, "authorization") {
		return false
	}
	if slices.Contains(covered, "content-digest") != body.present {
		return false
	}
	if !body.present {
		return true
	}
	// A chunked body has no Content-Length.
	return r.Header.Get("Content-Length") != "" && r.Header.Get("Content-Type") != "" &&
		isDigest(r.Header.Values("Content-Digest"), body.json)
}

// isDigest reports whether a Content-Digest (RFC 9530) is correct in all the algorithms that it
// names.
func isDigest(header []string, text string) bool {
	dictionary, err := httpsfv.UnmarshalDictionary(header)
	if err != nil || len(dictionary.Names()) == 0 {
		return false
	}
	for _, algorithm := range dictionary.Names() {
		var sum []byte
		switch algorithm {
		case "sha-512":
			s := sha512.Sum512([]byte(text))
			sum = s[:]
		case "sha-256":
			s := sha256.Sum256([]byte(text))
			sum = s[:]
		default:
			return false
		}
		digest, _ := dictionary.Get(algorithm)
		item, ok := digest.(httpsfv.Item)
		if !ok {
			return false
		}
		if value, ok := item.Value.([]byte); !ok || !bytes.Equal(value, sum) {
			return false
		}
	}
	return true
}

// signatureBase returns the bytes that were signed (RFC 9421 section 2.5).
func signatureBase(covered []string, r *http.Request) ([]byte, error) {
	var base bytes.Buffer
	for _, name := range covered {
		var value string
		switch {
		case name == "@method":
			value = r.Method
		case name == "@target-uri":
			value = targetURI(r)
		case len(r.Header.Values(name)) > 0:
			value = strings.Join(r.Header.Values(name), ", ")
		default:
			return nil, errSignatureForm
		}
		base.WriteString(`"` + name + `": ` + value + "\n")
	}
	parameters := strings.TrimPrefix(r.Header.Get("Signature-Input"), "sig1=")
	base.WriteString(`"@signature-params": ` + parameters)
	return base.Bytes(), nil
}

// targetURI returns the URI to which a request was sent, byte for byte: nothing is decoded, cleaned
// or lower-cased.
func targetURI(r *http.Request) string {
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	if strings.HasPrefix(r.RequestURI, scheme) {
		return r.RequestURI
	}
	return scheme + r.Host + r.RequestURI
}

// isSignedWith reports whether the key's owner made the signature.
func (s *signature) isSignedWith(key ed25519.PublicKey) bool {
	return ed25519.Verify(key, s.base, s.value)
}
