#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Gets paid, and pays, through open-payments-proxy. This program has no key and no access token: the
proxy has both from Vault. It needs nothing but Python 3.9 or later.

    PROXY=http://127.0.0.1:9700 CALLER_FILE=/run/op/caller pay.py INCOME SHOP AMOUNT [PAYER OWNER]

INCOME is the grant to get paid with, and SHOP the wallet address that gets paid; PAYER and OWNER, if
given, are the grant and the wallet address to pay with. AMOUNT is in the smallest unit of the
wallet's asset: 1250 means 12.50 USD. CALLER_FILE holds the proxy's caller secret.
"""

import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request

if len(sys.argv) not in (4, 6) or not sys.argv[3].isdecimal():
    sys.exit(__doc__)
income, shop, amount = sys.argv[1:4]
proxy = os.environ["PROXY"]
with open(os.environ["CALLER_FILE"], encoding="ascii") as file:
    secret = file.read().strip()


def send(grant, method, path, body=None):
    """Sends a request, and returns the answer. A payment whose answer did not arrive (504) may have
    been made: never repeat it."""
    request = urllib.request.Request(proxy + path, method=method, data=body and json.dumps(body).encode())
    request.add_header("Authorization", f"GNAP {grant}.{secret}")
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        sys.exit(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}")


def local(url):
    """Returns the path of an id, with which the proxy can be asked for it."""
    return urllib.parse.urlsplit(url).path


def money(wallet):
    """Returns the amount in the asset of a wallet, as its public document tells it."""
    with urllib.request.urlopen(wallet) as answer:
        document = json.load(answer)
    return {"value": amount, "assetCode": document["assetCode"], "assetScale": document["assetScale"]}


invoice = send(income, "POST", "/incoming-payments", {"walletAddress": shop, "incomingAmount": money(shop)})
print("incoming payment created:", invoice["id"], flush=True)

if len(sys.argv) == 6:
    payer, owner = sys.argv[4:]
    order = {"walletAddress": owner, "incomingPayment": invoice["id"], "debitAmount": money(owner)}
    payment = send(payer, "POST", "/outgoing-payments", order)
    print("outgoing payment created:", payment["id"])

    invoice = send(income, "GET", local(invoice["id"]))
    print("received:", invoice["receivedAmount"]["value"])
