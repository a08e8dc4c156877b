//! `secretObjects`: Kubernetes Secrets made of a volume's files.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use bed::eventually;
use coffer_injector::kubernetes::{Class, Events, SecretKey, SecretObject, SecretSync};
use coffer_injector::pod::Pod;
use coffer_runtime::Secret;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use crate::fixture::{Namespace, SOON, VALUE, managers};

/// A class of the namespace that makes one Secret: its keys and their files.
fn class(test: &Namespace, name: &str, kind: &str, data: &[(&str, &str)]) -> Class {
    let key = |(key, file): &(&str, &str)| SecretKey { object_name: (*file).to_owned(), key: (*key).to_owned() };
    let secret = SecretObject {
        secret_name: name.to_owned(),
        kind: kind.to_owned(),
        labels: [("team".to_owned(), "shop".to_owned())].into(),
        annotations: [("reloader".to_owned(), "on".to_owned())].into(),
        data: data.iter().map(key).collect(),
    };
    let (namespace, name, provider) = (test.name.clone(), "aws".to_owned(), "aws".to_owned());
    Class { namespace, name, provider, parameters: BTreeMap::new(), secret_objects: vec![secret] }
}

/// Publishes: the texts of what failed.
async fn publish(sync: &SecretSync, pod: &Pod, class: &Class, files: &[(&str, &str)]) -> Vec<String> {
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, Secret::copy_of(text.as_bytes()))).collect();
    let failed = sync.publish(pod, class, files.iter().map(|(name, content)| (*name, content)));
    drop(files);
    failed.await.iter().map(ToString::to_string).collect()
}

/// A Secret's value as text.
fn text(secret: &Value, key: &str) -> Result<String> {
    let value = secret["data"][key].as_str().with_context(|| format!("no {key} in {secret}"))?;
    Ok(String::from_utf8(BASE64_STANDARD.decode(value)?)?)
}

#[tokio::test]
async fn a_secret_is_made_updated_and_left_alone() -> Result<()> {
    let test = Namespace::new().await?;
    let replica_set = json!([{
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "app-1", "uid": "rs-1",
        "controller": true, "blockOwnerDeletion": true,
    }]);
    let pod = test.pod("app", &replica_set).await?;
    let sync = SecretSync::new(&test.kubernetes, &Events::none())?;
    let class = class(&test, "db", "Opaque", &[("password", "db/password"), ("level", "level")]);
    let files = [("db/password", VALUE), ("level", "info"), ("more", "x")];
    ensure!(publish(&sync, &pod, &class, &files).await.is_empty());
    let made = test.get("secrets", "db").await?;
    ensure!(made["type"] == "Opaque" && text(&made, "password")? == VALUE && text(&made, "level")? == "info");
    ensure!(made["metadata"]["labels"] == json!({"team": "shop", "secrets-store.csi.k8s.io/managed": "true"}));
    ensure!(made["metadata"]["annotations"] == json!({"reloader": "on"}));
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "app-1", "uid": "rs-1"}]);
    ensure!(made["metadata"]["ownerReferences"] == owner, "{}", made["metadata"]);
    ensure!(managers(&made) == ["coffer-injector"], "{}", made["metadata"]);

    // The same again, by this process or another: no write, and here not even a look.
    let (reads, writes) = (test.traffic.count("GET", "/secrets/"), test.traffic.writes());
    ensure!(publish(&sync, &pod, &class, &files).await.is_empty());
    ensure!(test.traffic.count("GET", "/secrets/") == reads);
    let other = SecretSync::new(&test.kubernetes, &Events::none())?;
    ensure!(publish(&other, &pod, &class, &files).await.is_empty());
    ensure!(test.traffic.writes() == writes && test.traffic.count("GET", "/secrets/") == reads + 1);

    // A rotation, and a class with one key less; what others put on it stays.
    let mut marked = test.get("secrets", "db").await?;
    marked["metadata"]["annotations"]["theirs"] = json!("stays");
    test.replace("secrets", "db", &marked).await?;
    let mut class = class;
    class.secret_objects[0].data.pop();
    ensure!(publish(&sync, &pod, &class, &[("db/password", "new")]).await.is_empty());
    let changed = test.get("secrets", "db").await?;
    ensure!(changed["data"] == json!({"password": BASE64_STANDARD.encode("new")}), "{}", changed["metadata"]);
    ensure!(changed["metadata"]["annotations"] == json!({"reloader": "on", "theirs": "stays"}));
    let ours = managers(&changed).into_iter().filter(|manager| manager.starts_with("coffer")).collect::<Vec<_>>();
    ensure!(!ours.is_empty() && ours.iter().all(|manager| manager == "coffer-injector"), "{}", changed["metadata"]);
    Ok(())
}

#[tokio::test]
async fn owners_are_added_and_a_pod_without_any_owns_it_itself() -> Result<()> {
    let test = Namespace::new().await?;
    let class = class(&test, "db", "Opaque", &[("password", "db")]);
    let sync = SecretSync::new(&test.kubernetes, &Events::none())?;
    let replica_set = |uid: &str| json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": uid, "uid": uid, "controller": true}]);
    let mut pods = Vec::new();
    for (name, owners) in [("a-1", replica_set("rs-1")), ("a-2", replica_set("rs-1")), ("b-1", replica_set("rs-2"))] {
        pods.push(test.pod(name, &owners).await?);
    }
    let bare = test.pod("bare", &json!([])).await?;
    pods.push(bare.clone());
    // All at once, as when a node starts.
    let publishing: Vec<_> = pods
        .into_iter()
        .map(|pod| {
            let (sync, class) = (sync.clone(), class.clone());
            tokio::spawn(async move { publish(&sync, &pod, &class, &[("db", VALUE)]).await })
        })
        .collect();
    for published in publishing {
        ensure!(published.await?.is_empty());
    }
    let made = test.get("secrets", "db").await?;
    let owners = made["metadata"]["ownerReferences"].as_array().context("no owners")?;
    let mut uids: Vec<_> = owners.iter().filter_map(|owner| owner["uid"].as_str()).collect();
    uids.sort_unstable();
    let mut expected = [bare.uid.as_str(), "rs-1", "rs-2"];
    expected.sort_unstable();
    ensure!(uids == expected, "{owners:?}");
    ensure!(test.traffic.count("POST", "/secrets") == 1);
    Ok(())
}

#[tokio::test]
async fn nodes_that_come_at_once_lose_no_owner() -> Result<()> {
    let test = Namespace::new().await?;
    let class = class(&test, "db", "Opaque", &[("password", "db")]);
    let mut publishing = Vec::new();
    for number in 0..4 {
        let pod = test.pod(&format!("app-{number}"), &json!([])).await?;
        // A node each.
        let (sync, class) = (SecretSync::new(&test.kubernetes, &Events::none())?, class.clone());
        let task = async move { (pod.uid.clone(), publish(&sync, &pod, &class, &[("db", VALUE)]).await) };
        publishing.push(tokio::spawn(task));
    }
    let mut uids = Vec::new();
    for published in publishing {
        let (uid, failed) = published.await?;
        ensure!(failed.is_empty(), "{failed:?}");
        uids.push(uid);
    }
    let owners = test.get("secrets", "db").await?["metadata"]["ownerReferences"].clone();
    ensure!(uids.iter().all(|uid| owners.to_string().contains(uid)), "{owners} and not {uids:?}");
    Ok(())
}

#[tokio::test]
async fn the_secrets_of_others_are_not_touched() -> Result<()> {
    let test = Namespace::new().await?;
    let pod = test.pod("app", &json!([])).await?;
    let theirs = json!({"metadata": {"name": "db"}, "stringData": {"password": "theirs"}});
    test.create("secrets", &theirs).await?;
    let mut class = class(&test, "db", "Opaque", &[("password", "db")]);
    let mut second = class.secret_objects[0].clone();
    second.secret_name = "ours".to_owned();
    class.secret_objects.push(second);
    let events = Events::start(&test.kubernetes, "csi.coffer.dev", "node-1");
    let sync = SecretSync::new(&test.kubernetes, &events)?;
    let failed = publish(&sync, &pod, &class, &[("db", VALUE)]).await;
    let text = format!(
        "Secret {}/db exists and is not touched, for it lacks the label secrets-store.csi.k8s.io/managed=true and so \
         belongs to someone else: choose another secretName, or delete it",
        test.name
    );
    ensure!(failed == [text.clone()], "{failed:?}");
    ensure!(test.get("secrets", "db").await?["data"]["password"] == BASE64_STANDARD.encode("theirs"));
    ensure!(test.get("secrets", "ours").await?["data"]["password"] == BASE64_STANDARD.encode(VALUE));
    let told = eventually(SOON, async || {
        let events = test.get("events", "").await?["items"].clone();
        ensure!(events[0]["reason"] == "FailedToCreateSecret" && events[0]["message"] == text, "{events}");
        Ok(())
    });
    told.await
}

#[tokio::test]
async fn every_type_is_taken_by_the_api_server() -> Result<()> {
    let test = Namespace::new().await?;
    let pod = test.pod("app", &json!([])).await?;
    let sync = SecretSync::new(&test.kubernetes, &Events::none())?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(["app.shop.svc".to_owned()])?.self_signed(&key)?;
    let (crt, key) = (certificate.pem(), key.serialize_pem());
    let both = format!("{key}{crt}");
    let files = [("both", both.as_str()), ("crt", &crt), ("key", &key), ("text", VALUE), ("docker", "{\"auths\": {}}")];
    type Kind<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);
    let types: [Kind; 7] = [
        ("opaque", "Opaque", &[("a", "text")]),
        ("tls-one", "kubernetes.io/tls", &[("tls.crt", "both"), ("tls.key", "both")]),
        ("tls-two", "kubernetes.io/tls", &[("tls.crt", "crt"), ("tls.key", "key")]),
        ("docker", "kubernetes.io/dockerconfigjson", &[(".dockerconfigjson", "docker")]),
        ("basic", "kubernetes.io/basic-auth", &[("username", "text"), ("password", "text")]),
        ("ssh", "kubernetes.io/ssh-auth", &[("ssh-privatekey", "text")]),
        ("special", "example.com/special", &[("a", "text")]),
    ];
    for (name, kind, data) in types {
        let failed = publish(&sync, &pod, &class(&test, name, kind, data), &files).await;
        ensure!(failed.is_empty(), "{name}: {failed:?}");
        let made = test.get("secrets", name).await?;
        let expected = if name == "special" { "Opaque" } else { kind };
        ensure!(made["type"] == expected, "{name}: {}", made["type"]);
    }
    for name in ["tls-one", "tls-two"] {
        let made = test.get("secrets", name).await?;
        ensure!(text(&made, "tls.crt")?.lines().eq(crt.lines()) && text(&made, "tls.key")?.lines().eq(key.lines()));
    }
    // A type cannot change, and that is said.
    let changed = class(&test, "opaque", "kubernetes.io/basic-auth", &[("username", "text")]);
    let failed = publish(&sync, &pod, &changed, &files).await;
    ensure!(
        failed.len() == 1 && failed[0].contains("which cannot change: delete it, and it is made anew"),
        "{failed:?}"
    );
    Ok(())
}

#[tokio::test]
async fn who_may_not_write_secrets_is_told_and_a_value_never_is() -> Result<()> {
    let test = Namespace::new().await?;
    let pod = test.pod("app", &json!([])).await?;
    let rules = json!([
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
    ]);
    let reader = test.account("reader", &rules).await?;
    let sync = SecretSync::new(&reader, &Events::none())?;
    let class = class(&test, "db", "Opaque", &[("password", "db")]);
    let failed = publish(&sync, &pod, &class, &[("db", VALUE)]).await;
    let text = format!(
        "Secret {0}/db is not up to date: Coffer may not create Secret {0}/db: add to its ClusterRole or Role the rule \
         {{apiGroups: [\"\"], resources: [secrets], verbs: [create]}}",
        test.name
    );
    ensure!(failed == [text], "{failed:?}");
    Ok(())
}
