//! Prints the sidecar's figures: start to first set, memory after an hour's worth of refreshes,
//! idle CPU, size of the binary. Run it through `tests/figures`, in release.
//!
//! AWS is LocalStack behind the proxy, which answers from memory after a fixed latency: what is
//! measured is the sidecar, not LocalStack. Times stand beside a baseline of the same run, because
//! machines differ.

#![allow(clippy::print_stdout, reason = "printing figures is what this program is for")]

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bed::aws::ParameterType;
use bed::{Aws, FaultProxy, LocalStack, Metrics, Process, Program, TokenFile, free_port, tmpfs_dir};
use coffer::metrics::families;

const LATENCY: Duration = Duration::from_millis(20);
const SECRETS: usize = 10;
const PARAMETERS: usize = 10;
const STARTS: usize = 15;
/// An hour of the default refresh of 60 s.
const REFRESHES: u64 = 60;
const IDLE: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let localstack = LocalStack::shared().await?;
    let aws = Aws::new(localstack.url());
    for n in 0..SECRETS {
        aws.create_secret(&format!("bench/{n}"), "a value of a common length, 40 bytes long").await?;
    }
    for n in 0..PARAMETERS {
        aws.put_parameter(&format!("/bench/{n}"), ParameterType::SecureString, "a value").await?;
    }
    let proxy = FaultProxy::start(localstack.url())?;
    proxy.set_replay(true);
    let bench = Bench { token: TokenFile::new("system:serviceaccount:bench:bench", "sts.amazonaws.com")?, aws, proxy };

    println!("{SECRETS} secrets and {PARAMETERS} parameters, AWS at {} ms\n", LATENCY.as_millis());
    bench.binary_size()?;
    bench.start_to_first_set().await?;
    bench.memory_and_cpu().await
}

struct Bench {
    aws: Aws,
    proxy: FaultProxy,
    token: TokenFile,
}

impl Bench {
    fn binary_size(&self) -> Result<()> {
        let bytes = fs::metadata(Program::new("coffer").path()?)?.len();
        println!("binary size                         {:.1} MB", mega(bytes));
        Ok(())
    }

    /// From exec to the set being readable; the first run warms the proxy's memory and is not counted.
    async fn start_to_first_set(&self) -> Result<()> {
        self.proxy.set_latency(LATENCY);
        let mut starts = Vec::new();
        let mut bare = Vec::new();
        for _ in 0..=STARTS {
            bare.push(bare_process()?);
            starts.push(self.one_start().await?);
        }
        let (start, bare) = (median(&starts[1..]), median(&bare[1..]));
        println!("a bare process (coffer --version)   {:.1} ms, median of {STARTS}", milli(bare));
        println!("start to first full set             {:.1} ms, median of {STARTS}", milli(start));
        println!("  of which two round trips          {:.1} ms", milli(2 * LATENCY));
        println!("  left for everything else          {:.1} ms\n", milli(start.saturating_sub(2 * LATENCY)));
        Ok(())
    }

    async fn one_start(&self) -> Result<Duration> {
        let folder = tmpfs_dir()?;
        let volume = folder.path().join("volume");
        let config = self.config(folder.path(), &volume, "1h")?;
        let started = Instant::now();
        let sidecar = self.run(&config, free_port()?)?;
        while !volume.join("..data").exists() {
            ensure!(started.elapsed() < Duration::from_secs(10), "no set in 10 s: {}", sidecar.stderr());
            thread::sleep(Duration::from_micros(200));
        }
        let took = started.elapsed();
        ensure!(sidecar.stop().await?.success(), "{}", sidecar.stderr());
        Ok(took)
    }

    async fn memory_and_cpu(&self) -> Result<()> {
        let folder = tmpfs_dir()?;
        let volume = folder.path().join("volume");
        let config = self.config(folder.path(), &volume, "1s")?;
        let port = free_port()?;
        let sidecar = self.run(&config, port)?;
        self.looks(port, 1).await?;
        let fresh = sidecar.proc().memory()?;
        let before = (sidecar.proc().cpu_ticks()?, self.looks_so_far(port).await?);
        self.looks(port, before.1 + REFRESHES).await?;
        let after = (sidecar.proc().cpu_ticks()?, self.looks_so_far(port).await?);
        let memory = sidecar.proc().memory()?;
        sidecar.stop().await?;
        let looks = (after.1 - before.1) as f64;
        println!(
            "after the first set                 {:.1} MiB resident, {:.2} MiB anonymous",
            mib(fresh.rss_kib),
            mib(fresh.anonymous_kib)
        );
        println!(
            "after {REFRESHES} refreshes                  {:.1} MiB resident, {:.2} MiB anonymous",
            mib(memory.rss_kib),
            mib(memory.anonymous_kib)
        );
        println!("CPU for one unchanged refresh       {:.1} ms", 10.0 * (after.0 - before.0) as f64 / looks);

        let config = self.config(folder.path(), &folder.path().join("idle"), "1h")?;
        let port = free_port()?;
        let sidecar = self.run(&config, port)?;
        self.looks(port, 1).await?;
        let before = sidecar.proc().cpu_ticks()?;
        thread::sleep(IDLE);
        let ticks = sidecar.proc().cpu_ticks()? - before;
        sidecar.stop().await?;
        println!(
            "idle for {} s                       {:.3} % of a core",
            IDLE.as_secs(),
            ticks as f64 / IDLE.as_secs_f64()
        );
        Ok(())
    }

    fn config(&self, folder: &Path, volume: &Path, refresh: &str) -> Result<PathBuf> {
        let mut text = format!(
            "region: eu-west-1\nrefresh: {refresh}\nrate_limits: {{secretsmanager: 1000, parameterstore: 1000}}\nvolumes:\n  - path: {}\n    files:\n",
            volume.display()
        );
        for n in 0..SECRETS {
            text.push_str(&format!("      - {{name: s{n}, from: 'secretsmanager:bench/{n}'}}\n"));
        }
        for n in 0..PARAMETERS {
            text.push_str(&format!("      - {{name: p{n}, from: 'parameterstore:/bench/{n}'}}\n"));
        }
        let path = folder.join("coffer.yaml");
        fs::write(&path, text)?;
        Ok(path)
    }

    fn run(&self, config: &Path, port: u16) -> Result<Process> {
        Program::new("coffer")
            .args(["run", "--no-audit", "--config"])
            .arg(config)
            .arg(format!("--listen=127.0.0.1:{port}"))
            .env("AWS_ENDPOINT_URL", self.proxy.url())
            .env("AWS_ROLE_ARN", self.aws.role_arn("bench"))
            .env("AWS_WEB_IDENTITY_TOKEN_FILE", self.token.path())
            .start()
    }

    /// Waits until that many rounds of calls have ended. Asks seldom: each scrape costs the sidecar
    /// more than a refresh.
    async fn looks(&self, port: u16, rounds: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(300);
        loop {
            let so_far = self.looks_so_far(port).await.unwrap_or(0);
            if so_far >= rounds {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{so_far} of {rounds} looks");
            let left = Duration::from_secs(rounds - so_far);
            tokio::time::sleep(left.clamp(Duration::from_millis(500), Duration::from_secs(30))).await;
        }
    }

    /// Each look makes one GetParameters.
    async fn looks_so_far(&self, port: u16) -> Result<u64> {
        let metrics = Metrics::of_ours(&format!("http://127.0.0.1:{port}/metrics"), families()).await?;
        let looks = metrics.sum("coffer_aws_calls_total", &[("action", "ssm:GetParameters"), ("result", "ok")])?;
        // A count, so whole and small.
        Ok(looks as u64)
    }
}

fn bare_process() -> Result<Duration> {
    let binary = Program::new("coffer").path()?;
    let started = Instant::now();
    ensure!(std::process::Command::new(binary).arg("--version").output()?.status.success());
    Ok(started.elapsed())
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}

fn milli(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
