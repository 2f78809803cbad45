// SPDX-License-Identifier: MPL-2.0

// Compares requests and responses with the OpenAPI documents.

import Ajv2020 from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'
import {
  getAuthServerOpenAPI,
  getResourceServerOpenAPI,
  getWalletAddressServerOpenAPI
} from '@interledger/open-payments'

export const world = JSON.parse(process.env.INTEROP)
export const authDocument = await getAuthServerOpenAPI()
export const resourceDocument = await getResourceServerOpenAPI()
const walletDocument = await getWalletAddressServerOpenAPI()

const sites = [
  [world.auth, authDocument],
  [world.resource, resourceDocument],
  [world.alice, walletDocument],
  [world.shop, walletDocument],
  [world.client, walletDocument]
]

// The packages' validators read the documents, which are OpenAPI 3.1, as JSON Schema draft 7: they
// ignore unevaluatedProperties and the formats in responses, and accept any BigInt as a uint64. So
// messages are checked twice: with the packages, which real servers and clients use, and with the
// documents to the letter.
const ajv = new Ajv2020({ strict: false, allErrors: true })
addFormats(ajv)
ajv.addFormat('uint64', (text) => /^\d+$/.test(text) && BigInt(text) < 2n ** 64n)

// errorsIn returns what is wrong, and where, but never a value.
export function errorsIn(schema, value) {
  const fits = ajv.compile(schema)
  return fits(value) ? [] : fits.errors.map((e) => `${e.instancePath} ${e.message}`)
}

function errorsOf(call) {
  try {
    call()
    return []
  } catch (err) {
    if (!Array.isArray(err.errors)) throw err
    return err.errors.map((e) => e.message)
  }
}

const json = (holder) => holder?.content?.['application/json']?.schema
const known = new Map()

// operationOf returns the operation that a request is for, by the raw bytes of its target.
export function operationOf(method, target) {
  const [address, query = ''] = target.split('?')
  for (const [base, document] of sites) {
    if (address !== base && !address.startsWith(base + '/')) continue
    const rest = address.slice(base.length).replace(/\/$/, '') || '/'
    for (const [path, methods] of Object.entries(document.paths)) {
      const [matched, id] = rest.match(new RegExp(`^${path.replace('{id}', '([^/]+)')}$`)) ?? []
      const spec = methods[method.toLowerCase()]
      if (matched === undefined || !spec) continue
      return {
        name: spec.operationId,
        params: id === undefined ? {} : { id: decodeURIComponent(id) },
        query: Object.fromEntries(new URLSearchParams(query)),
        ...validatorsOf(document, path, method.toLowerCase(), spec)
      }
    }
  }
  return undefined
}

function validatorsOf(document, path, method, spec) {
  if (!known.has(spec)) {
    known.set(spec, {
      request: document.createRequestValidator({ path, method }),
      response: document.createResponseValidator({ path, method }),
      spec
    })
  }
  return known.get(spec)
}

// requestErrors returns what in a request the document does not allow.
export function requestErrors(operation, headers, body) {
  const { params, query, spec } = operation
  // The validators change what they are given, and look at a body only if there is one.
  const request = { headers: { ...headers }, params, query: { ...query }, body: structuredClone(body) }
  const errors = errorsOf(() => operation.request(request))
  const schema = json(spec.requestBody)
  return schema && (body !== undefined || spec.requestBody.required) ? [...errors, ...errorsIn(schema, body)] : errors
}

// responseErrors returns what in a response the document does not allow. body is undefined if there
// is none.
export function responseErrors(operation, status, body) {
  const errors = errorsOf(() => operation.response({ status, body: structuredClone(body) }))
  const schema = json(operation.spec.responses[status])
  return schema ? [...errors, ...errorsIn(schema, body)] : errors
}
