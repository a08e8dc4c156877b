//! A certificate, its key and its CA out of one secret: three files of one moment.

use anyhow::{Result, ensure};
use bed::eventually;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;

use crate::fixture::{Fixture, SOON, ends_with};

const TLS: &str = "{from: 'secretsmanager:prod/tls', format: pem}";
const FILES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// A certificate authority.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate that it issued, and its key.
struct Pair {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "the CA of a test");
        let key = KeyPair::generate()?;
        Ok(Self { pem: params.self_signed(&key)?.pem(), issuer: Issuer::new(params, key) })
    }

    fn issue(&self) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec!["api.test".to_owned()])?.signed_by(&key, &self.issuer)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    fn bundle(&self, certificate: &str, key: &str) -> String {
        json!({"certificate": certificate, "private_key": key, "ca": self.pem}).to_string()
    }
}

#[tokio::test]
async fn a_bundle_becomes_three_files_and_a_half_rotated_one_none() -> Result<()> {
    let fixture = Fixture::new().await?;
    let authority = Authority::new()?;
    let (old, new) = (authority.issue()?, authority.issue()?);
    fixture.aws.create_secret("prod/tls", authority.bundle(&old.certificate, &old.key).as_str()).await?;
    fixture.config("1s", [TLS])?;
    let sidecar = fixture.ready().await?;
    let set = || -> Result<[String; 3]> {
        let set = fixture.reader().read(&FILES)?;
        Ok(FILES.map(|name| String::from_utf8_lossy(set.files[name].as_deref().unwrap_or_default()).into_owned()))
    };
    let made = |pair: &Pair| {
        [pair.certificate.clone(), pair.key.clone(), authority.pem.clone()].map(|pem| pem.replace('\r', ""))
    };
    ensure!(set()? == made(&old), "{:?}", set()?[0]);
    let before = fixture.tree()?;

    // The certificate is new and the key is not: whoever serves them would fail.
    fixture.aws.put_secret_value("prod/tls", authority.bundle(&new.certificate, &old.key).as_str()).await?;
    let told = sidecar.becomes("secretsmanager:prod/tls", "stale").await?;
    let why = told["why"].as_str().unwrap_or_default();
    ensure!(why.contains("no certificate of the value belongs to its private key"), "{told:#}");
    ensure!(fixture.tree()? == before, "the set was touched");
    ensure!(!sidecar.process.stderr().contains("PRIVATE KEY-----"), "a key is in the log");

    fixture.aws.put_secret_value("prod/tls", authority.bundle(&new.certificate, &new.key).as_str()).await?;
    eventually(SOON, async || {
        let found = set()?;
        ensure!(found == made(&new) || found == made(&old), "a mixed set");
        ensure!(found == made(&new), "still the old pair");
        Ok(())
    })
    .await?;
    sidecar.becomes("secretsmanager:prod/tls", "fresh").await?;
    Ok(())
}

#[tokio::test]
async fn a_restart_takes_the_files_over_and_a_bundle_without_ca_drops_that_file() -> Result<()> {
    let fixture = Fixture::new().await?;
    let authority = Authority::new()?;
    let pair = authority.issue()?;
    fixture.aws.create_secret("prod/tls", authority.bundle(&pair.certificate, &pair.key).as_str()).await?;
    fixture.config("1s", ["{from: 'secretsmanager:prod/tls', format: pem, name: web/}"])?;
    let sidecar = fixture.ready().await?;
    sidecar.process.kill()?;
    sidecar.process.wait(SOON).await?;
    let before = fixture.tree()?;
    let sidecar = fixture.ready().await?;
    sidecar.becomes("secretsmanager:prod/tls", "fresh").await?;
    ensure!(fixture.tree()? == before && sidecar.status().await?["publishes"] == 0);
    ensure!(fixture.read("web/ca.crt")? == authority.pem.replace('\r', ""));

    fixture.aws.put_secret_value("prod/tls", format!("{}{}", pair.certificate, pair.key).as_str()).await?;
    eventually(SOON, async || {
        ensure!(!fixture.volume().join("web/ca.crt").exists(), "still there");
        Ok(())
    })
    .await?;
    ensure!(fixture.read("web/tls.key")? == pair.key.replace('\r', ""));
    Ok(())
}

#[tokio::test]
async fn names_that_meet_are_found_without_aws() -> Result<()> {
    let fixture = Fixture::new().await?;
    for (files, expected) in [
        (vec![TLS, "{name: tls.key, from: 'secretsmanager:prod/key'}"], "the file `tls.key` stands already in line 5"),
        (vec!["{name: ca.crt, from: 'secretsmanager:prod/ca'}", TLS], "the file `ca.crt` stands already in line 5"),
        (vec![TLS, "{from: 'secretsmanager:prod/two', format: pem}"], "the file `tls.crt` stands already in line 5"),
        (vec![TLS, "{name: tls.crt/x, from: 'secretsmanager:prod/two'}"], "one is a folder of the other"),
        (vec!["{from: 'secretsmanager:prod/tls', format: pem, name: web}"], "write `name: web/`"),
        (vec!["{from: 'parameterstore:/prod/', format: pem}"], "name one secret or parameter in `from`"),
        (vec!["{from: 'secretsmanager:prod/tls', format: pme}"], "did you mean `pem`?"),
    ] {
        fixture.config("1s", &files)?;
        let process = fixture.coffer().args(["check", "--config"]).arg(fixture.config_path()).start()?;
        ends_with(&process, 2).await?;
        ensure!(process.stderr().contains(expected), "no `{expected}` for {files:?} in\n{}", process.stderr());
    }
    fixture.config("1s", [TLS, "{from: 'secretsmanager:prod/two', format: pem, name: two/}"])?;
    let process = fixture.coffer().args(["check", "--config"]).arg(fixture.config_path()).start()?;
    ends_with(&process, 0).await?;
    Ok(())
}
