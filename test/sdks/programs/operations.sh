#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0

# See package sdks: every operation, with curl.
set -euo pipefail

# send GRANT METHOD PATH [BODY]
# The secret is in a file: every user of the machine can see a command's arguments.
send() {
  printf 'Authorization: GNAP %s.%s\n' "$1" "$(cat "$CALLER_FILE")" >"$WORK/header"
  curl -sS --fail-with-body -X "$2" -H @"$WORK/header" ${4:+--json "$4"} "$PROXY$3"
}
# member NAME prints the first member of that name, which is a string or true, of what it reads.
member() { grep -o "\"$1\":[^,}]*" | sed -e '2,$d; s/^[^:]*://; s/^"//; s/"$//'; }
# local URL prints the path of an id.
local_path() { printf '%s' "/${1#*://*/}"; }
new_invoice() {
  send shop.income POST /incoming-payments \
    '{"walletAddress": "'"$SHOP"'", "incomingAmount": {"value": "'"$1"'", "assetCode": "USD", "assetScale": 2}}' |
    member id
}

invoice=$(new_invoice 500)
send shop.income GET "/incoming-payments?first=100&wallet-address=$SHOP" | grep -q "\"$invoice\""

quote=$(send quotes POST /quotes \
  '{"walletAddress": "'"$ALICE"'", "receiver": "'"$invoice"'", "method": "ilp"}' | member id)
send quotes GET "$(local_path "$quote")" >/dev/null

payment=$(send rent POST /outgoing-payments '{"walletAddress": "'"$ALICE"'", "quoteId": "'"$quote"'"}' | member id)
send rent GET "$(local_path "$payment")" >/dev/null
send rent GET "/outgoing-payments?first=100&wallet-address=$ALICE" | grep -q "\"$payment\""
send rent GET /outgoing-payment-grant >/dev/null

unpaid=$(new_invoice 1)
[[ $(send shop.income POST "$(local_path "$unpaid")/complete" | member completed) == true ]]

for ((i = 0; i < 100; i++)); do
  send shop.income GET "$(local_path "$invoice")" >/dev/null
done
echo "$invoice $payment $unpaid"
