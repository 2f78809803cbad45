// SPDX-License-Identifier: MPL-2.0

//! Gets paid, and pays, with the official Open Payments client through open-payments-proxy. This
//! program has no access token and no key that a wallet knows: the proxy has both from Vault.
//!
//!     PROXY=http://127.0.0.1:9700 CALLER_FILE=/run/op/caller cargo run -- INCOME SHOP AMOUNT [PAYER OWNER]
//!
//! INCOME is the grant to get paid with, and SHOP the wallet address that gets paid; PAYER and
//! OWNER, if given, are the grant and the wallet address to pay with. AMOUNT is in the smallest unit
//! of the wallet's asset: 1250 means 12.50 USD. CALLER_FILE holds the proxy's caller secret.

use ed25519_dalek::SigningKey;
use open_payments::client::{
    AuthenticatedClient, AuthenticatedResources, ClientConfig, UnauthenticatedResources,
};
use open_payments::types::{Amount, IncomingPaymentRequest, OutgoingPaymentRequest};
use reqwest::Url;
use std::{env, error::Error, fs, process::exit};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let (income, shop, amount, payer) = match args.as_slice() {
        [income, shop, amount] => (income, shop, amount, None),
        [income, shop, amount, payer, owner] => (income, shop, amount, Some((payer, owner))),
        _ => {
            eprintln!("usage: PROXY=… CALLER_FILE=… pay INCOME SHOP AMOUNT [PAYER OWNER]");
            exit(2);
        }
    };
    let proxy = env::var("PROXY")?;
    let secret = fs::read_to_string(env::var("CALLER_FILE")?)?;
    let token = |grant: &str| format!("{grant}.{}", secret.trim());

    // The client signs each request, and the proxy puts Vault's signature in the place of that one:
    // any key will do. Built like this, the client neither reads nor writes a key file.
    let client = AuthenticatedClient {
        http_client: reqwest::Client::new(),
        config: ClientConfig::default(),
        signing_key: SigningKey::from_bytes(&[0; 32]),
    };

    let request = IncomingPaymentRequest {
        wallet_address: shop.clone(),
        incoming_amount: Some(money(&client, shop, amount).await?),
        expires_at: None,
        metadata: None,
    };
    let invoice = client.incoming_payments().create(&proxy, &request, Some(&token(income))).await?;
    println!("incoming payment created: {}", invoice.id);

    if let Some((payer, owner)) = payer {
        let request = OutgoingPaymentRequest::FromIncomingPayment {
            wallet_address: owner.clone(),
            incoming_payment_id: invoice.id.clone(),
            debit_amount: money(&client, owner, amount).await?,
            metadata: None,
        };
        // A payment whose answer did not arrive (504) may have been made: never repeat it.
        let payment = client.outgoing_payments().create(&proxy, &request, Some(&token(payer))).await?;
        println!("outgoing payment created: {}", payment.id);

        let url = local(&proxy, &invoice.id)?;
        let invoice = client.incoming_payments().get(&url, Some(&token(income))).await?;
        println!("received: {}", invoice.received_amount.value);
    }
    Ok(())
}

/// Returns the URL at which the proxy can be asked for an id.
fn local(proxy: &str, id: &str) -> Result<String, Box<dyn Error>> {
    Ok(Url::parse(proxy)?.join(Url::parse(id)?.path())?.into())
}

/// Returns the amount in the asset of a wallet, as its public document tells it.
async fn money(client: &AuthenticatedClient, wallet: &str, amount: &str) -> Result<Amount, Box<dyn Error>> {
    let wallet = client.wallet_address().get(wallet).await?;
    Ok(Amount {
        value: amount.to_owned(),
        asset_code: wallet.asset_code,
        asset_scale: wallet.asset_scale,
    })
}
