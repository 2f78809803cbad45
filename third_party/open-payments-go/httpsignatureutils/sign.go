// SPDX-License-Identifier: MPL-2.0

package httpsignatureutils

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"
)

// SignOptions hold what to sign, and with which key.
type SignOptions struct {
	// Request is signed as it is. If it has a body, its content headers must be those of
	// CreateContentHeaders. It is not changed, and its body is not read.
	Request    *http.Request
	PrivateKey ed25519.PrivateKey
	// KeyID is the kid under which the client publishes its public key.
	KeyID string
}

// SignatureHeaders hold one signature, labelled sig1.
type SignatureHeaders struct {
	// Signature is the bare base64. The header is "sig1=:" + Signature + ":" (RFC 9421 section
	// 4.2).
	Signature string
	// SignatureInput is the whole value of the Signature-Input header (RFC 9421 section 4.1).
	SignatureInput string
}

// CreateSignatureHeaders signs the request's method and target URI, its Authorization header if
// there is one, and its content headers if it has a body (RFC 9635 section 7.3.1). It fails if
// something that must be covered is missing or cannot be sent unchanged.
func CreateSignatureHeaders(opts SignOptions) (*SignatureHeaders, error) {
	return createSignatureHeaders(opts, time.Now())
}

func createSignatureHeaders(opts SignOptions, created time.Time) (*SignatureHeaders, error) {
	if opts.Request == nil || opts.Request.URL == nil {
		return nil, errors.New("sign: no request")
	}
	if len(opts.PrivateKey) != ed25519.PrivateKeySize {
		return nil, errors.New("sign: no private key")
	}
	components := coveredComponents(opts.Request)
	params, err := signatureParams(components, created, opts.KeyID)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	base, err := signatureBase(opts.Request, components, params)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return &SignatureHeaders{
		Signature:      base64.StdEncoding.EncodeToString(ed25519.Sign(opts.PrivateKey, []byte(base))),
		SignatureInput: "sig1=" + params,
	}, nil
}

func coveredComponents(req *http.Request) []string {
	components := []string{"@method", "@target-uri"}
	if len(req.Header.Values("Authorization")) > 0 {
		components = append(components, "authorization")
	}
	// Whether there is a body depends on the request, not on its headers: servers reject a digest
	// of nothing.
	if req.Body != nil && req.Body != http.NoBody {
		components = append(components, "content-digest", "content-length", "content-type")
	}
	return components
}

// signatureParams returns the value of @signature-params (RFC 9421 section 2.3).
func signatureParams(components []string, created time.Time, keyID string) (string, error) {
	list := httpsfv.InnerList{Params: httpsfv.NewParams()}
	for _, c := range components {
		list.Items = append(list.Items, httpsfv.NewItem(c))
	}
	list.Params.Add("created", created.Unix())
	list.Params.Add("keyid", keyID)
	list.Params.Add("alg", "ed25519")
	return httpsfv.Marshal(list)
}

// signatureBase returns the bytes to sign (RFC 9421 section 2.5).
func signatureBase(req *http.Request, components []string, params string) (string, error) {
	var base strings.Builder
	for _, c := range components {
		value, err := componentValue(req, c)
		if err != nil {
			return "", err
		}
		if strings.ContainsAny(value, "\r\n\x00") { // it would start another line of the base
			return "", fmt.Errorf("line break in %s", c)
		}
		fmt.Fprintf(&base, "\"%s\": %s\n", c, value)
	}
	fmt.Fprintf(&base, "\"@signature-params\": %s", params)
	return base.String(), nil
}

func componentValue(req *http.Request, component string) (string, error) {
	switch component {
	case "@method":
		if req.Method == "" { // net/http sends GET
			return http.MethodGet, nil
		}
		return req.Method, nil
	case "@target-uri":
		return targetURI(req)
	default:
		return fieldValue(req, component)
	}
}

// targetURI returns the URI that a server reconstructs from the request line and the Host header
// (RFC 9421 section 2.2.2), so it must consist of the exact bytes that net/http sends.
func targetURI(req *http.Request) (string, error) {
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
	if req.URL.Scheme == "" || host == "" || req.URL.Opaque != "" {
		return "", errors.New("the URL must be absolute")
	}
	// net/http changes these: it encodes other characters in punycode, and removes a zone.
	if strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '%' }) {
		return "", errors.New("the host must be plain ASCII")
	}
	return req.URL.Scheme + "://" + host + req.URL.RequestURI(), nil
}

// fieldValue combines the lines of a header into one (RFC 9421 section 2.1).
func fieldValue(req *http.Request, name string) (string, error) {
	values := req.Header.Values(name)
	if len(values) == 0 {
		return "", fmt.Errorf("no %s header", name)
	}
	trimmed := make([]string, len(values))
	for i, v := range values {
		trimmed[i] = textproto.TrimString(v)
	}
	return strings.Join(trimmed, ", "), nil
}
