// SPDX-License-Identifier: MPL-2.0

// What the OpenAPI documents say of a request or an answer.

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

// The packages' validators read the documents, which are of OpenAPI 3.1, as JSON Schema draft 7: they do not know
// unevaluatedProperties, look at no format in answers, and take any BigInt for a uint64. So both are asked: the
// packages, which real servers and clients use, and the documents to the letter.
const ajv = new Ajv2020({ strict: false, allErrors: true })
addFormats(ajv)
ajv.addFormat('uint64', (text) => /^\d+$/.test(text) && BigInt(text) < 2n ** 64n)

// errorsIn never holds a value: only what should have been, and where.
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

// operationOf finds what a request asks for, by the raw bytes of its target.
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

// requestErrors says what in a request the document does not allow.
export function requestErrors(operation, headers, body) {
  const { params, query, spec } = operation
  // The validators convert what they are given, and look at the body if there is one.
  const request = { headers: { ...headers }, params, query: { ...query }, body: structuredClone(body) }
  const errors = errorsOf(() => operation.request(request))
  const schema = json(spec.requestBody)
  return schema && (body !== undefined || spec.requestBody.required) ? [...errors, ...errorsIn(schema, body)] : errors
}

// answerErrors says what in an answer the document does not allow. body is undefined if there is none.
export function answerErrors(operation, status, body) {
  const errors = errorsOf(() => operation.response({ status, body: structuredClone(body) }))
  const schema = json(operation.spec.responses[status])
  return schema ? [...errors, ...errorsIn(schema, body)] : errors
}
