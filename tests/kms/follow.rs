//! `--follow-key`: a key that changes behind its name gets a new key_id, once and for good.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bed::{Call, Fault, Rule, eventually};
use serde_json::json;
use tokio::time::sleep;
use tonic::Code;

use crate::fixture::{Api, Fixture, Plugin, SOON, id_of, refused};

/// The ARN in a key_id, which goes on with the material and the time of the alias.
fn arn_in(key_id: &str) -> &str {
    key_id.split('#').next().unwrap_or(key_id)
}

/// Encrypts, and holds the answer against what Status says before and after, and against the key that
/// really encrypted: LocalStack's ciphertexts begin with its id.
async fn encrypt_consistently(api: &Api, plaintext: &[u8]) -> Result<(Vec<u8>, String)> {
    let before = api.status().await?;
    let answer = api.encrypt(plaintext).await?;
    let after = api.status().await?;
    ensure!(before.healthz == "ok" && after.healthz == "ok", "{before:?}, {after:?}");
    ensure!([&before.key_id, &after.key_id].contains(&&answer.key_id), "{before:?}, {}, {after:?}", answer.key_id);
    let blob = if answer.ciphertext[0] == 0xC5 { &answer.ciphertext[4..] } else { &answer.ciphertext[1..] };
    let key = id_of(arn_in(&answer.key_id)).as_bytes();
    ensure!(blob.starts_with(key), "{} is not the key that encrypted", answer.key_id);
    Ok((answer.ciphertext, answer.key_id))
}

/// Encrypts all the time until the key_id is another one; gives that, and all that was encrypted.
async fn until_it_changes(api: &Api) -> Result<(String, Vec<(Vec<u8>, String)>)> {
    let first = api.status().await?.key_id;
    let mut written = Vec::new();
    let deadline = Instant::now() + SOON;
    loop {
        ensure!(Instant::now() < deadline, "the key_id is still {first}");
        let (ciphertext, key_id) = encrypt_consistently(api, b"seed").await?;
        written.push((ciphertext, key_id.clone()));
        if key_id != first {
            return Ok((key_id, written));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

struct Alias {
    fixture: Fixture,
    keys: [String; 2],
}

impl Alias {
    const NAME: &str = "alias/etcd";

    async fn new() -> Result<Self> {
        let fixture = Fixture::new().await?;
        let keys = [fixture.key().await?, fixture.key().await?];
        fixture.kms("CreateAlias", json!({"AliasName": Self::NAME, "TargetKeyId": keys[0]})).await?;
        Ok(Self { fixture, keys })
    }

    /// Moves the alias, and dates that as KMS does, in whole seconds here: LocalStack knows no date of it.
    async fn move_to(&self, key: &str) -> Result<()> {
        sleep(Duration::from_millis(1_100)).await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let entry = json!({"AliasName": Self::NAME, "TargetKeyId": id_of(key), "LastUpdatedDate": now});
        let answer = Fault::Body(json!({"Aliases": [entry], "Truncated": false}).to_string());
        let key_id = key.to_owned();
        let of_it = move |call: &Call| call.operation == "ListAliases" && call.request["KeyId"] == key_id;
        self.fixture.proxy.fault(Rule::new(answer).when(of_it));
        self.fixture.kms("UpdateAlias", json!({"AliasName": Self::NAME, "TargetKeyId": id_of(key)})).await?;
        Ok(())
    }

    async fn serve(&self, flags: &[&str]) -> Result<Plugin> {
        self.fixture.serve(Self::NAME, &[&["--follow-key"], flags].concat()).await
    }
}

async fn there_and_back(format: &str) -> Result<()> {
    let alias = Alias::new().await?;
    let flags = ["--activation-delay=2s", "--decrypt-cache-ttl=0", format];
    let plugin = alias.serve(&flags).await?;
    let mut key_ids = vec![plugin.api.status().await?.key_id];
    ensure!(arn_in(&key_ids[0]) == alias.keys[0], "{key_ids:?}");
    let mut written = Vec::new();
    for key in [&alias.keys[1], &alias.keys[0]] {
        alias.move_to(key).await?;
        let (key_id, more) = until_it_changes(&plugin.api).await?;
        ensure!(arn_in(&key_id) == key && !key_ids.contains(&key_id), "{key_id} after {key_ids:?}");
        key_ids.push(key_id);
        written.extend(more);
    }
    // And there it stays.
    let settled = Instant::now() + Duration::from_secs(3);
    while Instant::now() < settled {
        ensure!(encrypt_consistently(&plugin.api, b"seed").await?.1 == key_ids[2]);
        sleep(Duration::from_millis(50)).await;
    }
    for (ciphertext, key_id) in written.iter().step_by(9) {
        ensure!(plugin.api.decrypt(ciphertext, key_id).await? == b"seed", "{key_id}");
        ensure!(plugin.api.decrypt_v1(ciphertext).await? == b"seed", "{key_id}");
    }
    // After a restart, and in another process, it is the same.
    plugin.stop().await?;
    let again = alias.serve(&flags).await?;
    ensure!(again.api.status().await?.key_id == key_ids[2]);
    ensure!(again.api.decrypt(&written[0].0, &written[0].1).await? == b"seed");
    Ok(())
}

#[tokio::test]
async fn an_alias_that_moves_there_and_back_gives_three_key_ids() -> Result<()> {
    there_and_back("--write-format=aep").await
}

#[tokio::test]
async fn a_local_kek_goes_with_the_key_that_wrapped_it() -> Result<()> {
    there_and_back("--write-format=local-kek").await
}

#[tokio::test]
async fn a_change_counts_only_after_its_delay_and_works_meanwhile() -> Result<()> {
    let alias = Alias::new().await?;
    // Where KMS is told the key, the alias itself would already be the other one.
    let plugin = alias.serve(&["--activation-delay=5s", "--decrypt-policy=listed", "--probe-interval=1s"]).await?;
    let first = plugin.api.status().await?.key_id;
    alias.move_to(&alias.keys[1]).await?;
    let moved = Instant::now();
    plugin.process.wait_for_stderr("the key has changed", SOON).await?;
    // Another instance may count its time already, and what it writes is read here.
    let theirs = [b"1", &alias.fixture.kms_encrypt(&alias.keys[1], b"theirs").await?[..]].concat();
    ensure!(plugin.api.decrypt(&theirs, &format!("{}#t=1700000000", alias.keys[1])).await? == b"theirs");
    let (early, _) = encrypt_consistently(&plugin.api, b"early").await?;
    // The date may be one second early.
    while moved.elapsed() < Duration::from_millis(3_900) {
        let (ciphertext, key_id) = encrypt_consistently(&plugin.api, b"seed").await?;
        ensure!(key_id == first, "after {:?}", moved.elapsed());
        ensure!(plugin.api.decrypt(&ciphertext, &key_id).await? == b"seed");
        sleep(Duration::from_millis(100)).await;
    }
    let (second, _) = until_it_changes(&plugin.api).await?;
    ensure!(arn_in(&second) == alias.keys[1], "{second}");
    let (ciphertext, key_id) = encrypt_consistently(&plugin.api, b"seed").await?;
    ensure!(plugin.api.decrypt(&ciphertext, &key_id).await? == b"seed");
    ensure!(plugin.api.decrypt(&early, &first).await? == b"early", "what it wrote itself");
    let told = plugin.metric("coffer_kms_key_id_info", &[("key_id", &second)]).await?;
    ensure!(told == 1.0);
    Ok(())
}

#[tokio::test]
async fn new_key_material_is_a_new_key_id_of_the_same_key() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &["--follow-key", "--activation-delay=2s", "--decrypt-policy=listed"]).await?;
    let first = plugin.api.status().await?.key_id;
    ensure!(first.starts_with(&format!("{key}#m=")), "{first}");
    let old = plugin.api.encrypt(b"old").await?;
    fixture.kms("RotateKeyOnDemand", json!({"KeyId": key})).await?;
    let (second, _) = until_it_changes(&plugin.api).await?;
    ensure!(second.starts_with(&format!("{key}#m=")) && second != first, "{second} after {first}");
    ensure!(plugin.api.decrypt(&old.ciphertext, &old.key_id).await? == b"old");
    let new = plugin.api.encrypt(b"new").await?;
    ensure!(plugin.api.decrypt(&new.ciphertext, &new.key_id).await? == b"new");
    // What one without the flag wrote, or reads.
    ensure!(plugin.api.decrypt(&old.ciphertext, &key).await? == b"old");
    plugin.stop().await?;
    let plain = fixture.serve(&key, &[]).await?;
    ensure!(plain.api.decrypt(&new.ciphertext, &new.key_id).await? == b"new");
    ensure!(plain.api.status().await?.key_id == key);
    Ok(())
}

#[tokio::test]
async fn without_leave_to_list_aliases_it_follows_and_warns() -> Result<()> {
    let alias = Alias::new().await?;
    let denied = || Rule::new(Fault::AccessDenied).operation("ListAliases");
    alias.fixture.proxy.fault(denied());
    let plugin = alias.serve(&["--activation-delay=1s"]).await?;
    let first = plugin.api.status().await?.key_id;
    ensure!(arn_in(&first) == alias.keys[0] && !first.contains("#t="), "{first}");
    alias.move_to(&alias.keys[1]).await?;
    alias.fixture.proxy.fault(denied());
    let (second, _) = until_it_changes(&plugin.api).await?;
    ensure!(arn_in(&second) == alias.keys[1], "{second}");
    let asked = alias.fixture.proxy.count("ListAliases");
    sleep(Duration::from_millis(2_500)).await;
    ensure!(alias.fixture.proxy.count("ListAliases") == asked, "it goes on asking");
    let said = plugin.stop().await?;
    let warnings = said.lines().filter(|line| line.contains("without kms:ListAliases")).count();
    ensure!(warnings == 1, "{warnings} warnings: {said}");
    Ok(())
}

#[tokio::test]
async fn a_key_that_cannot_be_looked_at_is_told_and_still_reads() -> Result<()> {
    let alias = Alias::new().await?;
    let fixture = &alias.fixture;
    fixture.proxy.fault(Rule::new(Fault::AccessDenied).operation("DescribeKey"));
    let plugin = fixture.start(fixture.program(&[Alias::NAME]).args(["--follow-key"])).await?;
    let words = ["AccessDeniedException", "kms:DescribeKey", "allow it in IAM"];
    eventually(SOON, async || refused(plugin.api.status().await, Code::PermissionDenied, &words)).await?;
    refused(plugin.api.encrypt(b"seed").await, Code::PermissionDenied, &words)?;
    let old = [b"1", &fixture.kms_encrypt(&alias.keys[0], b"old").await?[..]].concat();
    ensure!(plugin.api.decrypt(&old, "alias/etcd").await? == b"old");
    ensure!(plugin.api.decrypt_v1(&old).await? == b"old");
    ensure!(plugin.get("/readyz").await?.0 == 503 && plugin.get("/livez").await?.0 == 200);
    ensure!(plugin.get("/healthz").await?.0 == 500);
    fixture.proxy.clear_faults();
    let status = plugin.api.becomes("ok").await?;
    ensure!(arn_in(&status.key_id) == alias.keys[0], "{status:?}");
    ensure!(plugin.get("/readyz").await?.0 == 200);
    Ok(())
}

#[tokio::test]
async fn a_look_that_fails_later_changes_nothing() -> Result<()> {
    let alias = Alias::new().await?;
    let plugin = alias.serve(&["--activation-delay=1s"]).await?;
    let first = plugin.api.status().await?;
    for (operation, fault) in [
        ("DescribeKey", Fault::AccessDenied),
        ("DescribeKey", Fault::Status(500)),
        ("ListAliases", Fault::Throttle),
        ("ListAliases", Fault::AccessDenied),
    ] {
        let told = format!("{operation} {fault:?}");
        let asked = alias.fixture.proxy.count(operation);
        alias.fixture.proxy.fault(Rule::new(fault).operation(operation));
        eventually(SOON, async || {
            ensure!(alias.fixture.proxy.count(operation) > asked + 1);
            Ok(())
        })
        .await?;
        let status = plugin.api.status().await.with_context(|| told.clone())?;
        ensure!(status == first, "{told}: {status:?}");
        ensure!(encrypt_consistently(&plugin.api, b"seed").await?.1 == first.key_id, "{told}");
        alias.fixture.proxy.clear_faults();
    }
    Ok(())
}
