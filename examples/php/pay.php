<?php

// SPDX-License-Identifier: MPL-2.0

// Gets paid, and pays, with the official Open Payments client through open-payments-proxy. This
// program has no access token and no key that a wallet knows: the proxy has both from Vault.
//
//   PROXY=http://127.0.0.1:9700 CALLER_FILE=/run/op/caller php pay.php INCOME SHOP AMOUNT [PAYER OWNER]
//
// INCOME is the grant to get paid with, and SHOP the wallet address that gets paid; PAYER and OWNER,
// if given, are the grant and the wallet address to pay with. AMOUNT is in the smallest unit of the
// wallet's asset: 1250 means 12.50 USD. CALLER_FILE holds the proxy's caller secret.

require __DIR__ . '/vendor/autoload.php';

use OpenPayments\AuthClient;
use OpenPayments\Config\Config;

if (($argc !== 4 && $argc !== 6) || !ctype_digit($argv[3])) {
    fwrite(STDERR, "usage: PROXY=… CALLER_FILE=… php pay.php INCOME SHOP AMOUNT [PAYER OWNER]\n");
    exit(2);
}
[, $income, $shop, $amount] = $argv;
$proxy = getenv('PROXY');
$secret = trim(file_get_contents(getenv('CALLER_FILE')));

// The client sends the token only if it has a key to sign with. The proxy puts Vault's signature in
// the place of the client's, so a key that was made just now will do. It is handed over as base64 of
// PEM, whose first bytes say that an Ed25519 key follows (RFC 8410).
$der = hex2bin('302e020100300506032b657004220420') . random_bytes(32);
$pem = "-----BEGIN PRIVATE KEY-----\n" . base64_encode($der) . "\n-----END PRIVATE KEY-----\n";
$client = new AuthClient(new Config($shop, base64_encode($pem), 'any'));
// The client goes on sending the last token, to whatever server: a client without a key, which sends
// none, reads the wallets' public documents.
$public = new AuthClient(new Config($shop));

$to = fn (string $url, string $grant): array => ['url' => $url, 'access_token' => "$grant.$secret"];
// The URL at which the proxy can be asked for an id.
$local = fn (string $id): string => $proxy . parse_url($id, PHP_URL_PATH);
// The amount in the asset of a wallet, as its public document tells it.
$money = function (string $address) use ($public, $amount): array {
    $wallet = $public->walletAddress()->get(['url' => $address]);

    return ['value' => $amount, 'assetCode' => $wallet->assetCode, 'assetScale' => $wallet->assetScale];
};

$invoice = $client->incomingPayment()->create($to($proxy, $income), [
    'walletAddress' => $shop,
    'incomingAmount' => $money($shop),
]);
echo "incoming payment created: $invoice->id\n";

if ($argc === 6) {
    [, , , , $payer, $owner] = $argv;
    // A payment whose answer did not arrive (504) may have been made: never repeat it.
    $payment = $client->outgoingPayment()->create($to($proxy, $payer), [
        'walletAddress' => $owner,
        'incomingPayment' => $invoice->id,
        'debitAmount' => $money($owner),
    ]);
    echo "outgoing payment created: $payment->id\n";

    $invoice = $client->incomingPayment()->get($to($local($invoice->id), $income));
    echo "received: {$invoice->receivedAmount->value}\n";
}
