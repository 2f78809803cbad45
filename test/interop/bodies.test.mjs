// SPDX-License-Identifier: MPL-2.0

// Each body that the engine has signed: is it what JavaScript makes of the one that was given, and does the package that
// servers verify with accept it?

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { world } from './document.mjs'
import { isSigned } from './signature.mjs'

// -0 is the one value that JSON.stringify writes as another.
const parse = (text) => JSON.parse(text, (_, value) => (value === 0 ? 0 : value))

for (const line of readFileSync(world.bodies, 'utf8').trimEnd().split('\n')) {
  const { name, given, sent, method, url, ...x } = JSON.parse(line)
  test(name, async () => {
    assert.equal(JSON.stringify(JSON.parse(sent)), sent, 'JavaScript writes it in another way')
    assert.deepEqual(parse(sent), parse(given), 'it says something else')
    assert.equal(JSON.stringify(JSON.parse(given)), sent, 'its order is another')

    const headers = Object.fromEntries(Object.entries(x.headers).map(([name, value]) => [name.toLowerCase(), value]))
    assert.equal(headers['content-length'], String(Buffer.byteLength(sent)))
    assert.equal(headers['content-type'], 'application/json')
    assert.ok(await isSigned({ method, url, headers, body: sent }), 'the signature does not fit')
    assert.ok(!(await isSigned({ method, url, headers, body: sent + ' ' })), 'the signature fits another body')
  })
}
