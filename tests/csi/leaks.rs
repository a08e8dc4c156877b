//! A value is in the volume and nowhere else; a token is nowhere at all.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use bed::{Fault, Rule, aws::ParameterType, csi::PodVolume, eventually};
use serde_json::json;

use crate::fixture::{Driver, Fixture, SOON};

/// Texts that are unlike anything else in the world.
struct Canaries {
    marks: Vec<String>,
}

impl Canaries {
    async fn released(fixture: &Fixture) -> Result<Self> {
        let mark = |kind: &str| format!("canary{kind}{:032x}", fastrand::u128(..));
        let (text, json_, binary, secure) = (mark("text"), mark("json"), mark("binary"), mark("secure"));
        fixture.aws.create_secret("canary/text", &text).await?;
        fixture
            .aws
            .create_secret("canary/json", &json!({"password": json_, "deep": {"a": [json_]}}).to_string())
            .await?;
        fixture.aws.create_secret("canary/binary", &[b"\x00\xff\xfe", binary.as_bytes()].concat()[..]).await?;
        fixture.aws.put_parameter("/canary/secure", ParameterType::SecureString, &secure).await?;
        let mut marks = vec![text, json_, binary, secure];
        // As a binary value is on the wire, whatever stands before it.
        for mark in marks.clone() {
            for lead in ["", "-", "--"] {
                let encoded = BASE64_STANDARD.encode(format!("{lead}{mark}"));
                marks.push(encoded[4..encoded.len() - 4].to_owned());
            }
        }
        Ok(Self { marks })
    }

    /// A pod's tokens are canaries too.
    fn with_tokens_of(&mut self, volume: &PodVolume) {
        for audience in [bed::csi::STS_AUDIENCE, bed::csi::POD_IDENTITY_AUDIENCE] {
            // The claims: unlike the header, no two are alike.
            self.marks.extend(volume.token_for(audience).split('.').nth(1).map(str::to_owned));
        }
    }

    fn ensure_not_in(&self, place: &str, text: impl AsRef<[u8]>) -> Result<()> {
        let text = String::from_utf8_lossy(text.as_ref());
        ensure!(!self.marks.iter().any(|mark| text.contains(mark)), "a value or token is in {place}: {text}");
        Ok(())
    }

    async fn ensure_not_told_by(&self, driver: &Driver) -> Result<()> {
        self.ensure_not_in("standard output", driver.process.stdout())?;
        self.ensure_not_in("standard error", driver.process.stderr())?;
        self.ensure_not_in("the command line", driver.process.proc().cmdline()?.join(" "))?;
        self.ensure_not_in("the environment", driver.process.proc().environ()?.join(" "))?;
        for path in ["/livez", "/readyz", "/metrics", "/status", "/debug"] {
            self.ensure_not_in(path, driver.get(path).await?.1)?;
        }
        Ok(())
    }
}

const SPEC: &str = "\
values: {v: 'secretsmanager:canary/json'}
files:
- {name: text, from: 'secretsmanager:canary/text'}
- {name: yaml, from: 'secretsmanager:canary/json', format: yaml}
- {name: password, from: 'secretsmanager:canary/json', select: password}
- {name: binary, from: 'secretsmanager:canary/binary'}
- {name: secure, from: 'parameterstore:/canary/secure'}
- {name: made, template: '{{ v.password }}'}
";

#[tokio::test]
async fn no_value_and_no_token_is_told_at_any_log_level_in_either_format() -> Result<()> {
    for format in ["text", "json"] {
        let fixture = Fixture::in_cluster().await?;
        let mut canaries = Canaries::released(&fixture).await?;
        let flag = format!("--log-format={format}");
        let program = fixture.program(&["--refresh=1s", "--mount-timeout=3s", &flag]);
        // The libraries' own switches must not open the tap either.
        let program = program.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
        let driver = fixture.start_as(program).await?;
        let cluster = fixture.cluster();
        cluster.service_account("api", None).await?;
        let volume = cluster.pod_of(fixture.pod("api", SPEC)?.group(2000), "api").await?;
        canaries.with_tokens_of(&volume);
        fixture.kubelet.publish(&volume).await?;
        ensure!(canaries.marks[0] == fixture.kubelet.read(&volume, "text")?, "the canary is not even in its file");
        // Looks, a rotation, failures of every kind.
        let rotated = format!("canaryrotated{:032x}", fastrand::u128(..));
        canaries.marks.push(rotated.clone());
        fixture.aws.put_secret_value("canary/text", &rotated).await?;
        fixture.becomes(&volume, "text", &rotated).await?;
        for fault in [Fault::AccessDenied, Fault::CutMidBody, Fault::Garbage, Fault::InvalidIdentityToken] {
            let before = fixture.proxy.calls().len();
            let id = fixture.proxy.fault(Rule::new(fault));
            let other = fixture.pod("other", SPEC)?;
            canaries.with_tokens_of(&other);
            if let Err(status) = fixture.kubelet.publish(&other).await {
                canaries.ensure_not_in("an error", format!("{status:?}"))?;
            }
            eventually(SOON, async || {
                ensure!(fixture.proxy.calls().len() > before, "no look");
                Ok(())
            })
            .await?;
            fixture.proxy.clear_fault(id);
        }
        // A selection that fails, over values.
        for select in ["password.x", "deep.a[0].b", "nothing", "to_number(password)", "max_by(deep.a, &x)"] {
            let spec = format!("[{{name: a, from: 'secretsmanager:canary/json', select: '{select}'}}]");
            let other = fixture.pod("api", &spec)?;
            canaries.with_tokens_of(&other);
            if let Err(status) = fixture.kubelet.publish(&other).await {
                canaries.ensure_not_in("an error", format!("{status:?}"))?;
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        canaries.ensure_not_told_by(&driver).await?;
        let events = cluster.events(&volume).await?;
        canaries.ensure_not_in("events", format!("{events:?}"))?;
        let said = driver.stop().await?;
        canaries.ensure_not_in("its last words", &said)?;
        ensure!(!said.is_empty(), "it logged nothing at all");
    }
    Ok(())
}

#[tokio::test]
async fn no_value_is_on_a_disk() -> Result<()> {
    let fixture = Fixture::new().await?;
    let canaries = Canaries::released(&fixture).await?;
    let driver = fixture.start(&[]).await?;
    let volume = fixture.pod("api", SPEC)?;
    fixture.kubelet.publish(&volume).await?;
    let look = || -> Result<usize> {
        let mut looked_at = 0;
        // Outside the mount namespace: what is on the disk below the kubelet's folder.
        let mut folders = vec![fixture.kubelet.folder().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    looked_at += 1;
                    canaries.ensure_not_in(&entry.path().display().to_string(), fs::read(entry.path())?)?;
                }
            }
        }
        Ok(looked_at)
    };
    ensure!(look()? > 0, "not even the kubelet's note was looked at");
    // No file of a disk is open with one in it.
    for entry in fs::read_dir(format!("/proc/{}/fd", driver.process.pid()))? {
        let path = entry?.path();
        if fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            let name = fs::read_link(&path)?;
            canaries.ensure_not_in(&name.display().to_string(), fs::read(&path).unwrap_or_default())?;
        }
    }
    fixture.kubelet.unpublish(&volume).await?;
    look()?;
    Ok(())
}

/// A set stays in memory only as long as it takes to share it: the volumes themselves are the store.
#[tokio::test]
async fn values_do_not_stay_in_the_drivers_memory() -> Result<()> {
    const VOLUMES: usize = 20;
    let fixture = Fixture::new().await?;
    let canaries = Canaries::released(&fixture).await?;
    let driver = fixture.start(&[]).await?;
    for _ in 0..VOLUMES {
        fixture.kubelet.publish(&fixture.pod("api", SPEC)?).await?;
    }
    // What is shared with those who ask together is kept some seconds.
    tokio::time::sleep(Duration::from_secs(15)).await;
    // The buffers of TLS, HTTP and JSON are the libraries' and are not wiped: some of the four values stay in
    // memory that is free. More than that would be one or more for each volume.
    let found = canaries.count_in_memory(&driver)?;
    ensure!(found < VOLUMES, "{found} copies of values in its memory");
    driver.ensure_serves().await
}

impl Canaries {
    fn count_in_memory(&self, driver: &Driver) -> Result<usize> {
        use std::os::unix::fs::FileExt;
        let folder = format!("/proc/{}", driver.process.pid());
        let memory = fs::File::open(format!("{folder}/mem")).context("cannot read its memory")?;
        let mut found = 0;
        for line in fs::read_to_string(format!("{folder}/maps"))?.lines() {
            let mut fields = line.split_whitespace();
            let (Some(range), Some(mode)) = (fields.next(), fields.next()) else { continue };
            let Some((from, to)) = range.split_once('-') else { continue };
            if !mode.starts_with("rw") {
                continue;
            }
            let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
            let mut bytes = vec![0; usize::try_from(to - from)?];
            if memory.read_exact_at(&mut bytes, from).is_err() {
                continue;
            }
            for mark in &self.marks[..4] {
                let mark = mark.as_bytes();
                found += bytes.windows(mark.len()).filter(|window| *window == mark).count();
            }
        }
        Ok(found)
    }
}

/// Names of secrets and pods are not for everybody who can reach the node's metrics port.
#[tokio::test]
async fn metrics_and_health_name_no_secret_and_no_pod() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&["--refresh=1s"]).await?;
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    let refused = fixture.pod("stranger", "[{name: a, from: 'secretsmanager:prod/absent'}]")?;
    ensure!(fixture.kubelet.publish(&refused).await.is_err());
    fixture.proxy.fault(Rule::new(Fault::AccessDenied));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let role = fixture.aws.role_arn("api");
    for path in ["/livez", "/readyz", "/metrics"] {
        let (_, body) = driver.get(path).await?;
        for name in [
            "prod/db",
            "/prod/level",
            "prod/absent",
            volume.pod(),
            volume.uid(),
            "stranger",
            &role,
            fixture.aws.account(),
        ] {
            ensure!(!body.contains(name), "{path} tells {name}:\n{body}");
        }
    }
    Ok(())
}
