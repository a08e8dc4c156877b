//! What the tests start from: an AWS account of their own behind a fault proxy, a kubelet's end, and
//! `coffer-injector csi` as it runs on a node.

use std::fmt;
use std::{fs, net::SocketAddr, os::unix::fs::MetadataExt, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use bed::{
    Aws, Call, Fault, FaultProxy, LocalStack, Metrics, Process, Program, Rule, Service, aws::ParameterType,
    csi::Kubelet, csi::PodVolume, eventually, http_get, own_address,
};
use coffer_injector::csi::families;
use coffer_injector::proto::csi::ProbeRequest;
use tonic::{Code, Status};

use crate::cluster::Cluster;

/// Longer than anything takes that should come about at once, on a slow and busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(40);

/// The driver's name unless a test gives it another.
pub(crate) const DRIVER: &str = "csi.coffer.dev";

/// Where the pods are that need no Kubernetes API.
pub(crate) const NAMESPACE: &str = "shop";

/// A node of an EKS cluster.
pub(crate) struct Fixture {
    /// Past the proxy.
    pub(crate) aws: Aws,
    pub(crate) proxy: FaultProxy,
    pub(crate) kubelet: Kubelet,
    cluster: Option<Cluster>,
    listen: SocketAddr,
}

/// A running `coffer-injector csi`.
pub(crate) struct Driver {
    pub(crate) process: Process,
    listen: SocketAddr,
}

/// What a file is, but for its content.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Permissions {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o} {}:{}", self.mode, self.uid, self.gid)
    }
}

impl Fixture {
    pub(crate) async fn new() -> Result<Self> {
        Self::called(DRIVER).await
    }

    /// For a driver of that name.
    pub(crate) async fn called(driver: &str) -> Result<Self> {
        let localstack = LocalStack::shared().await?;
        Ok(Self {
            aws: Aws::new(localstack.url()),
            proxy: FaultProxy::start(localstack.url())?,
            kubelet: Kubelet::new(driver)?,
            cluster: None,
            listen: (own_address(), 9466).into(),
        })
    }

    /// With the Kubernetes API, and a namespace of its own there.
    pub(crate) async fn in_cluster() -> Result<Self> {
        Self::new().await?.with_cluster().await
    }

    pub(crate) async fn with_cluster(self) -> Result<Self> {
        Ok(Self { cluster: Some(Cluster::new().await?), ..self })
    }

    /// The Kubernetes API of a fixture that has one.
    pub(crate) fn cluster(&self) -> &Cluster {
        self.cluster.as_ref().expect("a fixture made by in_cluster")
    }

    /// Where its pods are.
    pub(crate) fn namespace(&self) -> &str {
        self.cluster.as_ref().map_or(NAMESPACE, Cluster::namespace)
    }

    /// One with `prod/db`, a JSON secret, and `/prod/level`, a parameter; and a driver that is ready.
    pub(crate) async fn seeded(flags: &[&str]) -> Result<(Self, Driver)> {
        let fixture = Self::new().await?;
        fixture.seed().await?;
        let driver = fixture.start(flags).await?;
        Ok((fixture, driver))
    }

    pub(crate) async fn seed(&self) -> Result<()> {
        self.aws.create_secret("prod/db", r#"{"user": "app", "password": "one"}"#).await?;
        self.aws.put_parameter("/prod/level", ParameterType::SecureString, "info").await?;
        Ok(())
    }

    /// `coffer-injector csi` as a DaemonSet starts it, with these flags too; without `--refresh` it looks for
    /// changes only once an hour.
    pub(crate) fn program(&self, flags: &[&str]) -> Program {
        self.program_without_cluster(flags).args(self.kubeconfig_flag())
    }

    /// The same without the Kubernetes API, even where there is one.
    pub(crate) fn program_without_cluster(&self, flags: &[&str]) -> Program {
        let refresh = flags.iter().any(|flag| flag.starts_with("--refresh"));
        Program::new("coffer-injector")
            .under(self.kubelet.enter())
            .args(["csi", "--node-id=node-a"])
            .arg(format!("--listen={}", self.listen))
            .arg(format!("--kubelet-dir={}", self.kubelet.folder().display()))
            .args((!refresh).then_some("--refresh=1h"))
            .args(flags)
            .env("AWS_ENDPOINT_URL", self.proxy.url())
            .env("AWS_REGION", bed::aws::REGION)
    }

    /// How a program reaches the Kubernetes API, if there is one.
    pub(crate) fn kubeconfig_flag(&self) -> Option<String> {
        self.cluster.as_ref().map(|cluster| format!("--kubeconfig={}", cluster.kubeconfig().display()))
    }

    /// Starts [`Self::program`] and waits until it serves.
    pub(crate) async fn start(&self, flags: &[&str]) -> Result<Driver> {
        self.start_as(self.program(flags)).await
    }

    /// Starts a variant of [`Self::program`] and waits until it serves.
    pub(crate) async fn start_as(&self, program: Program) -> Result<Driver> {
        let process = program.start()?;
        let serves = eventually(SOON, async || {
            if let Some(status) = process.status()? {
                return Ok(Some(status));
            }
            self.kubelet.identity().await?.probe(ProbeRequest {}).await?;
            Ok(None)
        });
        match serves.await.with_context(|| format!("does not serve\n{}", process.stderr()))? {
            None => Ok(Driver { process, listen: self.listen }),
            Some(status) => bail!("coffer-injector ended ({status})\n{}", process.stderr()),
        }
    }

    /// A volume of a new pod whose role is called as its service account, with that spec.
    pub(crate) fn pod(&self, service_account: &str, spec: &str) -> Result<PodVolume> {
        Ok(self.pod_without_spec(service_account)?.attribute("spec", spec))
    }

    pub(crate) fn pod_without_spec(&self, service_account: &str) -> Result<PodVolume> {
        let role = self.aws.role_arn(service_account);
        Ok(self.pod_without_role(service_account)?.attribute("role-arn", role))
    }

    pub(crate) fn pod_without_role(&self, service_account: &str) -> Result<PodVolume> {
        PodVolume::new(self.namespace(), service_account)
    }

    /// A volume of a new pod with the two values of [`Self::seed`] in three files.
    pub(crate) fn seeded_pod(&self) -> Result<PodVolume> {
        self.pod("api", SEEDED)
    }

    /// Publishes a volume as the kubelet does, who asks again after a failure.
    pub(crate) async fn published(&self, volume: &PodVolume) -> Result<()> {
        eventually(SOON, async || Ok(self.kubelet.publish(volume).await?)).await
    }

    /// The permissions of what is at that path of a volume, its links followed.
    pub(crate) fn permissions(&self, volume: &PodVolume, path: &str) -> Result<Permissions> {
        let path = self.kubelet.volume(volume).join(path);
        let metadata = fs::metadata(&path).with_context(|| format!("there is no {}", path.display()))?;
        Ok(Permissions { mode: metadata.mode() & 0o7777, uid: metadata.uid(), gid: metadata.gid() })
    }

    /// The names that an application sees at the top of a volume.
    pub(crate) fn names(&self, volume: &PodVolume) -> Result<Vec<String>> {
        let folder = self.kubelet.volume(volume);
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names: Vec<_> = names.collect::<Result<_>>()?;
        names.retain(|name| !name.starts_with(".."));
        names.sort();
        Ok(names)
    }

    /// Checks what files a volume holds, and that it is mounted once.
    pub(crate) fn ensure_holds(&self, volume: &PodVolume, files: &[(&str, &str)]) -> Result<()> {
        for (file, expected) in files {
            let found = self.kubelet.read(volume, file)?;
            ensure!(found == *expected, "{file} holds {found:?}, not {expected:?}");
        }
        let mut tops: Vec<_> = files.iter().map(|(file, _)| file.split('/').next().unwrap_or(file)).collect();
        tops.sort_unstable();
        tops.dedup();
        let names = self.names(volume)?;
        ensure!(names == tops, "the volume has {names:?}, not {tops:?}");
        let mounts = self.kubelet.mounts(volume)?;
        ensure!(mounts.len() == 1, "mounted {} times: {mounts:?}", mounts.len());
        Ok(())
    }

    /// Checks that a volume holds what [`Self::seed`] made.
    pub(crate) fn ensure_seeded(&self, volume: &PodVolume) -> Result<()> {
        self.ensure_holds(volume, SEEDED_FILES)
    }

    /// Checks that no pod was given anything: no file is below the target, whatever else is.
    pub(crate) fn ensure_nothing(&self, volume: &PodVolume) -> Result<()> {
        let folder = self.kubelet.volume(volume);
        let found: Vec<_> = match fs::read_dir(&folder) {
            Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?,
            Err(_) => Vec::new(),
        };
        ensure!(found.is_empty(), "something is in the volume: {found:?}");
        Ok(())
    }

    /// Waits until a file of a volume holds that.
    pub(crate) async fn becomes(&self, volume: &PodVolume, file: &str, expected: &str) -> Result<()> {
        eventually(SOON, async || {
            let found = self.kubelet.read(volume, file)?;
            ensure!(found == expected, "{file} holds {found:?}, not {expected:?}");
            Ok(())
        })
        .await
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

    /// The operations that were called so far.
    pub(crate) fn operations(&self) -> Vec<String> {
        self.proxy.calls().into_iter().map(|call| call.operation).collect()
    }

    /// The calls for values.
    pub(crate) fn value_calls(&self) -> Vec<Call> {
        let calls = self.proxy.calls().into_iter();
        calls.filter(|call| matches!(call.service, Service::SecretsManager | Service::ParameterStore)).collect()
    }

    /// From now on a role may not read a secret, be it asked for alone or with others.
    pub(crate) fn forbid(&self, role: &str, secret: &str) {
        let message = format!("User: {role} is not authorized to perform: secretsmanager:GetSecretValue on {secret}");
        let refused = (secret.to_owned(), ("AccessDeniedException".to_owned(), message));
        let by = role.to_owned();
        let in_batch = Rule::new(Fault::BatchErrors([refused].into()));
        self.proxy.fault(in_batch.when(move |call| call.role.as_deref() == Some(&*by)));
        for operation in ["GetSecretValue", "DescribeSecret"] {
            let (by, secret) = (role.to_owned(), secret.to_owned());
            let alone = Rule::new(Fault::AccessDenied).operation(operation);
            self.proxy.fault(
                alone.when(move |call| call.role.as_deref() == Some(&*by) && call.request["SecretId"] == *secret),
            );
        }
    }
}

/// A spec with the values of [`Fixture::seed`].
pub(crate) const SEEDED: &str = "\
files:
  - {name: db.json, from: 'secretsmanager:prod/db'}
  - {name: password, from: 'secretsmanager:prod/db', select: password}
  - {name: app/level, from: 'parameterstore:/prod/level'}
";

/// The files of [`SEEDED`].
pub(crate) const SEEDED_FILES: &[(&str, &str)] =
    &[("db.json", r#"{"user": "app", "password": "one"}"#), ("password", "one"), ("app/level", "info")];

impl Driver {
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, String)> {
        http_get(&format!("http://{}{path}", self.listen)).await
    }

    /// The sum of a metric's samples with these labels; 0 where there is none yet.
    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        Metrics::of_ours(&format!("http://{}/metrics", self.listen), families()).await?.sum(name, labels)
    }

    /// Ends it as a crash would.
    pub(crate) async fn crash(&self) -> Result<()> {
        self.process.kill()?;
        self.process.wait(SOON).await?;
        Ok(())
    }

    /// Ends it by SIGTERM, which it must take well, and gives what it wrote.
    pub(crate) async fn stop(&self) -> Result<String> {
        let status = self.process.stop().await?;
        let said = self.process.stderr();
        ensure!(status.success(), "{status}\n{said}");
        ensure!(!said.contains("panicked"), "{said}");
        Ok(said)
    }

    /// Checks that it lives and serves yet.
    pub(crate) async fn ensure_serves(&self) -> Result<()> {
        ensure!(self.process.status()?.is_none(), "it has ended\n{}", self.process.stderr());
        ensure!(!self.process.stderr().contains("panicked"), "{}", self.process.stderr());
        let (status, body) = self.get("/livez").await?;
        ensure!(status == 200, "/livez answers {status}: {body}");
        Ok(())
    }
}

/// Whether a refusal is the driver's own, not the client's who gave up or found nobody.
pub(crate) fn is_own(status: &Status) -> bool {
    !["Timeout expired", "transport error", "error trying to connect"].iter().any(|own| status.message().contains(own))
}

/// Whether a request was refused with one of these codes and all of these words, in one line.
pub(crate) fn refused(answer: Result<(), Status>, codes: &[Code], words: &[&str]) -> Result<String> {
    let Err(status) = answer else { bail!("it was not refused") };
    ensure!(is_own(&status), "no answer came: {status:?}");
    let message = status.message();
    ensure!(codes.contains(&status.code()), "{:?} and not {codes:?}: {message}", status.code());
    for word in words {
        ensure!(message.contains(word), "no {word:?} in {message:?}");
    }
    ensure!(!message.contains('\n'), "more than one line: {message:?}");
    ensure!(message.len() < 2000, "a long story of {} bytes: {message:?}", message.len());
    Ok(message.to_owned())
}

/// The codes at which the kubelet keeps the folder and takes the volume for uncertain; after any other it
/// removes the folder (k8s.io/kubernetes, `pkg/volume/csi/csi_client.go`, `isFinalError`).
pub(crate) const NOT_FINAL: &[Code] =
    &[Code::Cancelled, Code::DeadlineExceeded, Code::Unavailable, Code::ResourceExhausted, Code::Aborted];
