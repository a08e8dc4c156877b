//! What becomes of each kind of reference.

use std::fs;

use anyhow::{Context, Result, ensure};
use bed::{aws::ParameterType, unique_id};

use crate::fixture::{Fixture, SOON, last_line};

#[tokio::test]
async fn versions_are_chosen_by_stage_id_number_and_label() -> Result<()> {
    let fixture = Fixture::new().await?;
    let aws = &fixture.aws;
    let first = aws.create_secret("prod/db", "first").await?;
    aws.put_secret_value("prod/db", "second").await?;
    aws.put_secret_version("prod/db", "trial", &unique_id(), &["canary"]).await?;
    for value in ["one", "two", "three"] {
        aws.put_parameter("/prod/level", ParameterType::SecureString, value).await?;
    }
    aws.label_parameter_version("/prod/level", 2, "stable").await?;
    fixture.config(
        "1h",
        [
            "{name: current, from: 'secretsmanager:prod/db'}".to_owned(),
            "{name: previous, from: 'secretsmanager:prod/db?stage=AWSPREVIOUS'}".to_owned(),
            "{name: staged, from: 'secretsmanager:prod/db?stage=canary'}".to_owned(),
            format!("{{name: pinned, from: 'secretsmanager:prod/db?version={}'}}", first.version_id),
            "{name: latest, from: 'parameterstore:/prod/level'}".to_owned(),
            "{name: numbered, from: 'parameterstore:/prod/level?version=1'}".to_owned(),
            "{name: labelled, from: 'parameterstore:/prod/level?label=stable'}".to_owned(),
        ],
    )?;
    fixture.once().await?;
    for (name, expected) in [
        ("current", "second"),
        ("previous", "first"),
        ("staged", "trial"),
        ("pinned", "first"),
        ("latest", "three"),
        ("numbered", "one"),
        ("labelled", "two"),
    ] {
        let found = fixture.read(name)?;
        ensure!(found == expected, "{name} holds {found:?}, not {expected:?}");
    }
    // A batch gives current versions only, and GetParameters takes no name twice.
    ensure!(fixture.proxy.count("BatchGetSecretValue") == 0 && fixture.proxy.count("GetSecretValue") == 4);
    ensure!(fixture.proxy.count("GetParameters") == 3);
    Ok(())
}

#[tokio::test]
async fn arns_work_as_names_do() -> Result<()> {
    let fixture = Fixture::new().await?;
    let secret = fixture.aws.create_secret("prod/db", "by arn").await?;
    fixture.aws.create_secret("prod/other", "by name").await?;
    fixture.aws.put_parameter("/prod/level", ParameterType::String, "info").await?;
    let parameter = format!("arn:aws:ssm:{}:{}:parameter/prod/level", bed::aws::REGION, fixture.aws.account());
    fixture.config(
        "1h",
        [
            format!("{{name: bare, from: '{}'}}", secret.arn),
            format!("{{name: prefixed, from: 'secretsmanager:{}'}}", secret.arn),
            "{name: other, from: 'secretsmanager:prod/other'}".to_owned(),
            format!("{{name: level, from: '{parameter}'}}"),
        ],
    )?;
    fixture.once().await?;
    ensure!(fixture.read("bare")? == "by arn" && fixture.read("prefixed")? == "by arn");
    ensure!(fixture.read("other")? == "by name" && fixture.read("level")? == "info");
    ensure!(fixture.proxy.calls().iter().all(|call| call.region.as_deref().is_none_or(|region| region == "eu-west-1")));
    Ok(())
}

#[tokio::test]
async fn bytes_arrive_as_they_are() -> Result<()> {
    let fixture = Fixture::new().await?;
    let bytes: Vec<u8> = (0..=255).collect();
    fixture.aws.create_secret("prod/keystore", &bytes[..]).await?;
    fixture.aws.create_secret("prod/text", "no newline is added").await?;
    fixture.aws.create_secret("prod/lines", "kept\r\n\n ключ \u{1f511}\n").await?;
    fixture.aws.put_parameter("/prod/list", ParameterType::StringList, "a,b,c").await?;
    fixture.aws.put_parameter("/prod/secure", ParameterType::SecureString, "decrypted").await?;
    fixture.config(
        "1h",
        [
            "{name: keystore, from: 'secretsmanager:prod/keystore'}",
            "{name: text, from: 'secretsmanager:prod/text'}",
            "{name: lines, from: 'secretsmanager:prod/lines'}",
            "{name: list, from: 'parameterstore:/prod/list'}",
            "{name: secure, from: 'parameterstore:/prod/secure'}",
        ],
    )?;
    fixture.once().await?;
    ensure!(fs::read(fixture.volume().join("keystore"))? == bytes);
    ensure!(fixture.read("text")? == "no newline is added");
    ensure!(fixture.read("lines")? == "kept\r\n\n ключ \u{1f511}\n");
    ensure!(fixture.read("list")? == "a,b,c" && fixture.read("secure")? == "decrypted");
    Ok(())
}

#[tokio::test]
async fn parameters_under_a_path_become_files_named_after_them() -> Result<()> {
    let fixture = Fixture::new().await?;
    for name in ["/prod/app/level", "/prod/app/db/user", "/prod/app/db/deep/er", "/prod/apple"] {
        fixture.aws.put_parameter(name, ParameterType::SecureString, name).await?;
    }
    let entries = |name: &str, rest: &str| [format!("{{from: 'parameterstore:/prod/app/'{name}{rest}}}")];
    let volumes = [
        fixture.volume_text("volume", entries("", "")),
        fixture.volume_text("deep", entries("", ", recursive: true")),
        fixture.volume_text("folder", entries(", name: conf/x/", ", recursive: true")),
        fixture.volume_text("flat", entries("", ", recursive: true, separator: _")),
    ];
    fixture.write_config(&format!("refresh: 1h\nvolumes:\n{}", volumes.concat()))?;
    fixture.once().await?;
    for (volume, expected) in [
        ("volume", &["level"][..]),
        ("deep", &["level", "db/user", "db/deep/er"][..]),
        ("folder", &["conf/x/level", "conf/x/db/user", "conf/x/db/deep/er"][..]),
        ("flat", &["level", "db_user", "db_deep_er"][..]),
    ] {
        for name in expected {
            let path = fixture.path(volume).join(name);
            let found = fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
            let wanted = format!("/prod/app/{}", name.trim_start_matches("conf/x/").replace('_', "/"));
            ensure!(found == wanted, "{} holds {found}", path.display());
        }
        let tops = fs::read_dir(fixture.path(volume))?.flatten().map(|entry| entry.file_name());
        let tops = tops.filter(|name| !name.to_string_lossy().starts_with("..")).count();
        let expected_tops: std::collections::BTreeSet<_> = expected.iter().map(|name| name.split('/').next()).collect();
        ensure!(tops == expected_tops.len(), "{volume} shows {tops} names");
    }
    Ok(())
}

#[tokio::test]
async fn parameters_that_come_and_go_under_a_path_do_so_as_files() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.put_parameter("/prod/app/old", ParameterType::String, "old").await?;
    fixture.aws.put_parameter("/prod/app/stays", ParameterType::String, "stays").await?;
    fixture.config("1s", ["{from: 'parameterstore:/prod/app/', name: conf/}"])?;
    let _sidecar = fixture.ready().await?;
    fixture.aws.put_parameter("/prod/app/new", ParameterType::String, "new").await?;
    fixture.holds("conf/new", "new").await?;
    fixture.aws.delete_parameter("/prod/app/old").await?;
    bed::eventually(SOON, async || {
        ensure!(fixture.read("conf/old").is_err(), "the file of a deleted parameter is still there");
        Ok(())
    })
    .await?;
    ensure!(fixture.read("conf/stays")? == "stays" && fixture.read("conf/new")? == "new");
    Ok(())
}

#[tokio::test]
async fn what_is_optional_may_be_absent_and_comes_later() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "here").await?;
    fixture.config(
        "1s",
        [
            "{name: db, from: 'secretsmanager:prod/db'}",
            "{name: later, from: 'secretsmanager:prod/later', optional: true}",
            "{name: level, from: 'parameterstore:/prod/level', optional: true}",
            "{from: 'parameterstore:/prod/tree/', name: tree/, optional: true}",
        ],
    )?;
    let sidecar = fixture.ready().await?;
    ensure!(
        fixture.read("db")? == "here" && fixture.read("later").is_err() && !fixture.volume().join("level").exists()
    );
    let missing = sidecar.becomes("secretsmanager:prod/later", "missing").await?;
    ensure!(missing["why"].as_str().is_some_and(|why| why.contains("ResourceNotFoundException")), "{missing}");

    fixture.aws.create_secret("prod/later", "now").await?;
    fixture.aws.put_parameter("/prod/level", ParameterType::String, "debug").await?;
    fixture.aws.put_parameter("/prod/tree/leaf", ParameterType::String, "green").await?;
    fixture.holds("later", "now").await?;
    fixture.holds("level", "debug").await?;
    fixture.holds("tree/leaf", "green").await?;
    sidecar.becomes("secretsmanager:prod/later", "fresh").await?;
    ensure!(fixture.read("db")? == "here");
    Ok(())
}

#[tokio::test]
async fn what_is_not_optional_and_absent_is_named() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "here").await?;
    for (missing, code) in [
        ("secretsmanager:prod/none", "ResourceNotFoundException"),
        ("secretsmanager:prod/db?stage=nowhere", "ResourceNotFoundException"),
        ("parameterstore:/prod/none", "ParameterNotFound"),
        ("parameterstore:/prod/none/*", "ParameterNotFound"),
    ] {
        let entry = match missing.strip_suffix('*') {
            Some(path) => format!("{{from: '{path}'}}"),
            None => format!("{{name: b, from: '{missing}'}}"),
        };
        fixture.config("1h", ["{name: a, from: 'secretsmanager:prod/db'}".to_owned(), entry])?;
        let process = fixture.run().args(["--once", "--startup-timeout=8s"]).start()?;
        crate::fixture::ends_with(&process, 1).await?;
        let said = process.stderr();
        let said = last_line(&said);
        ensure!(said.contains(&format!(": {missing}: ")) && said.contains(code), "{said}");
        ensure!(said.contains("create it in eu-west-1"), "no fix: {said}");
        ensure!(fixture.volume_is_empty()?, "half a set: {:?}", fixture.tree()?);
    }
    Ok(())
}
