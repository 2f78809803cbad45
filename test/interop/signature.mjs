// SPDX-License-Identifier: MPL-2.0

// Verifies a request's signature with the package that servers use.

import { getKeyId, validateSignature, validateSignatureHeaders } from '@interledger/http-signature-utils'
import { world } from './document.mjs'

const jwk = { kid: world.keyId, alg: 'EdDSA', use: 'sig', kty: 'OKP', crv: 'Ed25519', x: world.publicKey }

// isSigned reports whether the client has signed a request: its headers, by name in lower case, and
// its body, if any, as a server gets it.
export async function isSigned(request) {
  return (
    validateSignatureHeaders(request) &&
    getKeyId(request.headers['signature-input']) === jwk.kid &&
    (await validateSignature(jwk, request))
  )
}
