//! What the tests start from: an AWS account of their own behind a fault proxy, a folder on tmpfs,
//! and `coffer` in it as it runs beside an application in a pod.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use bed::{
    Aws, Call, FaultProxy, LocalStack, Metrics, Process, Program, SetReader, TokenFile, eventually, http_get,
    tmpfs_dir, unique_name,
};
pub(crate) use bed::{Case, side_by_side};
use coffer::metrics::families;
use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything takes that should come about at once, on a slow and busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(40);

/// Whose token it is, and for whom.
pub(crate) const SUBJECT: &str = "system:serviceaccount:shop:api";
pub(crate) const AUDIENCE: &str = "sts.amazonaws.com";

/// A pod with a sidecar to be.
pub(crate) struct Fixture {
    /// Past the proxy.
    pub(crate) aws: Aws,
    pub(crate) proxy: FaultProxy,
    pub(crate) token: TokenFile,
    folder: TempDir,
    listen: SocketAddr,
    pod: String,
}

/// A running `coffer run`.
pub(crate) struct Sidecar {
    pub(crate) process: Process,
    listen: SocketAddr,
}

impl Fixture {
    pub(crate) async fn new() -> Result<Self> {
        let localstack = LocalStack::shared().await?;
        let folder = tmpfs_dir()?;
        fs::create_dir(folder.path().join("tmp"))?;
        Ok(Self {
            aws: Aws::new(localstack.url()),
            proxy: FaultProxy::start(localstack.url())?,
            token: TokenFile::new(SUBJECT, AUDIENCE)?,
            folder,
            listen: own_address(),
            // The pod's name gives the phase of the looks: a different one each time.
            pod: unique_name("api"),
        })
    }

    /// A path in the pod's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// The one volume of [`Self::config`].
    pub(crate) fn volume(&self) -> PathBuf {
        self.path("volume")
    }

    pub(crate) fn config_path(&self) -> PathBuf {
        self.path("coffer.yaml")
    }

    pub(crate) fn write_config(&self, text: &str) -> Result<()> {
        fs::write(self.config_path(), text).context("cannot write the config")
    }

    /// A config of one volume with these entries.
    pub(crate) fn config<S: AsRef<str>>(&self, refresh: &str, files: impl IntoIterator<Item = S>) -> Result<()> {
        self.write_config(&format!("refresh: {refresh}\nvolumes:\n{}", self.volume_text("volume", files)))
    }

    /// A volume with these entries, as it stands in a config below `volumes:`.
    pub(crate) fn volume_text<S: AsRef<str>>(&self, name: &str, files: impl IntoIterator<Item = S>) -> String {
        let mut text = format!("  - path: {}\n    files:\n", self.path(name).display());
        for file in files {
            text.push_str(&format!("      - {}\n", file.as_ref()));
        }
        text
    }

    /// `coffer` with the environment that a pod of EKS gives it.
    pub(crate) fn coffer(&self) -> Program {
        Program::new("coffer")
            .env("AWS_ENDPOINT_URL", self.proxy.url())
            .env("AWS_REGION", bed::aws::REGION)
            .env("AWS_ROLE_ARN", self.aws.role_arn("app"))
            .env("AWS_WEB_IDENTITY_TOKEN_FILE", self.token.path())
            .env("POD_NAMESPACE", "shop")
            .env("POD_NAME", &self.pod)
            .env("HOME", self.folder())
            .env("TMPDIR", self.path("tmp"))
    }

    /// `coffer run` of the config that was written last.
    pub(crate) fn run(&self) -> Program {
        let listen = format!("--listen={}", self.listen);
        self.coffer().args(["run", "--config"]).arg(self.config_path()).arg(listen)
    }

    /// Starts [`Self::run`].
    pub(crate) fn start(&self) -> Result<Sidecar> {
        self.start_as(self.run())
    }

    /// Starts a variant of [`Self::run`].
    pub(crate) fn start_as(&self, program: Program) -> Result<Sidecar> {
        Ok(Sidecar { process: program.start()?, listen: self.listen })
    }

    /// Starts [`Self::run`] and waits for the first full set.
    pub(crate) async fn ready(&self) -> Result<Sidecar> {
        let sidecar = self.start()?;
        sidecar.ready().await?;
        Ok(sidecar)
    }

    /// Runs `coffer run --once`, which must succeed.
    pub(crate) async fn once(&self) -> Result<Process> {
        let process = self.run().arg("--once").start()?;
        let status = process.wait(SOON).await?;
        ensure!(status.success(), "{status}\n{}", process.stderr());
        Ok(process)
    }

    /// A file of the volume as text.
    pub(crate) fn read(&self, name: &str) -> Result<String> {
        let path = self.volume().join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Waits until a file of the volume holds that.
    pub(crate) async fn holds(&self, name: &str, expected: &str) -> Result<()> {
        eventually(SOON, async || {
            let found = self.read(name)?;
            ensure!(found == expected, "{name} holds {found:?}, not {expected:?}");
            Ok(())
        })
        .await
    }

    pub(crate) fn reader(&self) -> SetReader {
        SetReader::new(self.volume())
    }

    /// Every file below the volume's directory: links, generations and all, with what they are.
    pub(crate) fn tree(&self) -> Result<BTreeMap<PathBuf, String>> {
        let mut found = BTreeMap::new();
        walk(&self.volume(), &mut |path, metadata| {
            let content = match metadata.file_type() {
                kind if kind.is_symlink() => format!("-> {}", fs::read_link(path)?.display()),
                kind if kind.is_dir() => "folder".to_owned(),
                _ => format!("{:?}", fs::read(path)?),
            };
            found.insert(path.to_owned(), content);
            Ok(())
        })?;
        Ok(found)
    }

    /// Whether the volume is as if nobody had ever published in it.
    pub(crate) fn volume_is_empty(&self) -> Result<bool> {
        Ok(!self.volume().exists() || fs::read_dir(self.volume())?.next().is_none())
    }

    /// The calls so far, as operations.
    pub(crate) fn operations(&self) -> Vec<String> {
        self.proxy.calls().into_iter().map(|call| call.operation).collect()
    }

    /// Waits until something was asked of AWS at least so often.
    pub(crate) async fn asked(&self, operation: &str, times: usize) -> Result<()> {
        eventually(SOON, async || {
            let asked = self.proxy.count(operation);
            ensure!(asked >= times, "{operation} was called {asked} times, not {times}");
            Ok(())
        })
        .await
    }
}

impl Sidecar {
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, String)> {
        http_get(&format!("http://{}{path}", self.listen)).await
    }

    pub(crate) async fn metrics(&self) -> Result<Metrics> {
        Metrics::of_ours(&format!("http://{}/metrics", self.listen), families()).await
    }

    /// Waits for the first full set.
    pub(crate) async fn ready(&self) -> Result<()> {
        let ready = eventually(SOON, async || {
            if let Some(status) = self.process.status()? {
                return Ok(Err(status));
            }
            let (status, body) = self.get("/readyz").await?;
            ensure!(status == 200, "{status}: {body}");
            Ok(Ok(()))
        });
        match ready.await.with_context(|| format!("not ready\n{}", self.process.stderr()))? {
            Ok(()) => Ok(()),
            Err(status) => bail!("coffer ended ({status}) before it was ready\n{}", self.process.stderr()),
        }
    }

    /// `/status`, of the first volume.
    pub(crate) async fn status(&self) -> Result<Value> {
        let (status, body) = self.get("/status").await?;
        ensure!(status == 200, "{status}: {body}");
        let mut body: Value = serde_json::from_str(&body)?;
        let volume = body["volumes"].get_mut(0).map(Value::take);
        volume.with_context(|| format!("no volume in {body}"))
    }

    /// What `/status` tells of a reference of the first volume.
    pub(crate) async fn reference(&self, reference: &str) -> Result<Value> {
        let volume = self.status().await?;
        let found = volume["references"].as_array().into_iter().flatten().find(|one| one["reference"] == reference);
        found.cloned().with_context(|| format!("no {reference} in {volume:#}"))
    }

    /// Waits until a reference is `fresh`, `stale` or `missing`, and tells what is known of it then.
    pub(crate) async fn becomes(&self, reference: &str, state: &str) -> Result<Value> {
        let found = eventually(SOON, async || {
            let found = self.reference(reference).await?;
            ensure!(found["state"] == state, "{found:#}");
            Ok(found)
        });
        found.await.with_context(|| format!("{reference} is not {state}\n{}", self.process.stderr()))
    }

    /// Waits until another look was taken, whatever came of it.
    pub(crate) async fn looks_again(&self) -> Result<Value> {
        let before = self.status().await?;
        eventually(SOON, async || {
            let now = self.status().await?;
            ensure!(now["next_look"] != before["next_look"], "no new look since {before:#}");
            Ok(now)
        })
        .await
    }
}

/// The words of a call's `SecretIdList`, `Names` or the like.
pub(crate) fn list<'a>(call: &'a Call, field: &str) -> Vec<&'a str> {
    call.request[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The last line of what was written.
pub(crate) fn last_line(text: &str) -> &str {
    text.lines().next_back().unwrap_or_default()
}

/// Whether a process ends with that code within SOON; tells what it wrote if not.
pub(crate) async fn ends_with(process: &Process, code: i32) -> Result<ExitStatus> {
    let status = process.wait(SOON).await?;
    ensure!(status.code() == Some(code), "ended with {status}, not {code}\n{}", process.stderr());
    Ok(status)
}

/// Says that a test does not run here and what it would need; under `CI=true` that is a failure.
pub(crate) fn skip(needs: &str) -> Result<()> {
    ensure!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "cannot run here: {needs}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Past the test harness, which shows nothing of a test that passes.
    writeln!(std::io::stderr(), "SKIPPED {test}: {needs}")?;
    Ok(())
}

/// Visits everything below a folder, itself not included; follows no links.
pub(crate) fn walk(folder: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        visit(&entry.path(), &metadata)?;
        if metadata.is_dir() {
            walk(&entry.path(), visit)?;
        }
    }
    Ok(())
}

/// A loopback address that no other test listens on, with the port that is Coffer's own.
fn own_address() -> SocketAddr {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let [high, low] = (TAKEN.fetch_add(1, Ordering::Relaxed) + 1).to_be_bytes();
    let process = u8::try_from(std::process::id() % 250).unwrap_or_default() + 1;
    (Ipv4Addr::new(127, process, high, low), 9465).into()
}
