//! A value is in the volume, in memory and in the answer of AWS, and nowhere else.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use bed::{Fault, Process, Rule, Service, aws::ParameterType};

use crate::fixture::{Case, Fixture, SOON, Sidecar, ends_with, side_by_side, walk};

/// Values that are unlike anything else in the world.
struct Canaries {
    /// Stand in the middle of values, so that a part of one is found as well.
    marks: Vec<Vec<u8>>,
}

const REFERENCES: [&str; 4] = [
    "secretsmanager:canary/text",
    "secretsmanager:canary/json",
    "secretsmanager:canary/binary",
    "parameterstore:/canary/secure",
];

impl Canaries {
    /// Puts a canary into a secret of each kind and into a parameter.
    async fn released(fixture: &Fixture) -> Result<Self> {
        let mut marks = Vec::new();
        let mut mark = |kind: &str| {
            let mark = format!("canary{kind}{:032x}", fastrand::u128(..));
            marks.push(mark.clone().into_bytes());
            // As a binary value is on the wire, whatever stands before it.
            for lead in ["", "-", "--"] {
                let encoded = BASE64_STANDARD.encode(format!("{lead}{mark}"));
                marks.push(encoded.as_bytes()[4..encoded.len() - 4].to_vec());
            }
            mark
        };
        let aws = &fixture.aws;
        aws.create_secret("canary/text", &mark("text")).await?;
        aws.create_secret("canary/json", &format!(r#"{{"user": "app", "password": "{}"}}"#, mark("json"))).await?;
        aws.create_secret("canary/binary", &[b"\x00\xff\xfe", mark("binary").as_bytes()].concat()[..]).await?;
        aws.put_parameter("/canary/secure", ParameterType::SecureString, &mark("secure")).await?;
        Ok(Self { marks })
    }

    fn entries() -> [String; 6] {
        [
            "{name: text, from: 'secretsmanager:canary/text'}".to_owned(),
            "{name: json, from: 'secretsmanager:canary/json', format: yaml}".to_owned(),
            "{name: password, from: 'secretsmanager:canary/json', select: password}".to_owned(),
            "{name: binary, from: 'secretsmanager:canary/binary'}".to_owned(),
            "{name: secure, from: 'parameterstore:/canary/secure'}".to_owned(),
            "{from: 'parameterstore:/canary/', name: tree/}".to_owned(),
        ]
    }

    fn are_in(&self, bytes: &[u8]) -> bool {
        self.marks.iter().any(|mark| bytes.windows(mark.len()).any(|window| window == mark))
    }

    fn ensure_not_in(&self, place: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        let bytes = bytes.as_ref();
        ensure!(!self.are_in(bytes), "a value is in {place}: {}", String::from_utf8_lossy(bytes));
        Ok(())
    }

    /// Looks through what a process has written and, while it runs, what it shows of itself.
    fn ensure_not_told_by(&self, process: &Process) -> Result<()> {
        self.ensure_not_in("standard output", process.stdout())?;
        self.ensure_not_in("standard error", process.stderr())?;
        if process.status()?.is_none() {
            self.ensure_not_in("the command line", process.proc().cmdline()?.join(" "))?;
            self.ensure_not_in("the environment", process.proc().environ()?.join(" "))?;
        }
        Ok(())
    }

    async fn ensure_not_served_by(&self, sidecar: &Sidecar) -> Result<()> {
        for path in ["/metrics", "/status", "/readyz", "/healthz"] {
            self.ensure_not_in(path, sidecar.get(path).await?.1)?;
        }
        Ok(())
    }

    /// Looks through every regular file that the process could have left: its folder but the
    /// volume, and the folder it runs in.
    fn ensure_not_on_disk(&self, fixture: &Fixture) -> Result<()> {
        let volume = fixture.volume();
        let mut looked_at = 0;
        for folder in [fixture.folder(), &std::env::current_dir()?] {
            walk(folder, &mut |path, metadata| {
                if metadata.is_file() && !path.starts_with(&volume) && metadata.len() < 10_000_000 {
                    looked_at += 1;
                    // A file that other tests remove meanwhile is none of this process's.
                    self.ensure_not_in(&path.display().to_string(), fs::read(path).unwrap_or_default())?;
                }
                Ok(())
            })?;
        }
        ensure!(looked_at > 1, "only {looked_at} files were looked at");
        Ok(())
    }
}

/// The regular files that a process holds open, of any name or none.
fn open_files(pid: u32) -> Result<Vec<PathBuf>> {
    let folder = PathBuf::from(format!("/proc/{pid}/fd"));
    let mut open = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        // It may be closed by now.
        if fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            open.extend(fs::read_link(&path));
        }
    }
    Ok(open)
}

#[tokio::test]
async fn no_value_is_told_at_any_log_level_in_either_format() -> Result<()> {
    for format in ["text", "json"] {
        let fixture = Fixture::new().await?;
        let canaries = Canaries::released(&fixture).await?;
        fixture.config("1s", Canaries::entries())?;
        let program = fixture.run().args(["--log-level=trace", &format!("--log-format={format}")]);
        // The libraries' own switches must not open the tap either.
        let sidecar = fixture.start_as(program.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full"))?;
        sidecar.ready().await?;
        ensure!(canaries.are_in(&fs::read(fixture.volume().join("text"))?), "the canary is not even in its file");
        ensure!(canaries.are_in(&fs::read(fixture.volume().join("binary"))?));
        for reference in REFERENCES {
            sidecar.becomes(reference, "fresh").await?;
        }
        fixture.asked("DescribeSecret", 6).await?;
        ensure!(
            sidecar.process.stderr().contains("called AWS"),
            "there is no debug log:\n{}",
            sidecar.process.stderr()
        );
        canaries.ensure_not_told_by(&sidecar.process)?;
        canaries.ensure_not_served_by(&sidecar).await?;
        let elsewhere: Vec<_> =
            open_files(sidecar.process.pid())?.into_iter().filter(|path| !path.starts_with(fixture.volume())).collect();
        ensure!(elsewhere.is_empty(), "files are open: {elsewhere:?}");
        ensure!(sidecar.process.stop().await?.success());
        canaries.ensure_not_told_by(&sidecar.process)?;
        canaries.ensure_not_on_disk(&fixture)?;
    }
    Ok(())
}

/// Answers that no AWS sends, with the values in them: what a parser complains about it may quote.
fn echoes(canaries: &Canaries) -> Vec<Fault> {
    let mark = String::from_utf8_lossy(&canaries.marks[0]).into_owned();
    let body = |text: String| Fault::Body(text);
    vec![
        body(format!("<html>Welcome {mark}</html>")),
        body(format!(r#"{{"SecretString": ["{mark}"], "Name": 7, "SecretValues": "{mark}", "Parameters": "{mark}"}}"#)),
        body(format!(r#"{{"SecretString": "{mark}\ud800", "VersionId": "x"}}"#)),
        body(format!(r#"{{"SecretString": "{mark}" "#)),
        body(format!(r#"{{"SecretBinary": "{mark}!!", "Parameters": [{{"Value": "{mark}", "Version": "{mark}"}}]}}"#)),
        body(format!(r#"{{"VersionIdsToStages": "{mark}", "NextRotationDate": "{mark}"}}"#)),
        Fault::CutMidBody,
        Fault::Garbage,
        Fault::Throttle,
        Fault::Status(500),
        Fault::Status(502),
        Fault::Cut,
        Fault::AccessDenied,
        Fault::ExpiredToken,
        Fault::BatchErrors(BTreeMap::from([(
            "canary/text".to_owned(),
            ("DecryptionFailure".to_owned(), "No.".to_owned()),
        )])),
    ]
}

async fn hold_tongue(number: usize) -> Result<()> {
    let fixture = Fixture::new().await?;
    let canaries = Canaries::released(&fixture).await?;
    fixture.config("1s", Canaries::entries())?;
    let fault = echoes(&canaries).remove(number);
    let rule = || Rule::new(fault.clone()).when(|call| call.service != Service::Sts);

    // At the start.
    fixture.proxy.fault(rule());
    let process = fixture.run().args(["--log-level=trace", "--startup-timeout=2s"]).start()?;
    ends_with(&process, 1).await?;
    canaries.ensure_not_told_by(&process)?;
    ensure!(fixture.volume_is_empty()?, "{:?}", fixture.tree()?);

    // And on refresh, where changed values are on their way.
    fixture.proxy.clear_faults();
    let sidecar = fixture.start_as(fixture.run().arg("--log-level=trace"))?;
    sidecar.ready().await?;
    fixture.proxy.fault(rule());
    // Only a batch meets this one, and describing comes first.
    if !matches!(fault, Fault::BatchErrors(_)) {
        sidecar.becomes("secretsmanager:canary/text", "stale").await?;
        sidecar.becomes("parameterstore:/canary/secure", "stale").await?;
        sidecar.looks_again().await?;
    }
    canaries.ensure_not_told_by(&sidecar.process)?;
    canaries.ensure_not_served_by(&sidecar).await?;
    sidecar.process.stop().await?;
    canaries.ensure_not_told_by(&sidecar.process)?;
    canaries.ensure_not_on_disk(&fixture)
}

#[tokio::test]
async fn no_value_is_told_whatever_goes_wrong() -> Result<()> {
    let fixture = Fixture::new().await?;
    let faults = echoes(&Canaries::released(&fixture).await?);
    let cases = faults
        .into_iter()
        .enumerate()
        .map(|(number, fault)| -> Case { (format!("{fault:?}"), Box::pin(hold_tongue(number))) });
    side_by_side(cases.collect()).await
}

#[tokio::test]
async fn what_cannot_be_selected_or_written_is_not_quoted() -> Result<()> {
    let fixture = Fixture::new().await?;
    let canaries = Canaries::released(&fixture).await?;
    for entry in [
        "{name: a, from: 'secretsmanager:canary/text', select: password}",
        "{name: a, from: 'secretsmanager:canary/text', format: json}",
        "{name: a, from: 'secretsmanager:canary/text', format: dotenv}",
        "{name: a, from: 'secretsmanager:canary/json', select: passwort}",
        "{name: a, from: 'secretsmanager:canary/json', select: password.deeper}",
        "{name: a, from: 'secretsmanager:canary/json', select: password, format: properties}",
        "{name: a, from: 'secretsmanager:canary/json', select: 'abs(password)'}",
        "{name: a, from: 'secretsmanager:canary/binary', select: password}",
        "{name: a, from: 'secretsmanager:canary/binary', format: yaml}",
        "{name: a, from: 'parameterstore:/canary/secure', format: dotenv}",
    ] {
        fixture.config("1h", [entry])?;
        let process = fixture.run().args(["--once", "--log-level=trace"]).start()?;
        ends_with(&process, 1).await.with_context(|| entry)?;
        ensure!(process.stderr().contains("error: "), "{}", process.stderr());
        canaries.ensure_not_told_by(&process)?;
        ensure!(fixture.volume_is_empty()?);
    }
    Ok(())
}

#[tokio::test]
async fn memory_is_closed_to_core_dumps_and_to_other_processes() -> Result<()> {
    let fixture = crate::faults::pair("1h").await?;
    // The kernel shows by the owner of /proc/PID whether a process may be looked into; root owns
    // its own in either case.
    let root = rustix::process::geteuid().is_root();
    let program = fixture.run();
    let sidecar = if root {
        std::os::unix::fs::chown(fixture.folder(), Some(65534), Some(65534))?;
        let token = fixture.path("token");
        fs::write(&token, fixture.token.token())?;
        let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let program = program.env("AWS_WEB_IDENTITY_TOKEN_FILE", &token).under(nobody);
        match fixture.start_as(program) {
            Ok(sidecar) => sidecar,
            Err(error) => return crate::fixture::skip(&format!("setpriv, to be another user than root: {error:#}")),
        }
    } else {
        fixture.start_as(program)?
    };
    sidecar.ready().await?;
    let folder = PathBuf::from(format!("/proc/{}", sidecar.process.pid()));
    let limits = fs::read_to_string(folder.join("limits"))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("no limit of core files")?;
    let words: Vec<_> = core.split_whitespace().collect();
    ensure!(words[4..6] == ["0", "0"], "{core}");
    let status = fs::read_to_string(folder.join("status"))?;
    let uid = status.lines().find(|line| line.starts_with("Uid:")).context("no Uid")?;
    ensure!(!uid.starts_with("Uid:\t0\t"), "it runs as root, and this proves nothing: {uid}");
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(folder.join("mem"))?);
    ensure!(owner == 0, "uid {owner} may look into its memory");
    Ok(())
}

/// The set in place belongs to the application, and what replaced it is gone from the volume.
#[tokio::test]
async fn an_old_value_does_not_stay_in_the_volume() -> Result<()> {
    let fixture = Fixture::new().await?;
    let canaries = Canaries::released(&fixture).await?;
    fixture.config("1s", ["{name: text, from: 'secretsmanager:canary/text'}"])?;
    let _sidecar = fixture.ready().await?;
    fixture.aws.put_secret_value("canary/text", "harmless").await?;
    fixture.holds("text", "harmless").await?;
    bed::eventually(SOON.max(Duration::from_secs(5)), async || {
        walk(&fixture.volume(), &mut |path: &Path, metadata| {
            if metadata.is_file() {
                canaries.ensure_not_in(&path.display().to_string(), fs::read(path)?)?;
            }
            Ok(())
        })
    })
    .await
}
