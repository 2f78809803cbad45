// SPDX-License-Identifier: MPL-2.0

// What the package that servers verify with says of a request's signature.

import { getKeyId, validateSignature, validateSignatureHeaders } from '@interledger/http-signature-utils'
import { world } from './document.mjs'

const jwk = { kid: world.keyId, alg: 'EdDSA', use: 'sig', kty: 'OKP', crv: 'Ed25519', x: world.publicKey }

// isSigned tells whether the client has signed a request: its headers by their names in lower case, its body, if any, as
// a server sees it.
export async function isSigned(request) {
  return (
    validateSignatureHeaders(request) &&
    getKeyId(request.headers['signature-input']) === jwk.kid &&
    (await validateSignature(jwk, request))
  )
}
