//! Under the seccomp profile that goes with it: the webhook of every test here, and the provider and the notifier of
//! theirs, which are the same program.

use std::fs;

use anyhow::{Result, ensure};
use bed::{eventually, webhook::ServingCertificate};

use crate::fixture::{SOON, Webhook, annotated};

#[tokio::test]
async fn under_the_profile_it_answers_and_follows_its_certificates_files() -> Result<()> {
    let webhook = Webhook::start().await?;
    let field = |name| webhook.process.proc().status_field(name);
    ensure!(field("Seccomp")? == "2" && field("NoNewPrivs")? == "1");
    let answer = webhook.client().await?.review(&annotated()).await?;
    ensure!(answer.patch()?.is_some(), "{answer:?}");

    // Of another authority, so that a connection tells which one is served.
    let next = ServingCertificate::new(webhook.address)?;
    ensure!(next.client(webhook.address).await.is_err(), "it is served already");
    fs::copy(next.certificate(), webhook.certificate.certificate())?;
    fs::copy(next.key(), webhook.certificate.key())?;
    let renewed = eventually(SOON, async || next.client(webhook.address).await?.review(&annotated()).await);
    ensure!(renewed.await?.patch()?.is_some());
    Ok(())
}
