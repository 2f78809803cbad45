// SPDX-License-Identifier: MPL-2.0

package httpsignatureutils

import (
	"crypto/sha512"
	"encoding/base64"
	"strconv"
)

// ContentHeaders are the values of the headers that a signature over a body covers.
type ContentHeaders struct {
	// ContentDigest is a dictionary with the single member sha-512 (RFC 9530 section 2).
	ContentDigest string
	// ContentLength is in bytes.
	ContentLength string
	// ContentType is application/json, the only type of bodies in Open Payments.
	ContentType string
}

// CreateContentHeaders returns the headers for a body that will be sent byte for byte as it is.
func CreateContentHeaders(body []byte) ContentHeaders {
	sum := sha512.Sum512(body)
	return ContentHeaders{
		ContentDigest: "sha-512=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":",
		ContentLength: strconv.Itoa(len(body)),
		ContentType:   "application/json",
	}
}
