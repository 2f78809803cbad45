// SPDX-License-Identifier: MPL-2.0

// Gets paid, and pays, with the official Open Payments client and without the client's private key:
// the key stays in Vault, which signs.
//
//   node pay.mjs MOUNT INCOME AMOUNT [PAYER]
//
// INCOME is the grant to get paid with and PAYER, if given, the grant to pay with. AMOUNT is in the
// smallest unit of the wallet's asset: 1250 means 12.50 USD. VAULT_ADDR and VAULT_TOKEN name the
// Vault server and the token to use; VAULT_NAMESPACE, VAULT_CACERT, VAULT_CLIENT_CERT,
// VAULT_CLIENT_KEY and VAULT_TLS_SERVER_NAME mean what they mean for the vault command. If neither
// VAULT_ADDR nor VAULT_TOKEN is set, OpenBao's variables are used: BAO_ADDR, BAO_TOKEN and so on.

import { readFileSync } from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import { createAuthenticatedClient } from '@interledger/open-payments'

const [mount, income, amount, payer] = process.argv.slice(2)
const { env } = process
const openBao = !env.VAULT_ADDR && !env.VAULT_TOKEN
const setting = (name) => (openBao && env[`BAO_${name}`]) || env[`VAULT_${name}`]
if (!/^[1-9]\d*$/.test(amount) || !setting('ADDR') || !setting('TOKEN')) {
  console.error('usage: VAULT_ADDR=… VAULT_TOKEN=… node pay.mjs MOUNT INCOME AMOUNT [PAYER]')
  console.error('(or BAO_ADDR=… BAO_TOKEN=…)')
  process.exit(2)
}

// Node's fetch cannot be told which CA to trust, so requests to Vault are sent with node:https.
const file = (name) => setting(name) && readFileSync(setting(name))
const vaultAddress = setting('ADDR').replace(/\/+$/, '')
const vaultOptions = {
  headers: {
    'X-Vault-Token': setting('TOKEN'),
    'X-Vault-Request': 'true', // a Vault Agent or Proxy may require it
    ...(setting('NAMESPACE') && { 'X-Vault-Namespace': setting('NAMESPACE') })
  },
  ca: file('CACERT'),
  cert: file('CLIENT_CERT'),
  key: file('CLIENT_KEY'),
  servername: setting('TLS_SERVER_NAME')
}

async function vault(path, data) {
  const { status, text } = await new Promise((resolve, reject) => {
    const { request } = vaultAddress.startsWith('https:') ? https : http
    const method = data ? 'POST' : 'GET'
    request(`${vaultAddress}/v1/${path}`, { ...vaultOptions, method }, async (response) => {
      try {
        let text = ''
        for await (const chunk of response.setEncoding('utf8')) text += chunk
        resolve({ status: response.statusCode, text })
      } catch (err) {
        reject(err)
      }
    })
      .on('error', reject)
      .end(data && JSON.stringify(data))
  })
  let answer = {} // the response to a revocation has no body, and an error page is not JSON
  try {
    answer = JSON.parse(text)
  } catch {}
  if (status >= 300) throw new Error(answer.errors?.join('; ') || `${vaultAddress} returned ${status}`)
  return answer
}

const leases = []
const grantOf = new Map() // by access token

async function readToken(grant) {
  const { lease_id, data } = await vault(`${mount}/token/${grant}`)
  leases.push(lease_id)
  grantOf.set(data.access_token, grant)
  return data
}

// A grant has one live token. Any other reader replaces it, even between this script's read and its
// request; a second read helps then. A rejected request has done nothing, so this pays nothing
// twice. A payment whose response never arrived may have been made, and must not be repeated this
// way.
async function withToken(grant, use) {
  try {
    return await use(await readToken(grant))
  } catch (err) {
    const rejectedByServer = err.status === 401 || err.status === 403
    const rejectedByVault = err.description?.startsWith('access_token:')
    if (!rejectedByServer && !rejectedByVault) throw err
    return use(await readToken(grant))
  }
}

// The client calls this instead of signing.
async function signInVault(request) {
  const token = request.headers.get('Authorization')?.replace(/^GNAP /, '')
  const { data } = await vault(`${mount}/sign/${grantOf.get(token)}`, {
    access_token: token,
    method: request.method,
    url: request.url,
    body: await request.text()
  })
  const headers = new Headers(request.headers)
  for (const [name, value] of Object.entries(data.headers)) headers.set(name, value)
  // The signature covers the body that Vault returned, byte for byte, not the original one.
  return new Request(request, { headers, body: data.body })
}

const client = await createAuthenticatedClient({
  authenticatedRequestInterceptor: signInVault,
  walletAddressUrl: '', // who asks for grants; here that is up to Vault
  requestTimeoutMs: 30_000 // after a timeout it is unknown whether there is a payment
})

const amountIn = ({ assetCode, assetScale }) => ({ value: amount, assetCode, assetScale })

try {
  const invoice = await withToken(income, async (token) => {
    const wallet = await client.walletAddress.get({ url: token.wallet_address })
    return client.incomingPayment.create(
      { url: token.resource_server, accessToken: token.access_token },
      { walletAddress: token.wallet_address, incomingAmount: amountIn(wallet) }
    )
  })
  console.log(`incoming payment created: ${invoice.id}`)

  if (payer) {
    const payment = await withToken(payer, async (token) => {
      const wallet = await client.walletAddress.get({ url: token.wallet_address })
      return client.outgoingPayment.create(
        { url: token.resource_server, accessToken: token.access_token },
        { walletAddress: token.wallet_address, incomingPayment: invoice.id, debitAmount: amountIn(wallet) }
      )
    })
    console.log(`outgoing payment created: ${payment.id}`)
  }
} catch (err) {
  let cause = err
  while (cause.cause) cause = cause.cause
  console.error(err.description ?? cause.message)
  process.exitCode = 1
} finally {
  // Revoking the leases ends the tokens now instead of in ten minutes.
  for (const lease_id of leases) await vault('sys/leases/revoke', { lease_id, sync: true })
}
