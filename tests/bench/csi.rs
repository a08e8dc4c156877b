//! Prints the node driver's figures: a hundred pods at once, of one service account and of a hundred; five
//! hundred volumes that only stand there. Run it through `tests/csi-figures`, in release; it takes root.
//!
//! AWS is LocalStack behind the proxy, which answers from memory after a fixed latency: what is measured is the
//! driver, not LocalStack. The kubelet's part is this process, on the same cores.

#![allow(clippy::print_stdout, reason = "printing figures is what this program is for")]

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bed::{
    Aws, FaultProxy, LocalStack, Process, Program,
    aws::ParameterType,
    csi::{Kubelet, PodVolume},
    eventually, own_address,
};
use futures_util::future::join_all;
use tokio::time::sleep;

const LATENCY: Duration = Duration::from_millis(10);
const KINDS: usize = 5;
const PODS: usize = 100;
/// The kubelet allows 110 pods, EKS up to 250, some with two volumes.
const VOLUMES: usize = 500;
const IDENTITIES: usize = 10;
const IDLE: Duration = Duration::from_secs(60);
/// The kubelet has each volume published again every 60 to 90 s.
const REPUBLISH: Duration = Duration::from_secs(75);
const SOON: Duration = Duration::from_secs(20);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let localstack = LocalStack::shared().await?;
    let aws = Aws::new(localstack.url());
    let mut spec = String::new();
    for number in 0..KINDS {
        aws.create_secret(&format!("bench/{number}"), "a value of a common length, 40 bytes long").await?;
        aws.put_parameter(&format!("/bench/{number}"), ParameterType::SecureString, "a value").await?;
        spec.push_str(&format!("- {{name: s{number}, from: 'secretsmanager:bench/{number}'}}\n"));
        spec.push_str(&format!("- {{name: p{number}, from: 'parameterstore:/bench/{number}'}}\n"));
    }
    let proxy = FaultProxy::start(localstack.url())?;
    proxy.set_replay(true);
    proxy.set_latency(LATENCY);
    let bench = Bench { aws, proxy, spec };

    println!("{KINDS} secrets and {KINDS} parameters a pod, AWS at {} ms\n", LATENCY.as_millis());
    let parts: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    bench.binary_size()?;
    if wanted("start") {
        bench.at_once("one service account", 1).await?;
        bench.at_once(&format!("{PODS} service accounts"), PODS).await?;
    }
    if wanted("idle") {
        bench.idle().await?;
    }
    Ok(())
}

struct Bench {
    aws: Aws,
    proxy: FaultProxy,
    spec: String,
}

/// A driver on a node of its own.
struct Node {
    kubelet: Kubelet,
    driver: Process,
}

impl Bench {
    fn binary_size(&self) -> Result<()> {
        let bytes = fs::metadata(Program::new("coffer-injector").path()?)?.len();
        println!("binary size                         {:.1} MB\n", bytes as f64 / 1e6);
        Ok(())
    }

    /// A hundred pods that start together.
    async fn at_once(&self, of_whom: &str, identities: usize) -> Result<()> {
        // The first time LocalStack itself has to answer, and is not counted.
        for counted in [false, true] {
            let node = self.node().await?;
            let idle = node.driver.proc().memory()?;
            let volumes = self.volumes(PODS, identities)?;
            self.proxy.clear_log();
            let started = Instant::now();
            let mut times = join_all(volumes.iter().map(|volume| node.timed_publish(volume)))
                .await
                .into_iter()
                .collect::<Result<Vec<_>>>()?;
            let wall = started.elapsed();
            for volume in &volumes {
                ensure!(node.kubelet.read(volume, "s0")?.starts_with("a value"), "a volume without its files");
            }
            if !counted {
                continue;
            }
            times.sort();
            println!("{PODS} pods of {of_whom}, at once");
            println!("  wall                              {:.2} s", wall.as_secs_f64());
            println!("  p50, p99                          {:.2} s, {:.2} s", at(&times, 50), at(&times, 99));
            println!("  calls to AWS                      {}", self.proxy.calls().len());
            let after = node.driver.proc().memory()?;
            println!("  resident before                   {}", resident(idle));
            println!("  resident after                    {}", resident(after));
            sleep(Duration::from_secs(30)).await;
            println!("  resident half a minute later      {}\n", resident(node.driver.proc().memory()?));
        }
        Ok(())
    }

    /// Volumes in which nothing happens, under the default refresh.
    async fn idle(&self) -> Result<()> {
        let node = self.node().await?;
        let before = node.driver.proc().memory()?;
        let volumes = self.volumes(VOLUMES, IDENTITIES)?;
        for some in volumes.chunks(PODS) {
            let published = join_all(some.iter().map(|volume| node.timed_publish(volume))).await;
            published.into_iter().collect::<Result<Vec<_>>>()?;
        }
        // What the mounts took beside what stays.
        sleep(Duration::from_secs(30)).await;
        let after = node.driver.proc().memory()?;
        let per_volume = (after.anonymous_kib.saturating_sub(before.anonymous_kib)) as f64 / VOLUMES as f64;
        println!("{VOLUMES} volumes of {IDENTITIES} service accounts, default refresh");
        println!("  resident before                   {}", resident(before));
        println!("  resident with all                 {}", resident(after));
        println!("  heap for each volume              {per_volume:.1} KiB");
        self.proxy.clear_log();
        let cpu = node.cpu_while(sleep(IDLE)).await?;
        println!("  CPU, nobody asks                  {cpu:.2} % of a core, {} calls to AWS", self.proxy.calls().len());
        self.proxy.clear_log();
        let cpu = node
            .cpu_while(async {
                let pause = REPUBLISH.div_f64(VOLUMES as f64);
                let end = Instant::now() + IDLE;
                for volume in volumes.iter().cycle() {
                    if Instant::now() >= end {
                        break;
                    }
                    // A failure would be seen in the files.
                    let _ = node.kubelet.publish(volume).await;
                    sleep(pause).await;
                }
            })
            .await?;
        println!("  CPU, the kubelet asks as it does  {cpu:.2} % of a core, {} calls to AWS", self.proxy.calls().len());
        println!("  resident at the end               {}", resident(node.driver.proc().memory()?));
        for volume in &volumes {
            ensure!(node.kubelet.read(volume, "p0")? == "a value", "a volume without its files");
        }
        Ok(())
    }

    async fn node(&self) -> Result<Node> {
        let kubelet = Kubelet::new("csi.coffer.dev")?;
        let listen = SocketAddr::from((own_address(), 9466));
        let driver = Program::new("coffer-injector")
            .under(kubelet.enter())
            .args(["csi", "--node-id=node-a"])
            .arg(format!("--listen={listen}"))
            .arg(format!("--kubelet-dir={}", kubelet.folder().display()))
            .env("AWS_ENDPOINT_URL", self.proxy.url())
            .env("AWS_REGION", bed::aws::REGION)
            .start()?;
        eventually(SOON, async || {
            ensure!(kubelet.socket().exists(), "the driver does not serve");
            Ok(())
        })
        .await
        .with_context(|| driver.stderr())?;
        Ok(Node { kubelet, driver })
    }

    fn volumes(&self, count: usize, identities: usize) -> Result<Vec<PodVolume>> {
        let volume = |place: usize| {
            let account = format!("account-{}", place % identities);
            let volume = PodVolume::new("bench", &account)?.attribute("spec", &*self.spec);
            Ok(volume.attribute("role-arn", self.aws.role_arn(&account)).group(2000))
        };
        (0..count).map(volume).collect()
    }
}

impl Node {
    async fn timed_publish(&self, volume: &PodVolume) -> Result<Duration> {
        let started = Instant::now();
        self.kubelet.publish(volume).await.with_context(|| self.driver.stderr())?;
        Ok(started.elapsed())
    }

    /// The share of a core that the driver takes meanwhile, in percent.
    async fn cpu_while(&self, meanwhile: impl Future<Output = ()>) -> Result<f64> {
        let (started, before) = (Instant::now(), self.driver.proc().cpu_ticks()?);
        meanwhile.await;
        let ticks = self.driver.proc().cpu_ticks()? - before;
        // A tick is a hundredth of a second.
        Ok(ticks as f64 / started.elapsed().as_secs_f64())
    }
}

fn at(sorted: &[Duration], percent: usize) -> f64 {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)].as_secs_f64()
}

fn resident(memory: bed::Memory) -> String {
    let mib = |kib: u64| kib as f64 / 1024.0;
    format!("{:.1} MiB, {:.1} of it heap and stacks", mib(memory.rss_kib), mib(memory.anonymous_kib))
}
