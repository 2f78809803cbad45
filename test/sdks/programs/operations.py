# SPDX-License-Identifier: MPL-2.0
"""See package sdks: every operation, with urllib.request or http.client."""

import http.client
import json
import os
import sys
import urllib.parse
import urllib.request

proxy, shop, alice = (os.environ[name] for name in ("PROXY", "SHOP", "ALICE"))
with open(os.environ["CALLER_FILE"], encoding="ascii") as file:
    secret = file.read().strip()


def with_urllib(method, path, headers, body):
    request = urllib.request.Request(proxy + path, method=method, headers=headers, data=body)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


connection = http.client.HTTPConnection(urllib.parse.urlsplit(proxy).netloc)


def with_http_client(method, path, headers, body):
    connection.request(method, path, body, headers)
    with connection.getresponse() as answer:
        text = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text.decode()}")
        return json.loads(text)


exchange = {"urllib": with_urllib, "http.client": with_http_client}[sys.argv[1]]


def send(grant, method, path, body=None):
    headers = {"Authorization": f"GNAP {grant}.{secret}"}
    if body is not None:
        headers["Content-Type"] = "application/json"
        body = json.dumps(body).encode()
    return exchange(method, path, headers, body)


def new_invoice(value):
    amount = {"value": value, "assetCode": "USD", "assetScale": 2}
    body = {"walletAddress": shop, "incomingAmount": amount, "metadata": {"for": "Brötchen"}}
    return send("shop.income", "POST", "/incoming-payments", body)


def local(url):
    return urllib.parse.urlsplit(url).path


def listed(grant, collection, wallet):
    query = urllib.parse.urlencode({"wallet-address": wallet, "first": 100})
    return [entry["id"] for entry in send(grant, "GET", f"/{collection}?{query}")["result"]]


invoice = new_invoice("500")
assert invoice["metadata"] == {"for": "Brötchen"}
assert invoice["id"] in listed("shop.income", "incoming-payments", shop)

quote = send("quotes", "POST", "/quotes", {"walletAddress": alice, "receiver": invoice["id"], "method": "ilp"})
quote = send("quotes", "GET", local(quote["id"]))

payment = send("rent", "POST", "/outgoing-payments", {"walletAddress": alice, "quoteId": quote["id"]})
send("rent", "GET", local(payment["id"]))
assert payment["id"] in listed("rent", "outgoing-payments", alice)
send("rent", "GET", "/outgoing-payment-grant")

unpaid = new_invoice("1")
assert send("shop.income", "POST", local(unpaid["id"]) + "/complete")["completed"]

for _ in range(100):
    send("shop.income", "GET", local(invoice["id"]))
print(invoice["id"], payment["id"], unpaid["id"])
