// SPDX-License-Identifier: MPL-2.0

// Checks that the operations in operations.json are those of the OpenAPI document. The engine's
// tests compare its own table with the same file.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { errorsIn, resourceDocument } from './document.mjs'

const ours = JSON.parse(readFileSync(new URL('operations.json', import.meta.url), 'utf8'))

function queryOf(parameters) {
  const query = parameters.filter((parameter) => parameter.in === 'query')
  return Object.fromEntries(query.map(({ name, required, schema: { type, ...limits } }) => {
    return [name, required ? { required, ...limits } : limits]
  }))
}

const documented = []
for (const [path, item] of Object.entries(resourceDocument.paths)) {
  // All of OpenAPI's methods.
  for (const method of ['get', 'put', 'post', 'delete', 'options', 'head', 'patch', 'trace']) {
    const spec = item[method]
    if (spec === undefined) continue
    documented.push({
      id: spec.operationId,
      method: method.toUpperCase(),
      path,
      body: spec.requestBody !== undefined,
      query: queryOf([...(item.parameters ?? []), ...(spec.parameters ?? [])])
    })
  }
}

test('the operations', () => {
  const sorted = (operations) => [...operations].sort((a, b) => (a.id < b.id ? -1 : 1))
  assert.deepEqual(sorted(ours), sorted(documented))
})

test('a body is required, is JSON, and names a wallet address', () => {
  for (const { path, method } of ours.filter(({ body }) => body)) {
    const { required, content } = resourceDocument.paths[path][method.toLowerCase()].requestBody
    assert.deepEqual([required, Object.keys(content)], [true, ['application/json']], path)
    const errors = errorsIn(content['application/json'].schema, {})
    assert.ok(errors.some((error) => error.includes("required property 'walletAddress'")), path)
  }
})
