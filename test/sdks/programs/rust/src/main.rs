// SPDX-License-Identifier: MPL-2.0

//! See package sdks: every operation, with the official client.

use ed25519_dalek::SigningKey;
use open_payments::client::{AuthenticatedClient, AuthenticatedResources, ClientConfig};
use open_payments::types::{
    Amount, IncomingPaymentRequest, OutgoingPaymentRequest, PaymentMethodType, QuoteRequest, Receiver,
};
use reqwest::Url;
use std::{env, error::Error, fs};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (proxy, shop, alice) = (env::var("PROXY")?, env::var("SHOP")?, env::var("ALICE")?);
    let secret = fs::read_to_string(env::var("CALLER_FILE")?)?;
    let token = |grant: &str| format!("{grant}.{}", secret.trim());
    let (income, quotes, rent) = (token("shop.income"), token("quotes"), token("rent"));
    let (income, quotes, rent) = (Some(income.as_str()), Some(quotes.as_str()), Some(rent.as_str()));
    let local = |id: &str| -> Result<String, Box<dyn Error>> {
        Ok(Url::parse(&proxy)?.join(Url::parse(id)?.path())?.into())
    };
    let client = AuthenticatedClient {
        http_client: reqwest::Client::new(),
        config: ClientConfig { key_id: "dummy".to_owned(), ..ClientConfig::default() },
        signing_key: SigningKey::from_bytes(&[0; 32]),
    };
    let (incoming, outgoing) = (client.incoming_payments(), client.outgoing_payments());
    let new_invoice = |value: &str| IncomingPaymentRequest {
        wallet_address: shop.clone(),
        incoming_amount: Some(Amount { value: value.to_owned(), asset_code: "USD".to_owned(), asset_scale: 2 }),
        expires_at: None,
        metadata: None,
    };

    let invoice = incoming.create(&proxy, &new_invoice("500"), income).await?;
    let listed = incoming.list(&proxy, &shop, None, Some(100), None, income).await?;
    assert!(listed.result.iter().any(|payment| payment.id == invoice.id), "the payment is not in the list");

    let request = QuoteRequest::NoAmountQuote {
        wallet_address: alice.clone(),
        receiver: Receiver(invoice.id.clone()),
        method: PaymentMethodType::Ilp,
    };
    let quote = client.quotes().create(&proxy, &request, quotes).await?;
    let quote = client.quotes().get(&local(&quote.id)?, quotes).await?;

    let request = OutgoingPaymentRequest::FromQuote {
        wallet_address: alice.clone(),
        quote_id: quote.id.clone(),
        metadata: None,
    };
    let payment = outgoing.create(&proxy, &request, rent).await?;
    outgoing.get(&local(&payment.id)?, rent).await?;
    let listed = outgoing.list(&proxy, &alice, None, Some(100), None, rent).await?;
    assert!(listed.result.iter().any(|other| other.id == payment.id), "the payment is not in the list");
    outgoing.get_grant_spent_amounts(&proxy, rent).await?;

    let unpaid = incoming.create(&proxy, &new_invoice("1"), income).await?;
    assert!(incoming.complete(&local(&unpaid.id)?, income).await?.completed, "the payment is not completed");

    for _ in 0..100 {
        incoming.get(&local(&invoice.id)?, income).await?;
    }
    println!("{} {} {}", invoice.id, payment.id, unpaid.id);
    Ok(())
}
