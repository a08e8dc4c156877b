//! `coffer-injector provider`: asked as the Secrets Store CSI driver asks, and by that driver itself.

use std::{collections::BTreeMap, ffi::OsString, fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use bed::{
    Fault, Process, Program, Rule,
    csi::{POD_IDENTITY_AUDIENCE, PodIdentityAgent, PodVolume, TOKENS_KEY},
    eventually, free_port, http_get, own_address,
    seccomp::confined,
    secrets_store_driver,
};
use coffer_injector::proto::provider::{
    MountRequest, MountResponse, VersionRequest, csi_driver_provider_client::CsiDriverProviderClient,
};
use serde_json::json;
use tonic::{Code, Request, Status, transport::Channel};

use crate::fixture::{Fixture, SOON, refused};

/// Its name, under which pods ask for it.
const OTHER_DRIVER: &str = "secrets-store.csi.k8s.io";

const OBJECTS: &str = "\
- objectName: prod/db
  objectType: secretsmanager
  jmesPath: [{path: password, objectAlias: password, filePermission: '0400'}]
- {objectName: /prod/level, objectType: ssmparameter, objectAlias: level}
";

/// A running provider.
struct Provider {
    process: Process,
    folder: PathBuf,
    listen: SocketAddr,
}

impl Provider {
    async fn start(fixture: &Fixture, flags: &[&str]) -> Result<Self> {
        let folder = fixture.kubelet.folder().join("providers");
        fs::create_dir_all(&folder)?;
        let listen = SocketAddr::from((own_address(), 9466));
        // Always under the profile that is shipped, so that each test of the provider is one of the profile.
        let wrapper = fixture.kubelet.enter().into_iter().chain(confined("coffer-injector")?.map(OsString::from));
        let program = Program::new("coffer-injector")
            .under(wrapper)
            .args(["provider", "--node-id=node-a"])
            .arg(format!("--provider-dir={}", folder.display()))
            .arg(format!("--listen={listen}"))
            .args(fixture.kubeconfig_flag())
            .args(flags)
            .env("AWS_ENDPOINT_URL", fixture.proxy.url())
            .env("AWS_REGION", bed::aws::REGION);
        let provider = Self { process: program.start()?, folder, listen };
        let serves = eventually(SOON, async || {
            if let Some(status) = provider.process.status()? {
                return Ok(Some(status));
            }
            provider.client().await?.version(VersionRequest { version: "v1alpha1".to_owned() }).await?;
            Ok(None)
        });
        let ended = serves.await.with_context(|| provider.process.stderr())?;
        ensure!(ended.is_none(), "it ended: {ended:?}\n{}", provider.process.stderr());
        Ok(provider)
    }

    async fn client(&self) -> Result<CsiDriverProviderClient<Channel>> {
        let address = self.folder.join("aws.sock").display().to_string().parse()?;
        let channel = coffer_unix_grpc::connect(&address, SOON).await?;
        // As the driver's own default.
        Ok(CsiDriverProviderClient::new(channel).max_decoding_message_size(4 << 20))
    }

    async fn mount(&self, request: MountRequest) -> Result<MountResponse, Status> {
        let mut client = self.client().await.map_err(|error| Status::unavailable(format!("{error:#}")))?;
        let mut request = Request::new(request);
        request.set_timeout(Duration::from_secs(60));
        Ok(client.mount(request).await?.into_inner())
    }
}

/// What the driver sends for a volume whose class has these parameters, as its release 1.6 does: the attributes of
/// the pod over the parameters of the class, with the tokens among them.
fn request(fixture: &Fixture, volume: &PodVolume, parameters: &[(&str, &str)]) -> MountRequest {
    let published = volume.publish_request(&fixture.kubelet.target(volume));
    let mut attributes: BTreeMap<String, String> =
        parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    attributes.extend(published.volume_context.into_iter().filter(|(name, _)| name != "role-arn"));
    attributes
        .extend(published.secrets.iter().filter(|(name, _)| *name == TOKENS_KEY).map(|(k, v)| (k.clone(), v.clone())));
    MountRequest {
        attributes: json!(attributes).to_string(),
        secrets: json!(published.secrets).to_string(),
        target_path: published.target_path,
        permission: "420".to_owned(),
        current_object_version: Vec::new(),
    }
}

/// The files of an answer, with their modes.
fn files(answer: &MountResponse) -> BTreeMap<&str, (i32, &str)> {
    let text = |bytes| str::from_utf8(bytes).unwrap_or("not text");
    answer.files.iter().map(|file| (&*file.path, (file.mode, text(&file.contents)))).collect()
}

async fn with_account(flags: &[&str]) -> Result<(Fixture, Provider)> {
    let fixture = Fixture::in_cluster().await?;
    fixture.seed().await?;
    fixture.cluster().service_account("api", Some(&fixture.aws.role_arn("api"))).await?;
    let provider = Provider::start(&fixture, flags).await?;
    Ok((fixture, provider))
}

#[tokio::test]
async fn answers_with_whole_sets_and_their_versions() -> Result<()> {
    let (fixture, provider) = with_account(&[]).await?;
    let volume = fixture.pod_without_role("api")?;
    for secrets in [None, Some("null"), Some("{}")] {
        let mut request = request(&fixture, &volume, &[("objects", OBJECTS)]);
        if let Some(secrets) = secrets {
            secrets.clone_into(&mut request.secrets);
        }
        let answer = provider.mount(request).await?;
        let expected = BTreeMap::from([
            ("prod_db", (0o644, r#"{"user": "app", "password": "one"}"#)),
            ("password", (0o400, "one")),
            ("level", (0o644, "info")),
        ]);
        ensure!(files(&answer) == expected, "{:?}", files(&answer));
        ensure!(answer.error.is_none_or(|error| error.code.is_empty()));
        let current = fixture.aws.version_at_stage("prod/db", "AWSCURRENT").await?;
        let versions: BTreeMap<&str, &str> =
            answer.object_version.iter().map(|known| (&*known.id, &*known.version)).collect();
        let of_db = &*current;
        ensure!(versions == BTreeMap::from([("prod_db", of_db), ("password", of_db), ("level", "1")]), "{versions:?}");
    }
    // Nothing is written by the provider itself.
    fixture.ensure_nothing(&volume)
}

#[tokio::test]
async fn a_permission_of_the_driver_is_for_files_without_one() -> Result<()> {
    let (fixture, provider) = with_account(&[]).await?;
    let volume = fixture.pod_without_role("api")?;
    let request = MountRequest { permission: "256".to_owned(), ..request(&fixture, &volume, &[("objects", OBJECTS)]) };
    let answer = provider.mount(request).await?;
    ensure!(files(&answer)["level"].0 == 0o400 && files(&answer)["password"].0 == 0o400, "{:?}", files(&answer));
    Ok(())
}

#[tokio::test]
async fn takes_the_other_providers_flags_and_says_what_they_do_not_do() -> Result<()> {
    let fixture = Fixture::new().await?;
    let agent = PodIdentityAgent::start()?;
    fixture.seed().await?;
    let provider = Provider::start(
        &fixture,
        &[
            "--driver-writes-secrets=false",
            "--qps=5",
            "--burst=10",
            "--eks-addon-version=v1",
            "--pod-identity-http-timeout=100ms",
            "--pod-identity-endpoint",
            agent.url(),
        ],
    )
    .await?;
    let said = provider.process.stderr();
    for flag in ["driver-writes-secrets", "qps", "burst", "eks-addon-version", "pod-identity-http-timeout"] {
        ensure!(said.lines().any(|line| line.contains(flag) && line.contains("does nothing")), "{flag}:\n{said}");
    }
    // With no Kubernetes API either, as Pod Identity needs none.
    let volume = fixture.pod_without_role("api")?;
    agent.associate(volume.token_for(POD_IDENTITY_AUDIENCE), fixture.aws.account());
    let answer =
        provider.mount(request(&fixture, &volume, &[("objects", OBJECTS), ("usePodIdentity", "true")])).await?;
    ensure!(files(&answer)["level"].1 == "info");
    for path in ["/livez", "/readyz", "/metrics"] {
        let (status, body) = http_get(&format!("http://{}{path}", provider.listen)).await?;
        ensure!(status == 200 && !body.contains("prod/db"), "{path}: {status} {body}");
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_had_is_told_and_nothing_is_returned() -> Result<()> {
    let (fixture, provider) = with_account(&["--mount-timeout=3s"]).await?;
    let volume = fixture.pod_without_role("api")?;
    let absent = "- {objectName: prod/absent, objectType: secretsmanager}";
    let ask = |objects: &str| provider.mount(request(&fixture, &volume, &[("objects", objects)]));
    let cases: [(&str, &str, &[&str]); 4] = [
        ("absent", absent, &["prod/absent", "ResourceNotFoundException"]),
        ("no type", "- {objectName: a}", &["Must use objectType when a full ARN is not specified: a"]),
        ("bomb", &format!("{}{}", "[".repeat(50_000), "]".repeat(50_000)), &["Failed to load SecretProviderClass"]),
        ("nothing", "", &["objects"]),
    ];
    for (name, objects, words) in cases {
        let codes = [Code::InvalidArgument, Code::FailedPrecondition, Code::NotFound];
        refused(ask(objects).await.map(drop), &codes, words).with_context(|| name.to_owned())?;
    }
    // One of two: nothing of the other.
    let role = fixture.aws.role_arn("api");
    fixture.forbid(&role, "prod/db");
    refused(ask(OBJECTS).await.map(drop), &[Code::PermissionDenied], &["prod/db", "AccessDeniedException", &role])?;
    fixture.proxy.clear_faults();
    fixture.proxy.fault(Rule::new(Fault::Hang));
    let started = tokio::time::Instant::now();
    let stranger = fixture.pod_without_role("api")?;
    let answer =
        provider.mount(request(&fixture, &stranger, &[("objects", "- {objectName: b, objectType: secretsmanager}")]));
    // Not `Unavailable`, which has the driver's client ask twice more by itself.
    refused(answer.await.map(drop), &[Code::Unknown, Code::DeadlineExceeded], &["secretsmanager:b"])?;
    ensure!(started.elapsed() < Duration::from_secs(8), "it took {:?}", started.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_set_near_the_drivers_limit_passes_and_one_beyond_is_refused() -> Result<()> {
    let (fixture, provider) = with_account(&[]).await?;
    // 64 KiB is a secret's limit; 40 and 60 of them.
    let objects = |count: usize| {
        (0..count)
            .map(|number| format!("- {{objectName: large, objectType: secretsmanager, objectAlias: f{number}}}\n"))
            .collect::<String>()
    };
    fixture.aws.create_secret("large", &"x".repeat(64 << 10)).await?;
    let volume = fixture.pod_without_role("api")?;
    let answer = provider.mount(request(&fixture, &volume, &[("objects", &objects(40))])).await?;
    ensure!(answer.files.len() == 40);
    let answer = provider.mount(request(&fixture, &volume, &[("objects", &objects(60))])).await;
    let codes = [Code::InvalidArgument, Code::FailedPrecondition, Code::ResourceExhausted, Code::OutOfRange];
    refused(answer.map(drop), &codes, &["max-volume-size"])?;
    ensure!(provider.process.status()?.is_none());
    Ok(())
}

#[tokio::test]
async fn pods_that_ask_together_share_a_fetch_and_no_identity_gets_anothers() -> Result<()> {
    let (fixture, provider) = with_account(&[]).await?;
    let stranger = fixture.aws.role_arn("stranger");
    fixture.cluster().service_account("stranger", Some(&stranger)).await?;
    fixture.forbid(&stranger, "prod/db");
    let volumes: Vec<_> = (0..50).map(|_| fixture.pod_without_role("api")).collect::<Result<_>>()?;
    let answers = volumes.iter().map(|volume| provider.mount(request(&fixture, volume, &[("objects", OBJECTS)])));
    let answers = futures_util::future::join_all(answers).await;
    for answer in answers {
        ensure!(files(&answer?)["password"].1 == "one");
    }
    ensure!(fixture.proxy.calls().len() <= 5, "{:?}", fixture.operations());
    let thief = fixture.pod_without_role("stranger")?;
    let answer = provider.mount(request(&fixture, &thief, &[("objects", OBJECTS)])).await;
    refused(answer.map(drop), &[Code::PermissionDenied], &["prod/db"])?;
    Ok(())
}

/// The Secrets Store CSI driver, running on the node of a fixture.
struct OtherDriver {
    process: Process,
}

impl OtherDriver {
    async fn start(fixture: &Fixture, provider: &Provider, flags: &[&str]) -> Result<Self> {
        let socket = fixture.kubelet.socket();
        fs::create_dir_all(socket.parent().context("a socket is in a folder")?)?;
        let binary = secrets_store_driver().await?;
        let process = Program::new(&binary.display().to_string())
            .under(fixture.kubelet.enter())
            .arg(format!("--endpoint=unix://{}", socket.display()))
            .arg(format!("--provider-volume={}", provider.folder.display()))
            .args(["--nodeid=node-a", "--drivername", OTHER_DRIVER])
            .arg(format!("--metrics-addr=127.0.0.1:{}", free_port()?))
            .args(fixture.kubeconfig_flag())
            .args(flags)
            .env("HOME", fixture.kubelet.folder())
            .start()?;
        let driver = Self { process };
        eventually(SOON, async || {
            if let Some(status) = driver.process.status()? {
                bail!("the driver ended ({status})");
            }
            let mut identity = fixture.kubelet.identity().await?;
            identity.probe(coffer_injector::proto::csi::ProbeRequest {}).await?;
            Ok(())
        })
        .await
        .with_context(|| driver.process.stderr())?;
        Ok(driver)
    }
}

async fn with_other_driver(flags: &[&str]) -> Result<(Fixture, Provider, OtherDriver, PodVolume)> {
    let fixture = Fixture::called(OTHER_DRIVER).await?.with_cluster().await?;
    fixture.seed().await?;
    let cluster = fixture.cluster();
    cluster.service_account("api", Some(&fixture.aws.role_arn("api"))).await?;
    cluster.class("app", json!({"objects": OBJECTS})).await?;
    let provider = Provider::start(&fixture, &["--mount-timeout=5s"]).await?;
    let driver = OtherDriver::start(&fixture, &provider, flags).await?;
    let volume = fixture.pod_without_role("api")?.attribute("secretProviderClass", "app");
    let volume = cluster.pod_of(volume, "api").await?;
    Ok((fixture, provider, driver, volume))
}

#[tokio::test]
async fn the_secrets_store_driver_mounts_what_it_answers() -> Result<()> {
    let (fixture, _provider, driver, volume) = with_other_driver(&[]).await?;
    fixture.kubelet.publish(&volume).await.with_context(|| driver.process.stderr())?;
    let whole = [("prod_db", r#"{"user": "app", "password": "one"}"#), ("password", "one"), ("level", "info")];
    fixture.ensure_holds(&volume, &whole)?;
    ensure!(fixture.permissions(&volume, "password")?.mode == 0o400);
    ensure!(fixture.permissions(&volume, "level")?.mode == 0o644);
    let status = fixture.cluster().class_status(&volume, "app").await?;
    let objects = status["status"]["objects"].as_array().cloned().unwrap_or_default();
    ensure!(objects.iter().any(|known| known["id"] == "level" && known["version"] == "1"), "{status:#}");
    fixture.kubelet.unpublish(&volume).await?;
    fixture.kubelet.ensure_gone(&volume)
}

#[tokio::test]
async fn the_secrets_store_driver_rotates_and_outlives_the_provider() -> Result<()> {
    let (fixture, provider, _driver, volume) =
        with_other_driver(&["--enable-secret-rotation=true", "--rotation-poll-interval=1s"]).await?;
    fixture.kubelet.publish(&volume).await?;
    let republished_until = async |expected: &str| {
        eventually(SOON, async || {
            fixture.kubelet.publish(&volume).await?;
            let found = fixture.kubelet.read(&volume, "password")?;
            ensure!(found == expected, "{found:?}, not {expected:?}");
            Ok(())
        })
        .await
    };
    fixture.aws.put_secret_value("prod/db", r#"{"user": "app", "password": "two"}"#).await?;
    republished_until("two").await?;
    // The same socket's path, a new process behind it.
    provider.process.kill()?;
    provider.process.wait(SOON).await?;
    fixture.kubelet.publish(&volume).await?;
    ensure!(fixture.kubelet.read(&volume, "password")? == "two");
    let _provider = Provider::start(&fixture, &[]).await?;
    fixture.aws.put_secret_value("prod/db", r#"{"user": "app", "password": "three"}"#).await?;
    republished_until("three").await
}

#[tokio::test]
async fn the_secrets_store_driver_passes_the_reason_on() -> Result<()> {
    let (fixture, _provider, driver, volume) = with_other_driver(&[]).await?;
    let role = fixture.aws.role_arn("api");
    fixture.forbid(&role, "prod/db");
    let Err(status) = fixture.kubelet.publish(&volume).await else { bail!("it was mounted") };
    for word in ["secretsmanager:prod/db", "AccessDeniedException", &role] {
        ensure!(status.message().contains(word), "no {word} in {status:?}\n{}", driver.process.stderr());
    }
    fixture.ensure_nothing(&volume)?;
    fixture.proxy.clear_faults();
    fixture.published(&volume).await?;
    ensure!(fixture.kubelet.read(&volume, "password")? == "one");
    Ok(())
}

/// A pod that was written for the Secrets Store driver, moved over: the same class, the same attributes, and
/// files that are the same in name, content and mode.
#[tokio::test]
async fn a_pod_moves_from_the_secrets_store_driver_to_ours_as_it_is() -> Result<()> {
    let (fixture, _provider, theirs, volume) = with_other_driver(&[]).await?;
    let seen = |fixture: &Fixture, volume: &PodVolume| -> Result<BTreeMap<String, (u32, String)>> {
        let names = fixture.names(volume)?;
        let file = |name: String| {
            let mode = fixture.permissions(volume, &name)?.mode;
            let content = fixture.kubelet.read(volume, &name)?;
            Ok((name, (mode, content)))
        };
        names.into_iter().map(file).collect()
    };
    fixture.kubelet.publish(&volume).await?;
    let before = seen(&fixture, &volume)?;
    let status_before = fixture.cluster().class_status(&volume, "app").await?["status"].clone();
    theirs.process.stop().await?;
    let _ = fs::remove_file(fixture.kubelet.socket());

    // Ours under its name, on a node where a pod of its is running.
    let driver = fixture.start(&["--driver-name", OTHER_DRIVER]).await?;
    fixture.kubelet.register().await?;
    fixture.kubelet.publish(&volume).await?;
    ensure!(seen(&fixture, &volume)? == before, "{:?}\n{before:?}", seen(&fixture, &volume)?);
    let status = eventually(SOON, async || {
        let status = fixture.cluster().class_status(&volume, "app").await?["status"].clone();
        ensure!(status["mounted"] == true);
        Ok(status)
    })
    .await?;
    ensure!(status == status_before, "{status:#}\n{status_before:#}");
    fixture.kubelet.unpublish(&volume).await?;
    fixture.kubelet.ensure_gone(&volume)?;
    // And a pod that comes now.
    let next = fixture.pod_without_role("api")?.attribute("secretProviderClass", "app");
    let next = fixture.cluster().pod_of(next, "api").await?;
    fixture.kubelet.publish(&next).await?;
    ensure!(seen(&fixture, &next)? == before);
    driver.ensure_serves().await
}
