// SPDX-License-Identifier: MPL-2.0

// Gets paid, and pays, with the official Open Payments client through open-payments-proxy. This
// program has no access token and no key that a wallet knows: the proxy has both from Vault.
//
//   PROXY=http://127.0.0.1:9700 CALLER_FILE=/run/op/caller dotnet run -- INCOME SHOP AMOUNT [PAYER OWNER]
//
// INCOME is the grant to get paid with, and SHOP the wallet address that gets paid; PAYER and OWNER,
// if given, are the grant and the wallet address to pay with. AMOUNT is in the smallest unit of the
// wallet's asset: 1250 means 12.50 USD. CALLER_FILE holds the proxy's caller secret.

using Microsoft.Extensions.DependencyInjection;
using NSec.Cryptography;
using OpenPayments.Sdk.Clients;
using OpenPayments.Sdk.Extensions;
using OpenPayments.Sdk.Generated.Resource;

if (args.Length is not (3 or 5))
{
    Console.Error.WriteLine("usage: PROXY=… CALLER_FILE=… dotnet run -- INCOME SHOP AMOUNT [PAYER OWNER]");
    return 2;
}
var (income, shop, amount) = (args[0], args[1], args[2]);
var proxy = new Uri(Environment.GetEnvironmentVariable("PROXY")!);
var secret = File.ReadAllText(Environment.GetEnvironmentVariable("CALLER_FILE")!).Trim();

// The client signs each request, and the proxy puts Vault's signature in the place of that one: a
// key that was made just now will do.
using var key = Key.Create(SignatureAlgorithm.Ed25519);
var client = new ServiceCollection()
    .UseOpenPayments(options =>
    {
        options.UseAuthenticatedClient = true;
        options.KeyId = "any";
        options.PrivateKey = key;
        options.ClientUrl = new Uri(shop);
    })
    .BuildServiceProvider()
    .GetRequiredService<IAuthenticatedClient>();

AuthRequestArgs To(Uri url, string grant) => new() { Url = url, AccessToken = $"{grant}.{secret}" };

// The URL at which the proxy can be asked for an id.
Uri Local(Uri id) => new(proxy, id.AbsolutePath);

// The amount in the asset of a wallet, as its public document tells it.
async Task<Amount> Money(string address)
{
    var wallet = await client.GetWalletAddressAsync(address);
    return new Amount(amount, wallet.AssetCode, wallet.AssetScale);
}

var invoice = await client.CreateIncomingPaymentAsync(To(proxy, income), new IncomingPaymentBody
{
    WalletAddress = new Uri(shop),
    IncomingAmount = await Money(shop),
});
Console.WriteLine($"incoming payment created: {invoice.Id}");

if (args.Length == 5)
{
    var (payer, owner) = (args[3], args[4]);
    // A payment whose answer did not arrive (504) may have been made: never repeat it.
    var payment = await client.CreateOutgoingPaymentAsync(To(proxy, payer),
        new OutgoingPaymentBodyFromIncomingPayment
        {
            WalletAddress = new Uri(owner),
            IncomingPayment = invoice.Id,
            DebitAmount = await Money(owner),
        });
    Console.WriteLine($"outgoing payment created: {payment.Id}");

    invoice = await client.GetIncomingPaymentAsync(To(Local(invoice.Id), income));
    Console.WriteLine($"received: {invoice.ReceivedAmount.Value}");
}
return 0;
