// SPDX-License-Identifier: MPL-2.0

// Checks each recorded exchange: does the package with which servers verify signatures accept the
// request's, and do request and response conform to the OpenAPI document? No assertion shows a
// value, because all of them contain tokens.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { responseErrors, operationOf, requestErrors, resourceDocument, world } from './document.mjs'
import { isSigned } from './signature.mjs'

// Responses that the sandbox sends as Rafiki does, although the document does not have them. Each
// must occur, and must still be missing from the document; otherwise this list is wrong.
const rafikiDeviations = {
  'post-request 400': 'an error without a code matches both of two schemas, of which it must match one',
  'post-request 406': 'no such status',
  'post-continue 401 invalid_request': 'no such code',
  'delete-continue 400 invalid_client': 'no such status: the key is unavailable',
  'post-token 400 invalid_client': 'no such code: the key is unavailable',
  'post-token 500 text': 'an unexpected error is text, not JSON',
  'delete-token 400 invalid_client': 'no such status: the key is unavailable',
  'delete-token 500 text': 'an unexpected error is text, not JSON',
  'create-incoming-payment 400 400': 'no such status',
  'list-incoming-payments 400 400': 'no such status',
  'list-incoming-payments 404 404': 'no such status',
  'list-incoming-payments 406 406': 'no such status',
  'complete-incoming-payment 409 409': 'no such status'
}

// Kinds of exchanges that must occur: who sends what, with and without a body, and what comes back.
const required = [
  'engine get-wallet-address 200',
  'engine get-wallet-address-keys 200',
  'engine post-request with body 200',
  'engine post-continue 200',
  'engine post-continue with body 200',
  'engine post-token 200',
  'engine post-token 400 invalid_client',
  'engine post-token 401 invalid_client',
  'engine delete-token 204',
  'engine delete-continue 204',
  'engine delete-continue 400 invalid_client',
  'engine delete-continue 401 invalid_client',
  'stand-in post-request with body 200',
  'stand-in post-continue 200',
  'stand-in post-continue 400 too_fast',
  'stand-in post-continue 401 request_denied',
  'stand-in post-continue with body 404 invalid_continuation',
  'stand-in post-token 200',
  'stand-in post-token 404 invalid_rotation',
  'stand-in delete-token 204',
  'stand-in delete-token 401 invalid_client',
  'stand-in delete-continue 204',
  'stand-in delete-continue 401 invalid_continuation',
  'stand-in list-incoming-payments 200',
  'stand-in get-incoming-payment 401 401',
  'signer post-continue 400 invalid_client',
  'signer post-request with body 400 invalid_client',
  'signer post-request with body 401 invalid_client',
  'signer create-incoming-payment with body 201',
  'signer create-incoming-payment with body 401 401',
  'signer list-incoming-payments 200',
  'signer list-incoming-payments 403 403',
  'signer get-incoming-payment 200',
  'signer get-incoming-payment 401 401',
  'signer get-incoming-payment 404 404',
  'signer complete-incoming-payment 200',
  'javascript get-wallet-address 200',
  'javascript get-wallet-address-keys 200',
  'javascript post-request with body 200',
  'javascript post-token 200',
  'javascript delete-token 204',
  'javascript delete-continue 204',
  'javascript create-incoming-payment with body 201',
  'javascript list-incoming-payments 200',
  'javascript get-incoming-payment 200',
  'javascript complete-incoming-payment 200'
]

// Everything that op/sign signs, alone and in a batch: every operation of the resource server.
for (const methods of Object.values(resourceDocument.paths)) {
  for (const { operationId, requestBody, responses } of Object.values(methods)) {
    if (operationId === undefined) continue // a member of the path that is not a method
    const success = Object.keys(responses).find((status) => status.startsWith('2'))
    const kind = `${operationId}${requestBody ? ' with body' : ''} ${success}`
    required.push(`op/sign ${kind}`, `op/sign batch ${kind}`)
  }
}

const exchanges = readFileSync(world.exchanges, 'utf8').trimEnd().split('\n').map((line) => JSON.parse(line))
const seen = new Set()
const deviations = new Set()

for (const [i, x] of exchanges.entries()) {
  const operation = operationOf(x.method, x.url)
  test(`${i + 1}: ${x.step}: ${operation?.name} ${x.status}`, async () => {
    assert.ok(operation, 'not an operation of the documents')
    checkRequest(x, operation)
    await checkSignature(x, operation)
    checkResponse(x, operation)
  })
}

function parse(text, what) {
  if (text === '') return undefined
  try {
    return JSON.parse(text)
  } catch {
    assert.fail(`${what} is not JSON`)
  }
}

function checkRequest(x, operation) {
  const errors = requestErrors(operation, x.headers, parse(x.body, 'the request'))
  if (x.headers['interop-wrong'] || (x.step.endsWith('odd identifier') && operation.name === 'post-request')) {
    assert.notEqual(errors.length, 0, 'the document allows a request that should be invalid')
  } else {
    assert.deepEqual(errors, [], 'the document does not allow the request')
  }
}

// The form of this project's signatures; the JavaScript client's parameters differ.
const ours = new RegExp(
  '^sig1=\\("@method" "@target-uri"( "authorization")?( "content-digest" "content-length" "content-type")?\\)' +
    `;created=\\d{10};keyid="${world.keyId}";alg="ed25519"$`
)

async function checkSignature(x, operation) {
  const { headers } = x
  const isPublic = operation.name === 'get-incoming-payment' && !headers.authorization
  if (isPublic || operation.name.startsWith('get-wallet-address')) {
    assert.ok(!headers.signature && !headers['signature-input'], 'a request that needs no signature has one')
    return
  }
  // Servers get the parsed body, and serialize it again to compute its digest.
  const body = parse(x.body, 'the request')
  const written = body === undefined ? undefined : JSON.stringify(body)
  assert.ok(written === undefined || written === x.body, 'JavaScript writes the body differently')
  const request = { method: x.method, url: x.url, headers, body: written }
  const right = await isSigned(request)
  assert.equal(right, !headers['interop-forged'], 'the validity of the signature')
  if (!right) return
  for (const [method, target] of [['PUT', x.url], [x.method, x.url + '?'], [x.method, x.url.toUpperCase()]]) {
    assert.ok(!(await isSigned({ ...request, method, url: target })), 'the signature is valid for another request')
  }
  if (x.step !== 'javascript') {
    const [form, authorization, content] = headers['signature-input'].match(ours) ?? []
    assert.ok(form, 'the signature has a different form')
    const hasAuthorization = headers.authorization !== undefined
    assert.equal(authorization !== undefined, hasAuthorization, 'whether the signature covers authorization')
    assert.equal(content !== undefined, body !== undefined, 'whether the signature covers the body')
    assert.equal(headers['content-digest'] !== undefined, body !== undefined, 'whether the body has a digest')
  }
}

function checkResponse(x, operation) {
  const { headers } = x.answer
  const isText = headers['content-type']?.startsWith('text/plain')
  const body = isText ? undefined : parse(x.answer.body, 'the response')
  assert.equal(body !== undefined, headers['content-type']?.startsWith('application/json') ?? false, 'the content type')
  const code = isText ? 'text' : body?.error?.code
  const outcome = code === undefined ? `${x.status}` : `${x.status} ${code}`
  seen.add(`${x.step.split(':')[0]} ${operation.name}${x.body === '' ? '' : ' with body'} ${outcome}`)

  const errors = responseErrors(operation, x.status, body)
  const deviation = `${operation.name} ${outcome}`
  if (deviation in rafikiDeviations) {
    deviations.add(deviation)
    assert.notEqual(errors.length, 0, 'the document allows the response: it is no deviation')
    assert.ok(isText || typeof body.error.description === 'string', 'an error has a description')
  } else {
    assert.deepEqual(errors, [], 'the document does not allow the response')
  }
  if (operation.name.endsWith('payment') || operation.name.endsWith('payments')) {
    const challenge = x.status === 401 ? `GNAP as_uri=${world.auth}` : undefined
    assert.equal(headers['www-authenticate'], challenge, 'where to get a grant')
  }
}

test('every kind of exchange occurs', () => {
  assert.deepEqual(required.filter((kind) => !seen.has(kind)), [])
})

test('every deviation occurs', () => {
  assert.deepEqual(Object.keys(rafikiDeviations).filter((kind) => !deviations.has(kind)), [])
})
