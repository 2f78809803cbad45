// SPDX-License-Identifier: MPL-2.0

// What the OpenAPI document says of the rights in access.json; the Go test says what the engine says.

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
    assert.equal(differ, typeof row.engine === 'boolean' && typeof row.why === 'string', 'valid, or else engine and why')
    assert.ok(!differ || row.engine !== row.document, 'there is no difference')
    const document = differ ? row.document : row.valid
    let access = row.access
    try {
      if (row.text !== undefined) access = JSON.parse(row.text)
    } catch {
      assert.equal(document, false, 'not JSON')
      return
    }
    assert.equal(errorsIn(schema, access).length === 0, document, 'what the document says')
    // Real servers check with the package, which does not see all that the document forbids. Of what the engine sends
    // it must not refuse anything but what is known.
    if (row.valid ?? row.engine) {
      const client = { walletAddress: 'https://wallet.example/client' }
      const request = { headers: { 'content-type': 'application/json' }, body: { access_token: { access }, client } }
      const ask = () => validate(request)
      if (document) assert.doesNotThrow(ask, 'what a server says')
      else assert.throws(ask, { status: 400 }, 'what a server says')
    }
  })
}
