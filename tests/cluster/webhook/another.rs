//! The webhook with a certificate that another keeps, as `deploy/webhook/cert-manager.yaml` has it, and the way there and
//! back as the guide has it. There is no cert-manager here: the test does what it and its cainjector would do.

use std::fs;
use std::path::Path;

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

impl Ground {
    /// Runs the commands of the guide that stand behind a mark; of a pipe that applies a manifest, only that it is this
    /// manifest.
    async fn follow(&self, mark: &str) -> Result<()> {
        let guide = fs::read_to_string(format!("{MANIFESTS}/README.md"))?;
        let (_, rest) = guide.split_once(mark).with_context(|| format!("the guide has no {mark}"))?;
        let (_, rest) = rest.split_once("```sh\n").context("no commands")?;
        let (commands, _) = rest.split_once("```").context("no end")?;
        let commands = commands.replace("\\\n", " ");
        for command in commands.lines() {
            if let Some((from, _)) = command.split_once("| kubectl apply -f -") {
                let manifest = from.split_whitespace().next_back().context("no file")?;
                let name = Path::new(manifest).file_name().and_then(|name| name.to_str()).context("no name")?;
                ensure!(manifest == format!("deploy/webhook/{name}"), "{command}");
                self.install(&fs::read_to_string(format!("{MANIFESTS}/{name}"))?, &[]).await?;
            } else {
                let words = command.strip_prefix("kubectl ").with_context(|| format!("what is {command}?"))?;
                self.plane.kubectl(words.split_whitespace()).await.with_context(|| command.to_owned())?;
            }
        }
        Ok(())
    }

    /// The kinds of cert-manager's, with nobody who would do anything about them.
    async fn install_kinds(&self) -> Result<()> {
        for (kind, plural) in [("Certificate", "certificates"), ("Issuer", "issuers")] {
            let group = "cert-manager.io";
            let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
            let definition = json!({
                "metadata": {"name": format!("{plural}.{group}")},
                "spec": {
                    "group": group,
                    "scope": "Namespaced",
                    "names": {"kind": kind, "plural": plural, "singular": plural.trim_end_matches('s')},
                    "versions": [{
                        "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": anything},
                    }],
                },
            });
            self.plane.api().create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await?;
        }
        let established = ["wait", "--for=condition=established", "--timeout=30s", "crd", "--all"];
        self.plane.kubectl(established).await.map(drop)
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
async fn a_certificate_that_another_keeps_is_shown_and_renewed_and_the_way_there_and_back_is_the_guides() -> Result<()>
{
    let ground = Ground::with(&[]).await?;
    ground.install_kinds().await?;
    let before = ground.replicas().await?;
    let api = ground.plane.api();
    let secrets = format!("/api/v1/namespaces/{SYSTEM}/secrets");
    let certificates = format!("/apis/cert-manager.io/v1/namespaces/{SYSTEM}/certificates");
    let first = certificate()?;

    let issue = async {
        let asked = format!("{certificates}/{NAME}");
        let asked = eventually(SOON, async || api.get(&asked).await).await?;
        ensure!(asked["spec"]["secretName"] == SECRET, "{asked}");
        api.create(&secrets, &json!({"metadata": {"name": "coffer-injector-ca"}})).await?;
        // It would be refused if the other one were still there.
        api.create(&secrets, &secret(&first)).await?;
        // A new replica is not ready before the API server knows the certificate.
        let new = eventually(SOON * 3, async || {
            let replicas = ground.replicas().await?;
            let new = replicas.into_iter().find(|one| !before.contains(one)).context("all are of before")?;
            let shown = ground.certificate_of(&new, &first.cert.pem()).await?;
            ensure!(shown == *first.cert.der().as_ref(), "another certificate");
            Ok(new)
        })
        .await?;
        let ready = format!("http://{}:9466/readyz", new.address);
        eventually(SOON, async || {
            let (status, why) = bed::http_get(&ready).await?;
            ensure!(status == 503 && why.contains("caBundle"), "/readyz answers {status}: {why}");
            Ok(())
        })
        .await?;
        ground.inject(&first.cert.pem()).await
    };
    let there = async { tokio::try_join!(ground.follow("<!-- to cert-manager:"), issue) };
    if let Err(error) = there.await {
        return Err(error.context(ground.said().await));
    }
    ground.rolled_out(2).await?;
    let replicas = ground.settled(&before).await?;
    let role = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{SYSTEM}/roles/{NAME}");
    ensure!(api.get(&role).await.is_err(), "the right on Secrets is still there");
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
        renewed["metadata"]["resourceVersion"] = api.get(&path).await?["metadata"]["resourceVersion"].take();
        api.replace(&path, &renewed).await?;
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
    let ((), made) = ground.while_pods_are_made(&[&namespace], renewal).await?;
    made.all_injected(10)?;

    if let Err(error) = ground.follow("<!-- from cert-manager:").await {
        return Err(error.context(ground.said().await));
    }
    ground.rolled_out(2).await?;
    let left = api.get(&certificates).await?;
    ensure!(left["items"].as_array().is_some_and(Vec::is_empty), "{left}");
    let kept = api.get(&format!("{secrets}/{SECRET}")).await?;
    ensure!(kept["type"] == "Opaque" && kept["data"]["tls.crt"].is_string(), "it is not the webhook's own");
    let made = ground.create(&namespace, &pod(&asks_for_password())).await?;
    made.runs().await.map(drop)
}
