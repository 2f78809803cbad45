// SPDX-License-Identifier: MPL-2.0

// See package sdks: every operation, with the official client. With a key in the environment the
// client signs with it; without one it signs nothing.

import assert from 'node:assert'
import { createPrivateKey } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const require = createRequire(new URL('../../../examples/node/package.json', import.meta.url))
const { createAuthenticatedClient } = require('@interledger/open-payments')

const { PROXY: url, SHOP: shop, ALICE: alice, CALLER_FILE, DUMMY_KEY } = process.env
const secret = readFileSync(CALLER_FILE, 'utf8').trim()
const client = await createAuthenticatedClient({
  walletAddressUrl: shop,
  ...(DUMMY_KEY
    ? { keyId: 'dummy', privateKey: createPrivateKey(DUMMY_KEY) }
    : { authenticatedRequestInterceptor: (request) => request })
})

const local = (id) => url + new URL(id).pathname
const income = { url, accessToken: `shop.income.${secret}` }
const quotes = { url, accessToken: `quotes.${secret}` }
const rent = { url, accessToken: `rent.${secret}` }
const newInvoice = (value) =>
  client.incomingPayment.create(income, {
    walletAddress: shop,
    incomingAmount: { value, assetCode: 'USD', assetScale: 2 },
    metadata: { for: 'Brötchen' }
  })

const invoice = await newInvoice('500')
assert.deepEqual(invoice.metadata, { for: 'Brötchen' })
const invoices = await client.incomingPayment.list({ ...income, walletAddress: shop }, { first: 100 })
assert(invoices.result.some(({ id }) => id === invoice.id))

const created = await client.quote.create(quotes, { walletAddress: alice, receiver: invoice.id, method: 'ilp' })
const quote = await client.quote.get({ ...quotes, url: local(created.id) })

const payment = await client.outgoingPayment.create(rent, { walletAddress: alice, quoteId: quote.id })
await client.outgoingPayment.get({ ...rent, url: local(payment.id) })
const payments = await client.outgoingPayment.list({ ...rent, walletAddress: alice }, { first: 100 })
assert(payments.result.some(({ id }) => id === payment.id))

const unpaid = await newInvoice('1')
const completed = await client.incomingPayment.complete({ ...income, url: local(unpaid.id) })
assert(completed.completed)

for (let i = 0; i < 100; i++) await client.incomingPayment.get({ ...income, url: local(invoice.id) })
console.log(invoice.id, payment.id, unpaid.id)
