//! The webhook renewed, replaced, killed and away, while pods are made.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use bed::{cluster::Refusal, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{Ground, NAME, ROLLED_OUT, Replica, SYSTEM, asks_for_password, init_containers, pod};
use crate::fixture::SOON;

const CONFIGURATION: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/coffer-injector";

/// How long the API server may need to hear that an endpoint is there again: a watch.
const HEARD: Duration = Duration::from_secs(2);

impl Ground {
    /// The authorities that the API server knows each of the webhooks by, in PEM.
    async fn bundles(&self) -> Result<Vec<String>> {
        let configuration = self.plane.api().get(CONFIGURATION).await?;
        let webhooks = configuration["webhooks"].as_array().context("no webhooks")?;
        let bundle = |webhook: &Value| {
            let text = webhook["clientConfig"]["caBundle"].as_str().context("no caBundle")?;
            Ok(String::from_utf8(BASE64_STANDARD.decode(text)?)?)
        };
        webhooks.iter().map(bundle).collect()
    }

    /// Connects to a replica as the API server would: the certificate that it shows.
    pub(super) async fn certificate_of(&self, replica: &Replica, bundle: &str) -> Result<Vec<u8>> {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_reader_iter(Cursor::new(bundle)) {
            roots.add(authority?)?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect((replica.address, 9443)).await?;
        let name = ServerName::try_from(format!("{NAME}.{SYSTEM}.svc"))?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        Ok(shown.context("it showed none")?.to_vec())
    }

    /// Waits until none of these is left: the last of them has its delay, and what is under way.
    pub(super) async fn settled(&self, before: &[Replica]) -> Result<Vec<Replica>> {
        eventually(ROLLED_OUT, async || {
            let now = self.replicas().await?;
            ensure!(now.len() == 2 && !now.iter().any(|replica| before.contains(replica)), "{now:?}");
            Ok(now)
        })
        .await
    }

    /// The process of a replica, by its number.
    fn process_of(&self, replica: &str) -> Result<i32> {
        let name = format!("POD_NAME={replica}");
        let processes = self.node.processes()?;
        let its = processes.iter().find(|process| {
            process.cmdline().is_ok_and(|line| line.iter().any(|word| word == "webhook"))
                && process.environ().is_ok_and(|variables| variables.contains(&name))
        });
        Ok(i32::try_from(its.with_context(|| format!("{replica} does not run"))?.pid())?)
    }

    async fn scale(&self, replicas: usize) -> Result<()> {
        let name = format!("deployment/{NAME}");
        let count = format!("--replicas={replicas}");
        self.plane.kubectl(["scale", "--namespace", SYSTEM, &name, &count]).await?;
        self.rolled_out(replicas).await
    }
}

#[tokio::test]
async fn a_rollout_of_the_webhook_refuses_no_pod() -> Result<()> {
    let ground = Ground::with(&[]).await?;
    let (required, other) = (ground.required().await?, ground.namespace(json!({})).await?);
    let before = ground.replicas().await?;
    let rollout = async {
        sleep(Duration::from_secs(2)).await;
        // Applied again, the manifests take away nothing that the webhook has put into their objects.
        let known = ground.bundles().await?;
        ground.apply_again().await?;
        ensure!(ground.bundles().await? == known, "the caBundle is another");
        ensure!(ground.replicas().await? == before, "other replicas");
        let restart = ["rollout", "restart", "--namespace", SYSTEM, "deployment/coffer-injector"];
        ground.plane.kubectl(restart).await?;
        ground.rolled_out(2).await?;
        ground.settled(&before).await?;
        sleep(Duration::from_secs(2)).await;
        Ok(())
    };
    let ((), made) = ground.while_pods_are_made(&[&required, &other], rollout).await?;
    made.all_injected(100)
}

#[tokio::test]
async fn renewals_of_the_certificate_and_of_its_authority_refuse_no_pod() -> Result<()> {
    let flags = ["--certificate-lifetime=40s", "--ca-lifetime=80s", "--overlap=8s"];
    let ground = Ground::with(&flags).await?;
    let (required, other) = (ground.required().await?, ground.namespace(json!({})).await?);
    let (mut certificates, mut bundles) = (BTreeSet::new(), BTreeSet::new());
    let renewals = async {
        let deadline = Instant::now() + Duration::from_secs(240);
        // Three leaves, and an authority that is new and has taken the place of the first.
        while certificates.len() < 4 || bundles.len() < 4 {
            ensure!(Instant::now() < deadline, "{} certificates, {} bundles", certificates.len(), bundles.len());
            for replica in ground.replicas().await? {
                let known = ground.bundles().await?;
                ensure!(known.windows(2).all(|pair| pair[0] == pair[1]), "the webhooks have not the same: {known:?}");
                let bundle = known.into_iter().next().context("no webhook")?;
                let shown = ground.certificate_of(&replica, &bundle).await;
                certificates.insert(shown.with_context(|| format!("{} is not trusted", replica.name))?);
                bundles.insert(bundle);
            }
            sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    };
    let ((), made) = match ground.while_pods_are_made(&[&required, &other], renewals).await {
        Ok(done) => done,
        Err(error) => return Err(error.context(ground.said().await)),
    };
    made.all_injected(100)
}

#[tokio::test]
async fn with_one_replica_killed_pods_are_refused_for_a_moment_and_then_no_more() -> Result<()> {
    let ground = Ground::with(&[]).await?;
    let required = ground.required().await?;
    let killed = async {
        sleep(Duration::from_secs(1)).await;
        let serving = ground.ready_endpoints().await?;
        ensure!(serving.len() == 2, "{serving:?}");
        let process = ground.process_of(&serving[0])?;
        kill_process(Pid::from_raw(process).context("no such process")?, Signal::KILL)?;
        let at = Instant::now();
        let pod = format!("/api/v1/namespaces/{SYSTEM}/pods/{}", serving[0]);
        eventually(ROLLED_OUT, async || {
            let status = ground.plane.api().get(&pod).await?["status"].take();
            let container = &status["containerStatuses"][0];
            ensure!(container["restartCount"] == 1 && container["ready"] == true, "{status}");
            Ok(())
        })
        .await?;
        ground.rolled_out(2).await?;
        let mended = Instant::now();
        sleep(HEARD + Duration::from_secs(2)).await;
        Ok((at, mended))
    };
    let ((at, mended), made) = ground.while_pods_are_made(&[&required], killed).await?;
    ensure!(made.bare.is_empty(), "{} were made without the sidecar", made.bare.len());
    for (when, why) in &made.refused {
        // One that was on its way when it happened was made before.
        ensure!(*when + Duration::from_secs(5) > at, "refused before anything happened: {why}");
        ensure!(*when < mended + HEARD, "refused when both were there again: {why}");
        ensure!(why.contains("failed calling webhook \"required.coffer.dev\""), "{why}");
    }
    // The other replica was there all the time.
    ensure!(made.injected > made.refused.len() && made.injected > 50, "only {} pods were made", made.injected);
    Ok(())
}

#[tokio::test]
async fn with_the_webhook_away_a_namespace_gets_what_it_has_chosen() -> Result<()> {
    let ground = Ground::with(&[]).await?;
    let (required, other) = (ground.required().await?, ground.namespace(json!({})).await?);
    ground.scale(0).await?;
    let annotated = pod(&asks_for_password());

    let refused = ground.create(&required, &annotated).await.err().context("it was made")?;
    let refusal = refused.downcast_ref::<Refusal>().with_context(|| format!("{refused:#}"))?;
    ensure!(refusal.message.contains("failed calling webhook \"required.coffer.dev\""), "{}", refusal.message);
    let plain = ground.create(&required, &pod(&json!({}))).await.context("one without annotations of ours")?;
    plain.runs().await?;

    let bare = ground.create(&other, &annotated).await?;
    let object = bare.runs().await?;
    ensure!(init_containers(&object).is_empty(), "{object}");
    ensure!(object["metadata"]["annotations"]["coffer.dev/status"].is_null(), "{}", object["metadata"]);
    // It tells itself from one that was changed, and the API server counts it.
    let metrics = ground.plane.metrics().await?;
    let open = metrics.sum("apiserver_admission_webhook_fail_open_count", &[("name", "inject.coffer.dev")])?;
    ensure!(open >= 1.0, "{open}");

    ground.scale(2).await?;
    for namespace in [&required, &other] {
        let made = eventually(SOON, async || {
            let made = ground.create(namespace, &annotated).await?;
            if init_containers(&made.object().await?).is_empty() {
                bail!("it was made without the sidecar");
            }
            Ok(made)
        });
        let made = made.await?;
        made.runs().await?;
        ensure!(made.read("password").await? == "one");
    }
    Ok(())
}
