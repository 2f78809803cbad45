// SPDX-License-Identifier: MPL-2.0

// Uses the sandbox with the official client, which validates every response.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createAuthenticatedClient, OpenPaymentsClientError } from '@interledger/open-payments'
import { world } from './document.mjs'

const client = await createAuthenticatedClient({
  walletAddressUrl: world.client,
  privateKey: world.keyFile,
  keyId: world.keyId,
  validateResponses: true
})

// ok awaits a call, and reports an error without its URL and token.
async function ok(what, call) {
  try {
    return await call
  } catch (err) {
    throw new Error(`${what}: ${err.name} ${err.status ?? ''} ${err.code ?? ''} ${err.validationErrors ?? ''}`)
  }
}

async function rejects(what, status, code, call) {
  try {
    await call
  } catch (err) {
    assert.ok(err instanceof OpenPaymentsClientError, `${what}: ${err.name}`)
    assert.deepEqual([err.status, err.code], [status, code], what)
    return
  }
  assert.fail(`${what}: not rejected`)
}

const incoming = { type: 'incoming-payment', actions: ['create', 'complete', 'read', 'list'], identifier: world.shop }

async function newGrant() {
  const grant = await ok('grant', client.grant.request({ url: world.auth }, { access_token: { access: [incoming] } }))
  assert.ok(grant.access_token && grant.continue && !grant.interact, 'a grant with a token')
  assert.equal(grant.access_token.expires_in, 600)
  return grant
}

const manage = (token) => ({ url: token.manage, accessToken: token.value })
const proceed = (grant) => ({ url: grant.continue.uri, accessToken: grant.continue.access_token.value })

test('wallet address and keys', async () => {
  const wallet = await ok('wallet', client.walletAddress.get({ url: world.shop }))
  assert.equal(wallet.id, world.shop)
  assert.equal(wallet.authServer, world.auth)
  assert.equal(wallet.resourceServer, world.resource)
  const { keys } = await ok('keys', client.walletAddress.getKeys({ url: world.client }))
  assert.deepEqual(keys.map((key) => key.kid), [world.keyId])
})

test('grant, rotate, revoke', async () => {
  const grant = await newGrant()
  const { access_token: fresh } = await ok('rotate', client.token.rotate(manage(grant.access_token)))
  assert.ok(fresh.value !== grant.access_token.value && fresh.manage !== grant.access_token.manage, 'all is new')
  assert.deepEqual(fresh.access, [incoming])
  await rejects('rotate again', 401, 'invalid_client', client.token.rotate(manage(grant.access_token)))
  await ok('revoke', client.token.revoke(manage(fresh)))
  await rejects('rotate a revoked token', 401, 'invalid_client', client.token.rotate(manage(fresh)))
})

test('cancel', async () => {
  const grant = await newGrant()
  await ok('cancel', client.grant.cancel(proceed(grant)))
  await rejects('cancel again', 401, 'invalid_continuation', client.grant.cancel(proceed(grant)))
  await rejects('rotate', 401, 'invalid_client', client.token.rotate(manage(grant.access_token)))
})

test('interactive grant', async () => {
  const outgoing = { type: 'outgoing-payment', actions: ['create'], identifier: world.alice }
  const ask = (more) => client.grant.request({ url: world.auth }, { access_token: { access: [outgoing] }, ...more })
  await rejects('without interact', 400, 'invalid_request', ask({}))
  const grant = await ok('grant', ask({
    interact: { start: ['redirect'], finish: { method: 'redirect', uri: 'https://app.example/?a=1&b=2', nonce: 'n' } }
  }))
  assert.ok(grant.interact && !grant.access_token, 'consent is needed')
  const reference = { interact_ref: 'no-such-reference' }
  await rejects('wrong reference', 404, 'invalid_continuation', client.grant.continue(proceed(grant), reference))
  await rejects('poll', 400, 'too_fast', client.grant.continue(proceed(grant)))
  await ok('cancel', client.grant.cancel(proceed(grant)))
})

test('incoming payments', async () => {
  const accessToken = (await newGrant()).access_token.value
  const payment = await ok('create', client.incomingPayment.create({ url: world.resource, accessToken }, {
    walletAddress: world.shop,
    incomingAmount: { value: '1200', assetCode: 'USD', assetScale: 2 },
    expiresAt: new Date(Date.now() + 86400_000).toISOString(),
    metadata: { note: 'A & B <ü> €' }
  }))
  const { result } = await ok('list', client.incomingPayment.list({
    url: world.resource, accessToken, walletAddress: world.shop
  }, { first: 10 }))
  assert.deepEqual(result.map(({ id }) => id), [payment.id])
  const read = await ok('read', client.incomingPayment.get({ url: payment.id, accessToken }))
  assert.equal(read.metadata.note, 'A & B <ü> €')
  assert.equal(read.methods.length, 1)
  const open = await ok('read without a token', client.incomingPayment.getPublic({ url: payment.id }))
  assert.deepEqual(Object.keys(open).sort(), ['authServer', 'receivedAmount'])
  const done = await ok('complete', client.incomingPayment.complete({ url: payment.id, accessToken }))
  assert.equal(done.completed, true)
})

test('a rotated token is dead', async () => {
  const grant = await newGrant()
  const list = ({ value }) =>
    client.incomingPayment.list({ url: world.resource, accessToken: value, walletAddress: world.shop })
  await ok('list', list(grant.access_token))
  const { access_token: fresh } = await ok('rotate', client.token.rotate(manage(grant.access_token)))
  await rejects('list with the old token', 403, '403', list(grant.access_token))
  await ok('list with the new token', list(fresh))
})
