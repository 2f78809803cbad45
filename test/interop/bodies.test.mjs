// SPDX-License-Identifier: MPL-2.0

// Checks each body that the engine has signed: is it what JavaScript makes of the given one, and
// does the package with which servers verify signatures accept it?

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { world } from './document.mjs'
import { isSigned } from './signature.mjs'

// JSON.stringify writes every value as itself except -0.
const parse = (text) => JSON.parse(text, (_, value) => (value === 0 ? 0 : value))

for (const line of readFileSync(world.bodies, 'utf8').trimEnd().split('\n')) {
  const { name, given, sent, method, url, ...x } = JSON.parse(line)
  test(name, async () => {
    assert.equal(JSON.stringify(JSON.parse(sent)), sent, 'JavaScript writes it differently')
    assert.deepEqual(parse(sent), parse(given), 'the value is different')
    assert.equal(JSON.stringify(JSON.parse(given)), sent, 'the order is different')

    const headers = Object.fromEntries(Object.entries(x.headers).map(([name, value]) => [name.toLowerCase(), value]))
    assert.equal(headers['content-length'], String(Buffer.byteLength(sent)))
    assert.equal(headers['content-type'], 'application/json')
    assert.ok(await isSigned({ method, url, headers, body: sent }), 'the signature is not valid')
    assert.ok(!(await isSigned({ method, url, headers, body: sent + ' ' })), 'the signature is valid for another body')
  })
}
