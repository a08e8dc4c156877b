//! The webhook with a certificate that another keeps, as `deploy/webhook/cert-manager.yaml` has it. There is no
//! cert-manager here: the test does what it and its cainjector would do.

use std::fs;

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use bed::eventually;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use serde_json::json;

use super::{Ground, MANIFESTS, NAME, SYSTEM, asks_for_password, pod};
use crate::fixture::SOON;

const SECRET: &str = "coffer-injector-tls";

impl Ground {
    /// Puts the `caBundle` into both webhooks, as the cainjector does.
    async fn inject(&self, bundle: &str) -> Result<()> {
        let bundle = BASE64_STANDARD.encode(bundle);
        let put = |number: usize| json!({"op": "add", "path": format!("/webhooks/{number}/clientConfig/caBundle"), "value": bundle});
        let patch = json!([put(0), put(1)]).to_string();
        let name = "mutatingwebhookconfiguration/coffer-injector";
        self.plane.kubectl(["patch", name, "--type=json", "--patch", &patch]).await.map(drop)
    }
}

fn certificate() -> Result<CertifiedKey<KeyPair>> {
    Ok(generate_simple_self_signed(vec![format!("{NAME}.{SYSTEM}.svc")])?)
}

fn secret(of: &CertifiedKey<KeyPair>) -> serde_json::Value {
    json!({
        "metadata": {"name": SECRET},
        "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": of.cert.pem(), "tls.key": of.signing_key.serialize_pem()},
    })
}

#[tokio::test]
async fn a_certificate_that_another_keeps_is_shown_and_taken_over_when_it_changes() -> Result<()> {
    let ground = Ground::without().await?;
    let manifests = fs::read_to_string(format!("{MANIFESTS}/cert-manager.yaml"))?;
    let known: Vec<&str> = manifests.split("\n---\n").filter(|one| !one.contains("cert-manager.io/v1")).collect();
    ensure!(known.len() >= 7, "only {} objects", known.len());
    ground.install(&known.join("\n---\n"), &[]).await?;
    let secrets = format!("/api/v1/namespaces/{SYSTEM}/secrets");
    let first = certificate()?;
    ground.plane.api().create(&secrets, &secret(&first)).await?;
    // Nobody is ready before the API server knows the certificate.
    let replicas = eventually(SOON * 2, async || {
        let replicas = ground.replicas().await?;
        ensure!(replicas.len() == 2, "{replicas:?}");
        for replica in &replicas {
            let shown = ground.certificate_of(replica, &first.cert.pem()).await?;
            ensure!(shown == *first.cert.der().as_ref(), "another certificate");
        }
        Ok(replicas)
    });
    let replicas = match replicas.await {
        Ok(replicas) => replicas,
        Err(error) => return Err(error.context(ground.said().await)),
    };
    let url = format!("http://{}:9466/readyz", replicas[0].address);
    let (status, why) = bed::http_get(&url).await?;
    ensure!(status == 503 && why.contains("caBundle"), "/readyz answers {status}: {why}");
    ground.inject(&first.cert.pem()).await?;
    ground.rolled_out(2).await?;
    let namespace = ground.required().await?;
    let made = ground.create(&namespace, &pod(&asks_for_password())).await?;
    made.runs().await?;
    ensure!(made.read("password").await? == "one");

    // A renewal: both are known for a while, as with cert-manager where the authority stays.
    let second = certificate()?;
    ground.inject(&format!("{}{}", first.cert.pem(), second.cert.pem())).await?;
    let renewal = async {
        let path = format!("{secrets}/{SECRET}");
        let mut renewed = secret(&second);
        renewed["metadata"]["resourceVersion"] =
            ground.plane.api().get(&path).await?["metadata"]["resourceVersion"].take();
        ground.plane.api().replace(&path, &renewed).await?;
        for replica in &replicas {
            let shown = eventually(SOON, async || {
                let shown = ground.certificate_of(replica, &second.cert.pem()).await?;
                ensure!(shown == *second.cert.der().as_ref(), "another certificate");
                Ok(())
            });
            shown.await.with_context(|| replica.name.clone())?;
        }
        Ok(())
    };
    let ((), made) = ground.while_pods_are_made(&namespace, renewal).await?;
    made.all_injected(10)
}
