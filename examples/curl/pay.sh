#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0

# Gets paid, and pays, without the client's private key: the key stays in Vault, which signs. This
# needs only vault (or bao, OpenBao's) and curl, so that it can be done the same way in a language for
# which there is no example.
#
#   pay.sh MOUNT INCOME AMOUNT [PAYER]
#
# INCOME is the grant to get paid with and PAYER, if given, the grant to pay with. AMOUNT is in the
# smallest unit of the wallet's asset: 1250 means 12.50 USD. VAULT_ADDR and VAULT_TOKEN name the
# Vault server and the token to use, and vault's other variables count, such as VAULT_CACERT. If
# neither VAULT_ADDR nor VAULT_TOKEN is set, OpenBao's are used: BAO_ADDR, BAO_TOKEN and so on.
set -euo pipefail

if (($# < 3 || $# > 4)) || [[ ! $3 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: VAULT_ADDR=… VAULT_TOKEN=… pay.sh MOUNT INCOME AMOUNT [PAYER]" >&2
  echo "(or BAO_ADDR=… BAO_TOKEN=…)" >&2
  exit 2
fi

# The command of the server that the environment names, or else the other one, which works as well:
# bao reads VAULT_ADDR and so on where there is no BAO_ADDR, but vault does not read BAO_ADDR.
cli=vault other=bao
if [[ -z ${VAULT_ADDR:-}${VAULT_TOKEN:-} && -n ${BAO_ADDR:-}${BAO_TOKEN:-} ]]; then
  cli=bao other=vault
  for name in $(compgen -e BAO_); do
    export "VAULT_${name#BAO_}=${!name}"
  done
fi
if ! command -v "$cli" >/dev/null; then
  cli=$other
fi
if ! command -v "$cli" >/dev/null; then
  echo "pay.sh: neither vault nor bao is on the PATH" >&2
  exit 1
fi

mount=$1 income=$2 amount=$3 payer=${4:-}

# Tokens and headers are passed in files that only this user may read: every user of the machine can
# see a command's arguments.
work=$(mktemp -d)
cd "$work"
touch leases
end() {
  local status=$?
  trap - EXIT
  # Revoking the leases ends the tokens now instead of in ten minutes. Whoever knows a lease's id
  # can renew it, so the ids are also passed in a file.
  while read -r lease; do
    printf %s "$lease" >lease
    "$cli" write sys/leases/revoke lease_id=@lease sync=true >/dev/null </dev/null || status=1
  done <leases
  rm -rf "$work"
  exit "$status"
}
trap end EXIT

# The characters that vault and bao escape in JSON, of those that occur here.
unescape='s/\\u0026/\&/g; s/\\u003c/</g; s/\\u003e/>/g; s/\\\(["\\/]\)/\1/g'

# member NAME FILE prints the first string or number of that name in a JSON file. That suffices for
# the responses here: their strings contain no quotation marks.
member() {
  grep -Eo "\"$1\" *: *(\"[^\"]*\"|[0-9]+)" "$2" | sed -e '2,$d; s/^"[^"]*" *: *//; s/^"//; s/"$//' -e "$unescape" || {
    echo "there is no $1 in ${2%.json}" >&2
    return 1
  }
}

# post GRANT URL BODY has Vault sign a request and sends it. It prints the status, and leaves the
# response in the file answer. If Vault itself rejects the token, the status is 401.
post() {
  local request=(access_token=@access_token method=POST url="$2" body="$3")
  # The signature covers the body in the form that Vault returns, to the byte; that form is the same
  # each time.
  if ! "$cli" write -format=table -field=body "$mount/sign/$1" "${request[@]}" >body 2>answer ||
    ! "$cli" write -format=json -field=headers "$mount/sign/$1" "${request[@]}" >headers.json 2>answer; then
    if grep -q 'access_token: ' answer; then
      printf 401
      return
    fi
    cat answer >&2
    return 1
  fi
  sed -n 's/^ *"\([^"]*\)": "\(.*\)",\{0,1\}$/\1: \2/p' headers.json | sed "$unescape" >headers
  curl -sS -H @headers -H 'Accept: application/json' --data-binary @body -o answer -w '%{http_code}' "$2" || {
    echo "POST $2: there is no response, so the payment may have been made" >&2
    return 1
  }
}

# create GRANT COLLECTION FIELD [MORE] creates a payment with the amount in FIELD, and sets created
# to its URL.
create() {
  local attempt token wallet url code scale body status
  for attempt in 1 2; do
    "$cli" read -format=json "$mount/token/$1" >token.json
    member lease_id token.json >>leases
    token=$(member access_token token.json)
    printf %s "$token" >access_token
    wallet=$(member wallet_address token.json)
    url=$(member resource_server token.json)/$2
    curl -sS -f -H 'Accept: application/json' -o wallet.json "$wallet" || { # a public document
      echo "GET $wallet failed" >&2
      exit 1
    }
    code=$(member assetCode wallet.json)
    scale=$(member assetScale wallet.json)
    body=$(printf '{"walletAddress": "%s", "%s": {"value": "%s", "assetCode": "%s", "assetScale": %s}%s}' \
      "$wallet" "$3" "$amount" "$code" "$scale" "${4:-}")
    status=$(post "$1" "$url" "$body")
    case $status in
      201)
        created=$(member id answer)
        return
        ;;
      # A grant has one live token. Any other reader replaces it, even between this script's read
      # and its request; a second read helps then. A rejected request has done nothing, so this pays
      # nothing twice.
      401 | 403) ;;
      *) break ;;
    esac
  done
  echo "POST $url: $status" >&2
  cat answer >&2
  exit 1
}

create "$income" incoming-payments incomingAmount
invoice=$created
echo "incoming payment created: $invoice"

if [[ -n $payer ]]; then
  create "$payer" outgoing-payments debitAmount ', "incomingPayment": "'"$invoice"'"'
  echo "outgoing payment created: $created"
fi
