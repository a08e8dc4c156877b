//! What a pod may write to say which secrets it wants.

use anyhow::{Context, Result, ensure};
use bed::csi::TokensIn;
use serde_json::json;
use tonic::Code;

use crate::fixture::{Fixture, NOT_FINAL, SEEDED, refused};

#[tokio::test]
async fn inline_as_a_mapping_and_as_a_list() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&[]).await?;
    let list = "\
- {name: db.json, from: 'secretsmanager:prod/db'}
- {name: password, from: 'secretsmanager:prod/db', select: password}
- {name: app/level, from: 'parameterstore:/prod/level'}
";
    for spec in [SEEDED, list] {
        let volume = fixture.pod("api", spec)?;
        fixture.kubelet.publish(&volume).await.with_context(|| spec.to_owned())?;
        fixture.ensure_seeded(&volume)?;
    }
    Ok(())
}

#[tokio::test]
async fn every_way_of_the_sidecar_to_write_a_file() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&[]).await?;
    let arn = fixture.aws.create_secret("prod/key", "key").await?.arn;
    for (name, value) in [("/tree/a", "1"), ("/tree/b/c", "2")] {
        fixture.aws.put_parameter(name, bed::aws::ParameterType::String, value).await?;
    }
    let spec = format!(
        "\
values: {{level: 'parameterstore:/prod/level', db: 'secretsmanager:prod/db'}}
files:
  - {{name: by-arn, from: '{arn}'}}
  - {{name: db.env, from: 'secretsmanager:prod/db', format: dotenv}}
  - {{name: old, from: 'secretsmanager:prod/db?stage=AWSPREVIOUS', optional: true}}
  - {{name: tree/, from: 'parameterstore:/tree/', recursive: true}}
  - {{name: app.conf, template: 'level = {{{{ level }}}}, user = {{{{ db.user }}}}'}}
"
    );
    let volume = fixture.pod("api", &spec)?;
    fixture.kubelet.publish(&volume).await?;
    for (file, expected) in
        [("by-arn", "key"), ("tree/a", "1"), ("tree/b/c", "2"), ("app.conf", "level = info, user = app")]
    {
        let found = fixture.kubelet.read(&volume, file)?;
        ensure!(found == expected, "{file} holds {found:?}");
    }
    ensure!(fixture.kubelet.read(&volume, "db.env")?.contains("one"));
    ensure!(!fixture.names(&volume)?.contains(&"old".to_owned()));
    Ok(())
}

#[tokio::test]
async fn tokens_in_secrets_and_in_the_context() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&[]).await?;
    for place in [TokensIn::Secrets, TokensIn::Context] {
        fixture.proxy.clear_log();
        let volume = fixture.pod(&format!("api-{place:?}").to_lowercase(), SEEDED)?.tokens_in(place);
        fixture.kubelet.publish(&volume).await?;
        fixture.ensure_seeded(&volume)?;
        let assumed = fixture.proxy.calls_to("AssumeRoleWithWebIdentity");
        ensure!(assumed[0].request["WebIdentityToken"] == *volume.token_for(bed::csi::STS_AUDIENCE));
    }
    Ok(())
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_aws_is_asked_and_the_fix_is_named() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    let entry = "files: [{name: a, from: 'secretsmanager:prod/db'}]";
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: &[Case] = &[
        ("nothing", &[], &["spec", "configMap", "secretProviderClass"]),
        ("two forms", &[("spec", entry), ("secretProviderClass", "db")], &["spec", "secretProviderClass"]),
        ("two sources of one form", &[("spec", entry), ("configMap", "db")], &["spec", "configMap"]),
        ("an unknown attribute", &[("spec", entry), ("rolearn", "x")], &["rolearn", "role-arn"]),
        ("a key without its ConfigMap", &[("spec", entry), ("configMapKey", "x")], &["configMapKey"]),
        ("no YAML", &[("spec", "files: [")], &["spec"]),
        ("an unknown key", &[("spec", "files: [{nmae: a, from: 'secretsmanager:prod/db'}]")], &["nmae", "name"]),
        ("no file", &[("spec", "files: []")], &["files"]),
        ("a text", &[("spec", "hello")], &["spec"]),
        ("a number", &[("spec", "7")], &["spec"]),
        ("nothing in it", &[("spec", "")], &["spec"]),
        ("a path, which is the kubelet's", &[("spec", &format!("path: /x\n{entry}"))], &["path"]),
        ("a command to run", &[("spec", &format!("{entry}\non_change: [{{exec: ['/bin/true']}}]"))], &["on_change"]),
        ("a file of the node's", &[("spec", "files: [{name: a, template_file: /etc/shadow}]")], &["template_file"]),
        ("no reference", &[("spec", "files: [{name: a, from: 'vault:x'}]")], &["vault"]),
        (
            "two files of a name",
            &[("spec", "- {name: a, from: 'secretsmanager:x'}\n- {name: a, from: 'secretsmanager:y'}")],
            &["a"],
        ),
        (
            "a file in a file",
            &[("spec", "- {name: a, from: 'secretsmanager:x'}\n- {name: a/b, from: 'secretsmanager:y'}")],
            &["a/b"],
        ),
        ("no role's ARN", &[("spec", entry), ("role-arn", "reader")], &["role-arn"]),
        ("no time", &[("spec", entry), ("refresh", "soon")], &["refresh", "soon"]),
        ("an identity that is none", &[("spec", entry), ("identity", "root")], &["identity", "irsa", "pod-identity"]),
        ("no region", &[("spec", entry), ("region", "Dublin!")], &["region", "eu-west-1"]),
    ];
    for (name, attributes, words) in cases {
        let volume = attributes
            .iter()
            .fold(fixture.pod_without_spec("api")?, |volume, (name, value)| volume.attribute(name, *value));
        let answer = fixture.kubelet.publish(&volume).await;
        let said = refused(answer, &[Code::InvalidArgument], words).with_context(|| (*name).to_owned())?;
        ensure!(said.len() > 20, "{name}: not a word on how to mend it: {said}");
        fixture.ensure_nothing(&volume).with_context(|| (*name).to_owned())?;
    }
    ensure!(fixture.proxy.calls().is_empty(), "AWS was asked: {:?}", fixture.operations());
    ensure!(fixture.kubelet.all_mounts()?.is_empty(), "a mount is left");
    driver.ensure_serves().await
}

#[tokio::test]
async fn what_needs_the_kubernetes_api_says_so_where_there_is_none() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    let spec = ("spec", SEEDED);
    for (name, form) in [("configMap", ("configMap", "app")), ("class", ("secretProviderClass", "app"))] {
        let volume = fixture.pod_without_role("api")?.attribute(form.0, form.1);
        let answer = fixture.kubelet.publish(&volume).await;
        let said =
            refused(answer, &[Code::FailedPrecondition, Code::Unavailable, Code::InvalidArgument], &["Kubernetes"]);
        said.with_context(|| name.to_owned())?;
    }
    // The role is on the service account.
    let volume = fixture.pod_without_role("api")?.attribute(spec.0, spec.1);
    let answer = fixture.kubelet.publish(&volume).await;
    refused(
        answer,
        &[Code::FailedPrecondition, Code::Unavailable, Code::InvalidArgument],
        &["role-arn", "Kubernetes"],
    )?;
    fixture.ensure_nothing(&volume)?;
    // And what needs none goes on.
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_seeded(&volume)?;
    driver.ensure_serves().await
}

#[tokio::test]
async fn a_config_map_of_the_pods_namespace() -> Result<()> {
    let fixture = Fixture::in_cluster().await?;
    fixture.seed().await?;
    let cluster = fixture.cluster();
    cluster.config_map("by-default", &[("spec.yaml", SEEDED), ("other", "not this")]).await?;
    cluster.config_map("only", &[("anything", SEEDED)]).await?;
    cluster.config_map("named", &[("a", "not this"), ("b", SEEDED)]).await?;
    cluster.config_map("two", &[("a", SEEDED), ("b", SEEDED)]).await?;
    cluster.config_map("empty", &[]).await?;
    let driver = fixture.start(&[]).await?;
    for (name, key) in [("by-default", None), ("only", None), ("named", Some("b"))] {
        let mut volume = fixture.pod_without_spec("api")?.attribute("configMap", name);
        if let Some(key) = key {
            volume = volume.attribute("configMapKey", key);
        }
        fixture.kubelet.publish(&volume).await.with_context(|| name.to_owned())?;
        fixture.ensure_seeded(&volume)?;
    }
    fixture.proxy.clear_log();
    for (name, key, words) in [
        ("two", None, &["two", "spec.yaml", "configMapKey"][..]),
        ("empty", None, &["empty", "spec.yaml"]),
        ("named", Some("c"), &["named", "c"]),
        ("absent", None, &["absent", fixture.namespace()]),
    ] {
        let mut volume = fixture.pod_without_spec("api")?.attribute("configMap", name);
        if let Some(key) = key {
            volume = volume.attribute("configMapKey", key);
        }
        let answer = fixture.kubelet.publish(&volume).await;
        let codes = [Code::InvalidArgument, Code::NotFound, Code::FailedPrecondition];
        refused(answer, &codes, words).with_context(|| name.to_owned())?;
        fixture.ensure_nothing(&volume)?;
    }
    ensure!(fixture.value_calls().is_empty());
    // What is missing may come: then the pod starts by itself.
    let volume = fixture.pod_without_spec("api")?.attribute("configMap", "late");
    ensure!(fixture.kubelet.publish(&volume).await.is_err());
    cluster.config_map("late", &[("spec.yaml", SEEDED)]).await?;
    fixture.published(&volume).await?;
    fixture.ensure_seeded(&volume)?;
    driver.ensure_serves().await
}

#[tokio::test]
async fn a_secret_provider_class_as_it_was_written_for_the_other_driver() -> Result<()> {
    let fixture = Fixture::in_cluster().await?;
    fixture.seed().await?;
    let cluster = fixture.cluster();
    let role = fixture.aws.role_arn("api");
    cluster.service_account("api", Some(&role)).await?;
    cluster
        .class(
            "app",
            json!({
                "objects": "\
- objectName: prod/db
  objectType: secretsmanager
  jmesPath:
    - {path: user, objectAlias: db-user}
    - {path: password, objectAlias: db-password, filePermission: '0400'}
- objectName: /prod/level
  objectType: ssmparameter
  objectAlias: level
",
                "region": bed::aws::REGION,
            }),
        )
        .await?;
    let driver = fixture.start(&[]).await?;
    let volume = fixture.pod_without_role("api")?.attribute("secretProviderClass", "app");
    let volume = cluster.pod_of(volume, "api").await?;
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_holds(
        &volume,
        &[
            ("prod_db", r#"{"user": "app", "password": "one"}"#),
            ("db-user", "app"),
            ("db-password", "one"),
            ("level", "info"),
        ],
    )?;
    ensure!(fixture.permissions(&volume, "db-password")?.mode == 0o400);
    ensure!(fixture.permissions(&volume, "db-user")?.mode == 0o644, "{:?}", fixture.permissions(&volume, "db-user"));
    ensure!(fixture.proxy.calls_to("AssumeRoleWithWebIdentity")[0].request["RoleArn"] == *role);

    // As that driver keeps it.
    let status = bed::eventually(crate::fixture::SOON, async || cluster.class_status(&volume, "app").await).await?;
    ensure!(status["status"]["podName"] == *volume.pod(), "{status:#}");
    ensure!(status["status"]["secretProviderClassName"] == "app" && status["status"]["mounted"] == true, "{status:#}");
    ensure!(status["status"]["targetPath"] == fixture.kubelet.target(&volume).display().to_string(), "{status:#}");
    let ids: Vec<_> = status["status"]["objects"].as_array().into_iter().flatten().map(|one| &one["id"]).collect();
    ensure!(ids == ["db-password", "db-user", "level", "prod_db"], "{status:#}");
    ensure!(status["metadata"]["labels"]["internal.secrets-store.csi.k8s.io/node-name"] == "node-a", "{status:#}");
    ensure!(status["metadata"]["ownerReferences"][0]["uid"] == *volume.uid(), "{status:#}");

    fixture.kubelet.unpublish(&volume).await?;
    fixture.kubelet.ensure_gone(&volume)?;
    driver.ensure_serves().await
}

#[tokio::test]
async fn attributes_of_the_pod_go_before_parameters_of_the_class() -> Result<()> {
    let fixture = Fixture::in_cluster().await?;
    fixture.seed().await?;
    let cluster = fixture.cluster();
    cluster.service_account("api", Some(&fixture.aws.role_arn("api"))).await?;
    let object = |name: &str| format!("[{{objectName: {name}, objectType: ssmparameter}}]");
    cluster.class("app", json!({"objects": object("/prod/other"), "pathTranslation": "-"})).await?;
    let _driver = fixture.start(&[]).await?;
    let volume = fixture.pod_without_role("api")?.attribute("secretProviderClass", "app");
    let volume = volume.attribute("objects", object("/prod/level")).attribute("region", bed::aws::REGION);
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_holds(&volume, &[("-prod-level", "info")])
}

#[tokio::test]
async fn a_class_that_cannot_be_is_refused_in_the_other_providers_words() -> Result<()> {
    let fixture = Fixture::in_cluster().await?;
    let cluster = fixture.cluster();
    cluster.service_account("api", Some(&fixture.aws.role_arn("api"))).await?;
    let driver = fixture.start(&[]).await?;
    let objects = |text: &str| json!({"provider": "aws", "parameters": {"objects": text}});
    let cases = [
        ("no-name", objects("- {objectType: secretsmanager}"), &["Object name must be specified"][..]),
        ("no-type", objects("- {objectName: a}"), &["Must use objectType when a full ARN is not specified: a"]),
        ("bad-type", objects("- {objectName: a, objectType: ssm}"), &["Invalid objectType: ssm"]),
        (
            "twice",
            objects("- {objectName: a, objectType: secretsmanager}\n- {objectName: a, objectType: secretsmanager}"),
            &["duplicate", "a"],
        ),
        ("no-yaml", objects("- {"), &["Failed to load SecretProviderClass"]),
        (
            "permission",
            objects("- {objectName: a, objectType: secretsmanager, filePermission: '999'}"),
            &["Invalid File Permission: 999"],
        ),
        (
            "traversal",
            json!({"provider": "aws", "parameters": {
                "pathTranslation": "False", "objects": "- {objectName: ../../etc/passwd, objectType: secretsmanager}",
            }}),
            &["path can not contain ../"],
        ),
        (
            "translation",
            json!({"provider": "aws", "parameters": {"pathTranslation": "ab", "objects": "- {objectName: a, objectType: secretsmanager}"}}),
            &["pathTranslation must be either 'False' or a single character string"],
        ),
        ("vault", json!({"provider": "vault", "parameters": {}}), &["vault", "aws"]),
        ("no-objects", json!({"provider": "aws", "parameters": {}}), &["objects"]),
    ];
    for (name, spec, words) in cases {
        cluster.class_as(name, spec).await?;
        let volume = fixture.pod_without_role("api")?.attribute("secretProviderClass", name);
        let answer = fixture.kubelet.publish(&volume).await;
        let codes = [Code::InvalidArgument, Code::FailedPrecondition];
        refused(answer, &codes, words).with_context(|| name.to_owned())?;
        fixture.ensure_nothing(&volume)?;
    }
    let volume = fixture.pod_without_role("api")?.attribute("secretProviderClass", "absent");
    let codes = [Code::NotFound, Code::InvalidArgument, Code::FailedPrecondition];
    refused(fixture.kubelet.publish(&volume).await, &codes, &["absent", fixture.namespace()])?;
    ensure!(fixture.value_calls().is_empty(), "AWS was asked: {:?}", fixture.operations());
    driver.ensure_serves().await
}

/// A namespace sees its own objects only.
#[tokio::test]
async fn objects_of_another_namespace_are_nobodys() -> Result<()> {
    let fixture = Fixture::in_cluster().await?;
    fixture.seed().await?;
    let other = crate::cluster::Cluster::new().await?;
    other.config_map("app", &[("spec.yaml", SEEDED)]).await?;
    other.class("app", json!({"objects": "- {objectName: prod/db, objectType: secretsmanager}"})).await?;
    let driver = fixture.start(&[]).await?;
    for name in ["app".to_owned(), format!("../{}/app", other.namespace()), format!("{}/app", other.namespace())] {
        for kind in ["configMap", "secretProviderClass"] {
            let volume = fixture.pod_without_role("api")?.attribute(kind, &*name);
            let volume =
                if kind == "configMap" { volume.attribute("role-arn", fixture.aws.role_arn("api")) } else { volume };
            let answer = fixture.kubelet.publish(&volume).await;
            let Err(status) = answer else { anyhow::bail!("{kind} {name} was taken") };
            ensure!(!NOT_FINAL.contains(&status.code()), "{status:?}");
        }
    }
    ensure!(fixture.value_calls().is_empty());
    driver.ensure_serves().await
}
