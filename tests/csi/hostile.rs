//! What a pod's author, or AWS, may send to break the driver: refused with a clear error, and it serves on.

use std::fs;

use anyhow::{Context, Result, ensure};
use bed::{Fault, Rule, Service};
use serde_json::json;
use tonic::{Code, Status};

use crate::fixture::{Driver, Fixture, refused};

/// Codes of a request that cannot be.
const REFUSED: &[Code] = &[Code::InvalidArgument, Code::FailedPrecondition, Code::ResourceExhausted, Code::OutOfRange];

async fn ensure_unharmed(fixture: &Fixture, driver: &Driver) -> Result<()> {
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_seeded(&volume)?;
    fixture.kubelet.unpublish(&volume).await?;
    fixture.kubelet.ensure_gone(&volume)?;
    let left = fixture.kubelet.all_mounts()?;
    ensure!(left.is_empty(), "{left:?}");
    driver.ensure_serves().await
}

#[tokio::test]
async fn names_that_lead_out_of_the_volume_are_refused() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    for name in [
        "../x",
        "a/../../x",
        "/etc/x",
        "..",
        ".",
        "",
        "a//b",
        "./a",
        "..data",
        "..data/x",
        "..2026_01_01/x",
        "a/",
        "a\\u0000b",
    ] {
        let spec = format!("[{{name: \"{name}\", from: 'parameterstore:/prod/level'}}]");
        let volume = fixture.pod("api", &spec)?;
        let answer = fixture.kubelet.publish(&volume).await;
        refused(answer, REFUSED, &["name"]).with_context(|| name.to_owned())?;
        fixture.ensure_nothing(&volume)?;
    }
    ensure_unharmed(&fixture, &driver).await
}

#[tokio::test]
async fn aliases_that_lead_out_or_fall_together_are_refused() -> Result<()> {
    let fixture = Fixture::in_cluster().await?;
    fixture.seed().await?;
    let cluster = fixture.cluster();
    cluster.service_account("api", Some(&fixture.aws.role_arn("api"))).await?;
    fixture.aws.create_secret("a/b", "slash").await?;
    fixture.aws.create_secret("a_b", "underscore").await?;
    let driver = fixture.start(&[]).await?;
    let object = |rest: &str| format!("- {{objectName: prod/db, objectType: secretsmanager, {rest}}}\n");
    let jmes = |alias: &str| object(&format!("jmesPath: [{{path: password, objectAlias: '{alias}'}}]"));
    let plain = |name: &str| format!("- {{objectName: {name}, objectType: secretsmanager}}\n");
    let cases = [
        ("alias-up", json!({"objects": object("objectAlias: ../x"), "pathTranslation": "False"})),
        ("alias-absolute", json!({"objects": object("objectAlias: /../../x"), "pathTranslation": "False"})),
        ("alias-dots", json!({"objects": object("objectAlias: '..'")})),
        ("alias-data", json!({"objects": object("objectAlias: ..data")})),
        ("jmes-up", json!({"objects": jmes("../../x"), "pathTranslation": "False"})),
        ("jmes-dots", json!({"objects": jmes("..")})),
        ("translated-together", json!({"objects": plain("a/b") + &plain("a_b")})),
        ("file-in-file", json!({"objects": plain("a/b") + &object("objectAlias: a"), "pathTranslation": "False"})),
        ("alias-of-a-name", json!({"objects": plain("a_b") + &object("objectAlias: a_b")})),
    ];
    for (name, parameters) in cases {
        cluster.class(name, parameters).await?;
        let volume = fixture.pod_without_role("api")?.attribute("secretProviderClass", name);
        let answer = fixture.kubelet.publish(&volume).await;
        refused(answer, REFUSED, &[]).with_context(|| name.to_owned())?;
        fixture.ensure_nothing(&volume)?;
    }
    // An absolute name is no way out: the slash is translated, or stripped.
    for (name, translation, file) in [("stripped", "False", "prod/level"), ("translated", "_", "_prod_level")] {
        let objects = "- {objectName: /prod/level, objectType: ssmparameter}";
        cluster.class(name, json!({"objects": objects, "pathTranslation": translation})).await?;
        let volume = fixture.pod_without_role("api")?.attribute("secretProviderClass", name);
        fixture.kubelet.publish(&volume).await?;
        fixture.ensure_holds(&volume, &[(file, "info")])?;
        fixture.kubelet.unpublish(&volume).await?;
    }
    ensure_unharmed(&fixture, &driver).await
}

/// Names that AWS sends are not the pod author's, and no better for that.
#[tokio::test]
async fn parameters_with_names_that_lead_out_are_refused() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    for name in ["/tree/../../x", "/tree/..data", "/tree//etc/x", "/other/x", "/tree/a/../../../x"] {
        let body = json!({"Parameters": [{"Name": name, "Type": "String", "Value": "v", "Version": 1}]}).to_string();
        let id = fixture.proxy.fault(Rule::new(Fault::Body(body)).operation("GetParametersByPath"));
        let volume = fixture.pod("api", "[{name: tree/, from: 'parameterstore:/tree/', recursive: true}]")?;
        let answer = fixture.kubelet.publish(&volume).await;
        ensure!(answer.is_err(), "{name} was taken: {:?}", fixture.names(&volume));
        fixture.ensure_nothing(&volume)?;
        fixture.proxy.clear_fault(id);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    ensure!(!std::path::Path::new("/etc/x").exists());
    ensure_unharmed(&fixture, &driver).await
}

/// Too much of anything is refused within a second or two, and costs no memory for long.
#[tokio::test]
async fn too_much_of_anything_is_refused() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    let entry = |number: usize| format!("- {{name: f{number}, from: 'parameterstore:/prod/level'}}\n");
    let deep = 50_000;
    let cases = [
        ("10 MB of YAML", (0..200_000).map(entry).collect::<String>()),
        ("10 MB of one text", format!("files: '{}'", "x".repeat(10 << 20))),
        ("deep YAML", format!("files: {}{}", "[".repeat(deep), "]".repeat(deep))),
        ("deep YAML mappings", format!("files: {}1{}", "{a: ".repeat(deep), "}".repeat(deep))),
        ("YAML that expands", bomb()),
        ("deep JMESPath", selecting(&format!("{}a{}", "(".repeat(deep), ")".repeat(deep)))),
        ("deep JMESPath lists", selecting(&format!("{}a{}", "[".repeat(deep), "]".repeat(deep)))),
        ("deep JMESPath of dots", selecting(&vec!["a"; deep].join("."))),
        ("deep JMESPath of nots", selecting(&format!("{}a", "!".repeat(deep)))),
        ("deep JMESPath of pipes", selecting(&vec!["a"; deep].join("|"))),
        ("deep template", templated(&format!("{}x{}", "{% if v %}".repeat(deep), "{% endif %}".repeat(deep)))),
        ("deep template expression", templated(&format!("{{{{ {}1{} }}}}", "(".repeat(deep), ")".repeat(deep)))),
        (
            "a template without an end",
            templated("{% for a in range(1000000000) %}{% for b in range(1000000000) %}x{% endfor %}{% endfor %}"),
        ),
        ("a long name", format!("[{{name: '{}', from: 'parameterstore:/prod/level'}}]", "x".repeat(70_000))),
        ("a deep name", format!("[{{name: '{}a', from: 'parameterstore:/prod/level'}}]", "a/".repeat(10_000))),
        ("a long reference", format!("[{{name: a, from: 'secretsmanager:{}'}}]", "x".repeat(70_000))),
    ];
    for (name, spec) in cases {
        let started = tokio::time::Instant::now();
        let volume = fixture.pod("api", &spec)?;
        let answer = fixture.kubelet.publish(&volume).await;
        let took = started.elapsed();
        too_much(answer).with_context(|| name.to_owned())?;
        ensure!(took.as_secs() < 20, "{name}: it took {took:?}");
        fixture.ensure_nothing(&volume)?;
        driver.ensure_serves().await.with_context(|| name.to_owned())?;
    }
    // Ever so often.
    for _ in 0..20 {
        let volume = fixture.pod("api", &(0..200_000).map(entry).collect::<String>())?;
        too_much(fixture.kubelet.publish(&volume).await)?;
    }
    ensure_unharmed(&fixture, &driver).await
}

/// A message that is larger than gRPC's own limit of 4 MiB is refused by the server before the driver sees it.
fn too_much(answer: Result<(), Status>) -> Result<()> {
    let codes = [REFUSED, &[Code::InvalidArgument]].concat();
    refused(answer, &codes, &[]).map(drop)
}

/// A thousand million of x from ten lines.
fn bomb() -> String {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let below = format!("*a{}", level - 1);
        text.push_str(&format!("a{level}: &a{level} [{}]\n", vec![below; 10].join(", ")));
    }
    text + "files: *a8\n"
}

fn selecting(path: &str) -> String {
    format!("[{{name: a, from: 'secretsmanager:prod/db', select: '{path}'}}]")
}

fn templated(text: &str) -> String {
    format!("values: {{v: 'parameterstore:/prod/level'}}\nfiles: [{{name: a, template: '{text}'}}]")
}

#[tokio::test]
async fn a_class_may_not_be_a_bomb_either() -> Result<()> {
    let fixture = Fixture::in_cluster().await?;
    fixture.seed().await?;
    let cluster = fixture.cluster();
    cluster.service_account("api", Some(&fixture.aws.role_arn("api"))).await?;
    let driver = fixture.start(&[]).await?;
    let deep = 50_000;
    let jmes = |path: &str| {
        format!("- {{objectName: prod/db, objectType: secretsmanager, jmesPath: [{{path: '{path}', objectAlias: a}}]}}")
    };
    let cases = [
        (
            "many",
            (0..12_000).map(|number| format!("- {{objectName: n{number}, objectType: secretsmanager}}\n")).collect(),
        ),
        ("deep-yaml", format!("{}{}", "[".repeat(deep), "]".repeat(deep))),
        ("deep-jmes", jmes(&format!("{}a{}", "(".repeat(deep), ")".repeat(deep)))),
        ("deep-list", jmes(&format!("{}a{}", "[".repeat(deep), "]".repeat(deep)))),
        ("expands", bomb().replace("files: *a8", "objects: *a8")),
    ];
    for (name, objects) in cases {
        cluster.class(name, json!({"objects": objects})).await.with_context(|| name.to_owned())?;
        let volume = fixture.pod_without_role("api")?.attribute("secretProviderClass", name);
        let answer = fixture.kubelet.publish(&volume).await;
        refused(answer, &[REFUSED, &[Code::NotFound]].concat(), &[]).with_context(|| name.to_owned())?;
        driver.ensure_serves().await.with_context(|| name.to_owned())?;
    }
    ensure_unharmed(&fixture, &driver).await
}

/// What AWS holds is not always what the spec's author thinks.
#[tokio::test]
async fn values_that_are_bombs_do_no_harm() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    let deep = 20_000;
    for (name, value) in [
        ("deep-lists", format!("{}{}", "[".repeat(deep), "]".repeat(deep))),
        ("deep-objects", format!("{}1{}", r#"{"a":"#.repeat(5_000), "}".repeat(5_000))),
        ("no-json", "{".to_owned()),
        ("not-utf8-json", "\u{feff}{}".to_owned()),
    ] {
        fixture.aws.create_secret(name, &value).await?;
        let volume = fixture.pod("api", &format!("[{{name: a, from: 'secretsmanager:{name}', select: a}}]"))?;
        let answer = fixture.kubelet.publish(&volume).await;
        refused(answer, REFUSED, &[name]).with_context(|| name.to_owned())?;
        // As it is, it is a value like any other.
        let volume = fixture.pod("api", &format!("[{{name: a, from: 'secretsmanager:{name}'}}]"))?;
        fixture.kubelet.publish(&volume).await?;
        fixture.ensure_holds(&volume, &[("a", &value)])?;
        fixture.kubelet.unpublish(&volume).await?;
    }
    ensure_unharmed(&fixture, &driver).await
}

/// Answers that no AWS service sends.
#[tokio::test]
async fn nonsense_from_aws_does_no_harm() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&["--mount-timeout=3s"]).await?;
    let answers = [
        Fault::Garbage,
        Fault::Body(String::new()),
        Fault::Body("null".to_owned()),
        Fault::Body("{}".to_owned()),
        Fault::Body("[".repeat(100_000)),
        Fault::Body(r#"{"SecretString": 7}"#.to_owned()),
        Fault::CutMidBody,
    ];
    for (place, fault) in answers.into_iter().enumerate() {
        for service in [Service::SecretsManager, Service::ParameterStore, Service::Sts] {
            let id = fixture.proxy.fault(Rule::new(fault.clone()).service(service));
            let volume = fixture.pod(&format!("a-{place}-{service:?}").to_lowercase(), crate::fixture::SEEDED)?;
            let answer = fixture.kubelet.publish(&volume).await;
            ensure!(answer.is_err(), "{fault:?} of {service:?} was taken");
            fixture.ensure_nothing(&volume)?;
            fixture.proxy.clear_fault(id);
        }
    }
    ensure_unharmed(&fixture, &driver).await
}

/// A target is checked whole: a link on the way would lead the driver, who is root, anywhere.
#[tokio::test]
async fn a_link_at_a_target_is_not_followed() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    let elsewhere = tempfile::tempdir()?;
    fs::write(elsewhere.path().join("keep"), "me")?;
    let volume = fixture.seeded_pod()?;
    let target = fixture.kubelet.prepare(&volume)?;
    std::os::unix::fs::symlink(elsewhere.path(), &target)?;
    let _ = fixture.kubelet.publish(&volume).await;
    let strange: Vec<_> = fixture
        .kubelet
        .namespace()
        .mounts()?
        .into_iter()
        .filter(|mount| mount.point.starts_with(elsewhere.path()))
        .collect();
    ensure!(strange.is_empty(), "it mounted through a link: {strange:?}");
    let _ = fixture.kubelet.unpublish(&volume).await;
    ensure!(elsewhere.path().join("keep").exists());
    if fs::symlink_metadata(&target).is_ok_and(|found| found.is_symlink()) {
        fs::remove_file(&target)?;
    }
    ensure_unharmed(&fixture, &driver).await
}
