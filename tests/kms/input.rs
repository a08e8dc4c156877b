//! Whatever comes in by the sockets is answered, costs nothing where that can be known, and ends nothing.

use anyhow::{Context, Result, ensure};
use bed::eventually;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use tonic::Code;

use crate::fixture::{Fixture, SOON, is_own, refused};

#[tokio::test]
async fn what_cannot_be_a_ciphertext_is_refused_without_a_call() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &["--probe-interval=1h"]).await?;
    fixture.proxy.clear_log();
    let long = |first: u8, length: usize| [&[first][..], &vec![7; length]].concat();
    // What it is, the ciphertext, and what the answer says.
    let of_both: &[(&str, Vec<u8>, &str)] = &[
        ("nothing", vec![], "the ciphertext is empty"),
        ("a prefix", vec![0x31], "nothing after it"),
        ("a megabyte behind a prefix", long(0x31, 1 << 20), "6144 at most"),
        ("just too long", long(0x31, 6145), "6144 at most"),
        ("half an envelope", vec![0xC5, 0x01], "KEK"),
        ("an envelope that lies about its length", vec![0xC5, 0x01, 0xFF, 0xFF, 1, 2, 3], "KEK"),
        ("a megabyte of an envelope", [&[0xC5, 0x01][..], &vec![0; 1 << 20]].concat(), "KEK"),
    ];
    for (name, ciphertext, words) in of_both {
        refused(plugin.api.decrypt(ciphertext, &key).await, Code::InvalidArgument, &[words]).context(*name)?;
        refused(plugin.api.decrypt_v1(ciphertext).await, Code::InvalidArgument, &[words]).context(*name)?;
    }
    let of_v2: &[(&str, Vec<u8>, &str)] = &[
        ("a byte", vec![0], "begins with"),
        ("another prefix", b"2blob".to_vec(), "begins with 0x32"),
        ("a megabyte", long(2, 1 << 20), "begins with 0x02"),
        ("a newer envelope", vec![0xC5, 0x02, 0, 0], "newer format"),
        ("no prefix", vec![1, 2, 2, 0], "apiVersion: v1"),
    ];
    for (name, ciphertext, words) in of_v2 {
        refused(plugin.api.decrypt(ciphertext, &key).await, Code::InvalidArgument, &[words]).context(*name)?;
    }
    refused(plugin.api.decrypt_v1(&long(2, 1 << 20)).await, Code::InvalidArgument, &["6144 at most"])?;
    for plaintext in [vec![], vec![7; 4097], vec![7; 1 << 20]] {
        refused(plugin.api.encrypt(&plaintext).await, Code::InvalidArgument, &["the plaintext"])?;
        refused(plugin.api.encrypt_v1(&plaintext).await, Code::InvalidArgument, &["the plaintext"])?;
    }
    ensure!(fixture.proxy.calls().is_empty(), "KMS was asked: {:?}", fixture.proxy.calls());
    ensure!(plugin.api.status().await?.healthz == "ok");
    plugin.stop().await?;
    Ok(())
}

#[tokio::test]
async fn what_only_kms_can_tell_is_refused_by_kms() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[]).await?;
    let whole = plugin.api.encrypt(b"seed").await?.ciphertext;
    for place in (1..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x80;
        let Err(status) = plugin.api.decrypt(&damaged, &key).await else {
            anyhow::bail!("damage at {place} was not found");
        };
        // A ciphertext of a key that is not there says so.
        let codes = [Code::InvalidArgument, Code::FailedPrecondition];
        ensure!(codes.contains(&status.code()) && is_own(&status), "at {place}: {status:?}");
    }
    refused(plugin.api.decrypt_v1(&[2]).await, Code::InvalidArgument, &["InvalidCiphertextException"])?;
    ensure!(plugin.api.status().await?.healthz == "ok");
    ensure!(plugin.api.decrypt(&whole, &key).await? == b"seed");
    Ok(())
}

#[tokio::test]
async fn random_bytes_are_refused_and_nothing_breaks() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &["--log-level=debug"]).await?;
    for number in 0..120_usize {
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(fastrand::usize(..300)).collect();
        // Often enough behind a prefix, or it would not get far.
        let prefix: &[u8] = [&b""[..], b"1", &[0xC5, 0x01]][number % 3];
        bytes.splice(0..0, prefix.iter().copied());
        let key_id: String = std::iter::repeat_with(|| fastrand::char(..)).take(fastrand::usize(..40)).collect();
        let told = format!("{bytes:02x?} with {key_id:?}");
        for answer in [plugin.api.decrypt_as(&bytes, &key_id, &key_id).await, plugin.api.decrypt_v1(&bytes).await] {
            refused(answer, Code::InvalidArgument, &[]).with_context(|| told.clone())?;
        }
    }
    ensure!(plugin.api.status().await?.healthz == "ok");
    plugin.api.encrypt(b"seed").await?;
    plugin.stop().await?;
    Ok(())
}

#[tokio::test]
async fn those_who_do_not_speak_grpc_are_no_harm() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[]).await?;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut held = Vec::new();
    for said in [
        &b""[..],
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        &[preface, &b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"[..]].concat(),
        // A header frame that announces 16 MB, and one whose padding is longer than itself.
        &[preface, &b"\xff\xff\xff\x01\x04\x00\x00\x00\x01"[..]].concat(),
        &[preface, &b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x01\x01\x0c\x00\x00\x00\x01\xff"[..]].concat(),
        &[0xff; 100_000],
    ] {
        let mut stream = UnixStream::connect(fixture.socket(0)).await?;
        // It may hang up before all is said.
        let _ = stream.write_all(said).await;
        held.push(stream);
    }
    ensure!(plugin.api.encrypt(b"seed").await?.key_id == key);
    // What is no HTTP/2 is hung up on, the silent one is left alone.
    eventually(SOON, async || {
        let mut buffer = Vec::new();
        let _ = held[1].read_to_end(&mut buffer).await;
        Ok(())
    })
    .await?;
    drop(held);
    ensure!(fixture.api(0).await?.status().await?.healthz == "ok");
    plugin.stop().await?;
    Ok(())
}
