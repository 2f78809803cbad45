// SPDX-License-Identifier: MPL-2.0

// Checks what the OpenAPI document says about the rights in access.json; TestAccess in
// interop_test.go checks what the engine says.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { authDocument, errorsIn } from './document.mjs'

const spec = authDocument.paths['/'].post
const body = spec.requestBody.content['application/json'].schema.anyOf[0]
const schema = body.properties.access_token.properties.access
const validate = authDocument.createRequestValidator({ path: '/', method: 'post' })

for (const row of JSON.parse(readFileSync(new URL('access.json', import.meta.url), 'utf8'))) {
  test(row.name, () => {
    const differ = row.valid === undefined
    const explained = typeof row.engine === 'boolean' && typeof row.why === 'string'
    assert.equal(differ, explained, 'valid, or else engine and why')
    assert.ok(!differ || row.engine !== row.document, 'engine and document do not differ')
    const document = differ ? row.document : row.valid
    let access = row.access
    try {
      if (row.text !== undefined) access = JSON.parse(row.text)
    } catch {
      assert.equal(document, false, 'not JSON')
      return
    }
    assert.equal(errorsIn(schema, access).length === 0, document, 'what the document says')
    // Real servers validate with the package, which does not enforce all of the document. It must
    // not reject anything that the engine sends, except for the known differences.
    if (row.valid ?? row.engine) {
      const client = { walletAddress: 'https://wallet.example/client' }
      const request = { headers: { 'content-type': 'application/json' }, body: { access_token: { access }, client } }
      const ask = () => validate(request)
      if (document) assert.doesNotThrow(ask, 'what a server says')
      else assert.throws(ask, { status: 400 }, 'what a server says')
    }
  })
}
