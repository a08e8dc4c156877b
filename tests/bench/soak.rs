//! Has a running `coffer run` replace its set many thousand times and prints what that leaves behind:
//! memory, descriptors, threads, generations. Run it through `tests/soak`. Ends with 1 if anything
//! grew or a swap was not told.
//!
//! Each swap goes the whole way: a changed config is read and taken over, its value is fetched, a
//! template rendered, the set published, the application told. AWS is a constant answer of the proxy,
//! or it would be AWS that is measured.

#![allow(clippy::print_stdout, reason = "printing figures is what this program is for")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bed::{Aws, Fault, FaultProxy, Process, Program, Rule, Signal, eventually, free_port, http_get, tmpfs_dir};
use serde_json::{Value, json};

const SWAPS: u64 = 10_000;
/// Swaps before the first measurement: by then every buffer has had its size once.
const WARM_UP: u64 = 200;
/// Replaced sets stay for two seconds and values for three; an allocator gives back some time later.
const REST: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(60);
/// The most that anonymous memory may grow between the two measurements, in KiB, however many swaps lie
/// between: fragments of the heap, and far below a leak of a hundred bytes a swap.
const GROWTH_MAX: u64 = 768;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let swaps = match std::env::args().nth(1) {
        Some(text) => text.parse().context("usage: soak [SWAPS]")?,
        None => SWAPS,
    };
    let soak = Soak::start().await?;
    soak.swap(1..=WARM_UP).await?;
    let before = soak.rest().await?;
    let started = Instant::now();
    soak.swap(WARM_UP + 1..=WARM_UP + swaps).await?;
    let took = started.elapsed();
    let after = soak.rest().await?;
    println!("{swaps} swaps in {:.1} s, {:.1} ms each", took.as_secs_f64(), took.as_secs_f64() * 1e3 / swaps as f64);
    println!("\n                        before      after");
    println!("resident memory      {:>6} KiB {:>6} KiB", before.rss_kib, after.rss_kib);
    println!("  of it anonymous    {:>6} KiB {:>6} KiB", before.anonymous_kib, after.anonymous_kib);
    println!("descriptors          {:>10} {:>10}", shown(before.descriptors), shown(after.descriptors));
    println!("threads              {:>10} {:>10}", before.threads, after.threads);
    println!("generations          {:>10} {:>10}", before.generations, after.generations);
    println!("swaps told           {:>10} {:>10}", before.told, after.told);
    println!("actions run          {:>10} {:>10}", before.runs, after.runs);

    ensure!(after.generations == 1, "sets that were replaced are left behind");
    ensure!(after.descriptors <= before.descriptors, "descriptors are left open");
    ensure!(after.threads <= before.threads, "threads are left behind");
    ensure!(after.told == WARM_UP + swaps, "{} swaps were told, not {}", after.told, WARM_UP + swaps);
    let grown = after.anonymous_kib.saturating_sub(before.anonymous_kib);
    ensure!(grown <= GROWTH_MAX, "memory grew by {grown} KiB");
    soak.sidecar.stop().await?;
    Ok(())
}

/// A number that only root may see.
fn shown(number: Option<usize>) -> String {
    number.map_or_else(|| "?".to_owned(), |number| number.to_string())
}

/// What a process holds at one moment, and what it has done until then.
struct Holding {
    rss_kib: u64,
    anonymous_kib: u64,
    descriptors: Option<usize>,
    threads: u64,
    generations: usize,
    told: u64,
    runs: u64,
}

struct Soak {
    folder: tempfile::TempDir,
    proxy: FaultProxy,
    port: u16,
    sidecar: Process,
}

impl Soak {
    async fn start() -> Result<Self> {
        let folder = tmpfs_dir()?;
        // Nothing is behind the proxy: it knows the one answer.
        let proxy = FaultProxy::start("http://127.0.0.1:9")?;
        let secret = json!({"username": "app", "password": "of a common length, 40 bytes long"}).to_string();
        let answer = json!({
            "ARN": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:soak-AbCdEf", "Name": "soak",
            "VersionId": "11111111-2222-4333-8444-555555555555", "SecretString": secret,
            "VersionStages": ["AWSCURRENT"], "CreatedDate": 1_700_000_000,
        });
        proxy.fault(Rule::new(Fault::Body(answer.to_string())).operation("GetSecretValue"));
        let port = free_port()?;
        let config = folder.path().join("coffer.yaml");
        write(folder.path(), 0)?;
        let account = Aws::new(&proxy.url());
        let sidecar = account.environment(&proxy.url()).into_iter().fold(
            Program::new("coffer").args(["run", "--no-audit", "--log-level=error", "--config"]).arg(config),
            |program, (name, value)| program.env(name, value),
        );
        let sidecar = sidecar.arg(format!("--listen=127.0.0.1:{port}")).start()?;
        let soak = Self { folder, proxy, port, sidecar };
        soak.is_in_place(0).await?;
        // The first set may be there before SIGHUP has a listener.
        eventually(PATIENCE, async || {
            let status = soak.status().await?;
            ensure!(status["config"]["state"] == "current" && status["volumes"][0]["published"] == true, "{status:#}");
            Ok(())
        })
        .await?;
        Ok(soak)
    }

    async fn swap(&self, numbers: impl Iterator<Item = u64>) -> Result<()> {
        for number in numbers {
            write(self.folder.path(), number)?;
            self.sidecar.signal(Signal::HUP)?;
            self.is_in_place(number).await?;
            self.proxy.clear_log();
        }
        Ok(())
    }

    async fn is_in_place(&self, number: u64) -> Result<()> {
        let file = self.volume().join("app.conf");
        let expected = format!("{number} app ");
        let started = Instant::now();
        while !fs::read_to_string(&file).is_ok_and(|text| text.starts_with(&expected)) {
            ensure!(started.elapsed() < PATIENCE, "no set {number}\n{}", self.sidecar.stderr());
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        Ok(())
    }

    /// Waits until everything is told and put away, and looks what there is.
    async fn rest(&self) -> Result<Holding> {
        let actions = eventually(PATIENCE, async || {
            let actions = self.status().await?["volumes"][0]["on_change"].take();
            let actions = actions.as_array().cloned().context("no actions")?;
            ensure!(actions.iter().all(|action| action["state"] == "idle"), "{actions:#?}");
            ensure!(actions.iter().all(|action| action["swaps"] == actions[0]["swaps"]), "{actions:#?}");
            Ok(actions)
        })
        .await?;
        tokio::time::sleep(REST).await;
        let proc = PathBuf::from(format!("/proc/{}", self.sidecar.pid()));
        // What is for everybody to read: of a process that leaves no core dump the rest is root's.
        let status = fs::read_to_string(proc.join("status"))?;
        let number = |field: &str| -> Result<u64> {
            let value = status.lines().find_map(|line| line.strip_prefix(field));
            let value = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
            value.with_context(|| format!("no {field} in {status}"))
        };
        let entries = fs::read_dir(self.volume())?.collect::<std::io::Result<Vec<_>>>()?;
        let generations = entries.iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).count();
        let sum = |field: &str| actions.iter().filter_map(|action| action[field].as_u64()).sum::<u64>();
        Ok(Holding {
            rss_kib: number("VmRSS:")?,
            anonymous_kib: number("RssAnon:")?,
            descriptors: fs::read_dir(proc.join("fd")).ok().map(Iterator::count),
            threads: number("Threads:")?,
            generations,
            told: actions[0]["swaps"].as_u64().context("a number")?,
            runs: sum("runs"),
        })
    }

    async fn status(&self) -> Result<Value> {
        let (_, body) = http_get(&format!("http://127.0.0.1:{}/status", self.port)).await?;
        Ok(serde_json::from_str(&body)?)
    }

    fn volume(&self) -> PathBuf {
        self.folder.path().join("volume")
    }
}

/// The config whose set holds `number`; every other one has other permission bits too.
fn write(folder: &Path, number: u64) -> Result<()> {
    let mode = ["0440", "0400"][usize::from(number % 2 == 1)];
    let text = format!(
        "refresh: 1h
rate_limits: {{secretsmanager: 1000}}
volumes:
  - path: {folder}/volume
    values: {{db: 'secretsmanager:soak'}}
    files:
      - {{name: db.json, from: 'secretsmanager:soak', mode: {mode}}}
      - {{name: app.conf, template: '{number} {{{{ db.username }}}} {{{{ db.password }}}}'}}
    debounce: 0s
    on_change:
      - touch: {folder}/touched
      - exec: [/bin/true]
",
        folder = folder.display()
    );
    // Whoever reads it meanwhile reads a whole one.
    fs::write(folder.join("new"), text)?;
    Ok(fs::rename(folder.join("new"), folder.join("coffer.yaml"))?)
}
