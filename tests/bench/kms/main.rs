//! Prints the KMS plugin's figures: how fast it decrypts, warm and cold; how many calls KMS gets; the start of
//! an API server under v1; memory. Run it through `tests/kms-figures`, in release.
//!
//! KMS is a stand-in that answers after 5 ms. The client is Go's gRPC with the API server's own dial, so that
//! both ends and KMS share the machine's cores: each figure stands beside a baseline of the same run. Warm, that
//! is a server that does nothing but answer; cold, AWS's SDK asking KMS from as many tasks, with no plugin nor client
//! to share the cores with, and a server that does nothing but ask the SDK.
//! With `AEP_BINARY` set, the AWS Encryption Provider is measured as well.

#![allow(clippy::print_stdout, reason = "printing figures is what this program is for")]

mod sdk;
mod stand_in;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aws_sdk_kms::primitives::Blob;
use bed::{Process, Program, aws::REGION, eventually, tmpfs_dir};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::Command;

use crate::stand_in::{KEY, StandIn};

/// KMS takes a few milliseconds in its own region.
const LATENCY: Duration = Duration::from_millis(5);
const CALLERS: [usize; 3] = [1, 16, 64];
const RUN: Duration = Duration::from_secs(5);
/// More than any cold run asks for.
const NEVER_SEEN: usize = 100_000;
const DISTINCT: usize = 100;
const OBJECTS: usize = 10_000;
const STORM_CALLERS: usize = 64;
const SOON: Duration = Duration::from_secs(20);

const LOCAL_KEK: [&str; 2] = ["--write-format", "local-kek"];

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let bench = Bench {
        kms: StandIn::start(LATENCY)?,
        load: env::var_os("KMS_LOAD").context("KMS_LOAD names no load client; run tests/kms-figures")?.into(),
        aep: env::var_os("AEP_BINARY").map(PathBuf::from),
        folder: tmpfs_dir()?,
    };
    println!("KMS at {} ms; client, plugin and KMS on the same cores\n", LATENCY.as_millis());
    bench.warm().await?;
    bench.cold().await?;
    bench.few_among_many().await?;
    bench.storm().await?;
    bench.memory().await
}

struct Bench {
    kms: StandIn,
    /// The load client, tests/conformance/kms/cmd/load.
    load: PathBuf,
    aep: Option<PathBuf>,
    folder: TempDir,
}

/// What the load client tells; times in seconds.
#[derive(Debug, Deserialize)]
struct Load {
    answered: u64,
    failed: u64,
    seconds: f64,
    p50: f64,
    p99: f64,
}

/// A server on a socket.
struct Server {
    process: Process,
    socket: PathBuf,
}

impl Bench {
    /// Decrypts of what the plugin knows.
    async fn warm(&self) -> Result<()> {
        let known = self.ciphertexts("known", DISTINCT)?;
        let (echo, plugin) = (self.echo(&[]).await?, self.plugin(&[]).await?);
        for api in ["v1", "v2"] {
            println!("Decrypt {api}, warm          callers        rate      p50      p99");
            for callers in CALLERS {
                self.decrypt(&plugin, api, callers, &known, &[]).await?;
                for (name, server) in [("a bare echo", &echo), ("coffer-kms", &plugin)] {
                    let load = self.decrypt(server, api, callers, &known, &["--for", "5s"]).await?;
                    println!("  {name:24} {callers:7}  {load}");
                }
            }
            println!();
        }
        Ok(())
    }

    /// Decrypts of what nobody has seen.
    async fn cold(&self) -> Result<()> {
        println!("Decrypt v2, cold          callers        rate      p50      p99");
        let bare = self.echo(&[&self.kms.url()]).await?;
        let plugin = self.plugin(&[]).await?;
        let aep = match &self.aep {
            Some(binary) => Some(self.aep(binary).await?),
            None => None,
        };
        for callers in CALLERS {
            let load = self.plain_sdk(callers).await?;
            println!("  {:24} {callers:7}  {load}", "the SDK, no plugin");
            let servers = [
                ("a bare server on the SDK", Some(&bare)),
                ("coffer-kms", Some(&plugin)),
                ("AWS Encryption Provider", aep.as_ref()),
            ];
            for (name, server) in servers.into_iter().filter_map(|(name, server)| Some((name, server?))) {
                let unseen = self.ciphertexts("unseen", NEVER_SEEN)?;
                let load = self.decrypt(server, "v2", callers, &unseen, &["--for", "5s", "--once"]).await?;
                println!("  {name:24} {callers:7}  {load}");
            }
        }
        println!();
        Ok(())
    }

    /// What an API server does that lists objects of few keys.
    async fn few_among_many(&self) -> Result<()> {
        let distinct = self.ciphertexts("distinct", DISTINCT)?;
        let plugin = self.plugin(&[]).await?;
        self.kms.forget_calls();
        let load = self.decrypt(&plugin, "v2", STORM_CALLERS, &distinct, &["--for", "2s"]).await?;
        println!(
            "{DISTINCT} distinct ciphertexts, asked for {} times by {STORM_CALLERS} callers: {} Decrypts at KMS\n",
            load.answered,
            self.kms.calls("Decrypt")
        );
        Ok(())
    }

    /// The start of an API server under v1: each object has a key of its own.
    async fn storm(&self) -> Result<()> {
        println!("{OBJECTS} objects read under v1 by {STORM_CALLERS} callers");
        let objects = self.ciphertexts("objects", OBJECTS)?;
        if let Some(binary) = &self.aep {
            let aep = self.aep(binary).await?;
            self.one_storm("AWS Encryption Provider", &aep, &objects).await?;
        }
        let plugin = self.plugin(&[]).await?;
        self.one_storm("coffer-kms", &plugin, &objects).await?;

        let writer = self.plugin(&LOCAL_KEK).await?;
        let sealed = self.folder.path().join("sealed");
        let args = ["--encrypt", &OBJECTS.to_string(), "--file"].map(str::to_owned);
        self.client(&writer, "v1").args(args).arg(&sealed).status().await?;
        let reader = self.plugin(&LOCAL_KEK).await?;
        self.one_storm("coffer-kms, local KEK", &reader, &sealed).await?;
        println!();
        Ok(())
    }

    async fn one_storm(&self, name: &str, server: &Server, objects: &Path) -> Result<()> {
        self.kms.forget_calls();
        let load = self.decrypt(server, "v1", STORM_CALLERS, objects, &[]).await?;
        ensure!(load.answered as usize == OBJECTS, "{name}: {load:?}");
        println!("  {name:24} {:.2} s, {} Decrypts at KMS", load.seconds, self.kms.calls("Decrypt"));
        Ok(())
    }

    async fn memory(&self) -> Result<()> {
        let plugin = self.plugin(&[]).await?;
        println!("resident, idle              {}", resident(&plugin)?);
        let known = self.ciphertexts("known", DISTINCT)?;
        self.decrypt(&plugin, "v2", STORM_CALLERS, &known, &["--for", "5s"]).await?;
        println!("resident, after a warm run  {}", resident(&plugin)?);
        let unseen = self.ciphertexts("unseen", NEVER_SEEN)?;
        self.decrypt(&plugin, "v2", STORM_CALLERS, &unseen, &["--for", "5s", "--once"]).await?;
        println!("resident, after a cold run  {}", resident(&plugin)?);
        if let Some(binary) = &self.aep {
            println!("AWS Encryption Provider     {} idle", resident(&self.aep(binary).await?)?);
        }
        Ok(())
    }

    /// A file of that many ciphertexts that no server has seen.
    fn ciphertexts(&self, name: &str, count: usize) -> Result<PathBuf> {
        let mut bytes = Vec::new();
        for _ in 0..count {
            let blob = self.kms.new_blob();
            let length = u16::try_from(1 + blob.len()).expect("a blob of some 160 bytes");
            bytes.extend(length.to_be_bytes());
            bytes.push(b'1');
            bytes.extend(blob);
        }
        let path = self.folder.path().join(name);
        fs::write(&path, bytes)?;
        Ok(path)
    }

    async fn decrypt(&self, server: &Server, api: &str, callers: usize, file: &Path, more: &[&str]) -> Result<Load> {
        let mut client = self.client(server, api);
        client.args(["--callers", &callers.to_string(), "--file"]).arg(file).args(more);
        let done = client.output().await?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let load: Load = serde_json::from_slice(&done.stdout)?;
        ensure!(load.failed == 0, "{load:?}: {}\n{}", String::from_utf8_lossy(&done.stderr), server.process.stderr());
        Ok(load)
    }

    fn client(&self, server: &Server, api: &str) -> Command {
        let mut client = Command::new(&self.load);
        client.args(["--api", api, "--key-id", KEY, "--socket"]).arg(&server.socket).kill_on_drop(true);
        client
    }

    /// AWS's SDK with nothing between it and KMS.
    async fn plain_sdk(&self, callers: usize) -> Result<Load> {
        let client = sdk::client(&self.kms.url());
        let blobs: Arc<Vec<Vec<u8>>> = Arc::new((0..NEVER_SEEN).map(|_| self.kms.new_blob()).collect());
        let next = Arc::new(AtomicUsize::new(0));
        let started = Instant::now();
        let tasks = (0..callers).map(|_| {
            let (client, blobs, next) = (client.clone(), Arc::clone(&blobs), Arc::clone(&next));
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while started.elapsed() < RUN
                    && let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let asked = Instant::now();
                    client.decrypt().ciphertext_blob(Blob::new(blob.clone())).send().await?;
                    latencies.push(asked.elapsed());
                }
                anyhow::Ok(latencies)
            })
        });
        let mut latencies = Vec::new();
        for task in tasks.collect::<Vec<_>>() {
            latencies.extend(task.await??);
        }
        Ok(Load::of(latencies, started.elapsed()))
    }

    async fn echo(&self, more: &[&str]) -> Result<Server> {
        let binary = env::current_exe()?.with_file_name("kms-echo");
        let socket = self.socket("echo");
        let process = Program::new(&binary.display().to_string()).arg(&socket).args(more).start()?;
        listening(Server { process, socket }).await
    }

    async fn plugin(&self, more: &[&str]) -> Result<Server> {
        // A probe in the middle of a run would be counted with it.
        let more = [more, &["--probe-interval", "1h"]].concat();
        let server = self.server("coffer-kms", &more).await?;
        self.probed().await?;
        Ok(server)
    }

    async fn aep(&self, binary: &Path) -> Result<Server> {
        self.server(&binary.display().to_string(), &[]).await
    }

    async fn server(&self, binary: &str, more: &[&str]) -> Result<Server> {
        self.kms.forget_calls();
        let socket = self.socket("plugin");
        let process = Program::new(binary)
            .args(["--health-port", "127.0.0.1:0", "--region", REGION, "--key", KEY, "--kms-endpoint", &self.kms.url()])
            .arg("--listen")
            .arg(&socket)
            .args(more)
            .env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
            .env("AWS_SECRET_ACCESS_KEY", "not-verified")
            .start()?;
        listening(Server { process, socket }).await
    }

    /// Waits until the plugin's first probe is over.
    async fn probed(&self) -> Result<()> {
        eventually(SOON, async || {
            ensure!(self.kms.calls("Decrypt") > 0, "no probe yet");
            Ok(())
        })
        .await?;
        tokio::time::sleep(2 * LATENCY).await;
        Ok(())
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(bed::unique_name(name))
    }
}

async fn listening(server: Server) -> Result<Server> {
    eventually(SOON, async || {
        ensure!(server.socket.exists(), "no socket yet: {}", server.process.stderr());
        Ok(())
    })
    .await?;
    Ok(server)
}

impl Load {
    fn of(mut latencies: Vec<Duration>, took: Duration) -> Self {
        latencies.sort();
        let quantile = |q: f64| latencies.get((q * latencies.len() as f64) as usize).map_or(0.0, Duration::as_secs_f64);
        Self {
            answered: latencies.len() as u64,
            failed: 0,
            seconds: took.as_secs_f64(),
            p50: quantile(0.5),
            p99: quantile(0.99),
        }
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = self.answered as f64 / self.seconds;
        write!(f, "{rate:8.0}/s {:5.2} ms {:5.2} ms", 1e3 * self.p50, 1e3 * self.p99)
    }
}

fn resident(server: &Server) -> Result<String> {
    let memory = server.process.proc().memory()?;
    let mib = |kib: u64| kib as f64 / 1024.0;
    Ok(format!("{:.1} MiB, {:.1} MiB anonymous", mib(memory.rss_kib), mib(memory.anonymous_kib)))
}
