//! Files that are made of several values: all of one moment, or as they were.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bed::{Fault, FileWatch, Rule, SetReader, Times, aws::ParameterType, eventually, unique_name};
use serde_json::{Value, json};

use crate::fixture::{Fixture, SOON, Sidecar, ends_with};

const DB: &str = "{name: db.json, from: 'secretsmanager:prod/db'}";
const VALUES: &str = "    values: {db: 'secretsmanager:prod/db', extra: 'parameterstore:/prod/extra'}\n";

fn write(fixture: &Fixture, refresh: &str, files: &[&str], values: &str) -> Result<()> {
    fixture.write_config(&format!("refresh: {refresh}\nvolumes:\n{}{values}", fixture.volume_text("volume", files)))
}

/// What `coffer check` says of the config that was written last, which has mistakes.
async fn mistakes(fixture: &Fixture) -> Result<String> {
    let process = fixture.coffer().args(["check", "--config"]).arg(fixture.config_path()).start()?;
    ends_with(&process, 2).await?;
    Ok(process.stderr())
}

async fn why(sidecar: &Sidecar, reference: &str, state: &str) -> Result<String> {
    let found = sidecar.becomes(reference, state).await?;
    Ok(found["why"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn two_hundred_rotations_never_show_a_template_of_another_moment() -> Result<()> {
    const ROTATIONS: u64 = 200;
    let fixture = Fixture::new().await?;
    let secrets = ["prod/db", "prod/api"];
    let mut arns = Vec::new();
    for secret in secrets {
        arns.push(fixture.aws.create_secret(secret, r#"{"n": 0}"#).await?.arn);
    }
    let queue = fixture.aws.create_queue(&unique_name("templates")).await?;
    // The last template sees the first value by way of the second alone: its set is to be one with it too.
    let files = [
        "{name: db, from: 'secretsmanager:prod/db', select: n}",
        "{name: api, from: 'secretsmanager:prod/api', select: n}",
        "{name: both, template: '{{ db.n }} {{ api.n }}'}",
        "{name: sub/both, template: '{{ api.n }} {{ db.n }} {{ still }}'}",
    ];
    fixture.aws.put_parameter("/prod/still", ParameterType::String, "still").await?;
    let values = "    values: {db: 'secretsmanager:prod/db', api: 'secretsmanager:prod/api', still: 'parameterstore:/prod/still'}\n";
    fixture.write_config(&format!(
        "refresh: 1h\npush: {{sqs: '{queue}', spread: 0s}}\nrate_limits: {{secretsmanager: 1000, parameterstore: 1000}}\n\
         volumes:\n{}{values}",
        fixture.volume_text("volume", files)
    ))?;
    let sidecar = fixture.ready().await?;

    let (ended, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let reader = {
        let (ended, looks, reader) = (Arc::clone(&ended), Arc::clone(&looks), SetReader::new(fixture.volume()));
        std::thread::spawn(move || -> Result<()> {
            while !ended.load(Ordering::Relaxed) {
                let set = reader.read(&["db", "api", "both", "sub/both"])?;
                let text = |name: &str| {
                    let bytes = set.files[name].clone().with_context(|| format!("{name} is missing"))?;
                    Ok::<_, anyhow::Error>(String::from_utf8(bytes)?)
                };
                let (db, api) = (text("db")?, text("api")?);
                let (both, other) = (text("both")?, text("sub/both")?);
                ensure!(
                    both == format!("{db} {api}") && other == format!("{api} {db} still"),
                    "a mixed set: {db}, {api}, {both:?}, {other:?}"
                );
                looks.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(200));
            }
            Ok(())
        })
    };
    for n in 1..=ROTATIONS {
        let which = usize::from(fastrand::bool());
        let version =
            fixture.aws.put_secret_value(secrets[which], format!(r#"{{"n": {n}}}"#).as_str()).await?.version_id;
        let event = json!({
            "version": "0", "id": unique_name("event"), "detail-type": "Secret Label Updated",
            "source": "aws.secretsmanager", "account": fixture.aws.account(), "time": "2026-02-06T16:43:48Z",
            "region": bed::aws::REGION, "resources": [arns[which]],
            "detail": {"name": secrets[which], "labelUpdated": "AWSCURRENT", "versionId": version},
        });
        fixture.aws.send_message(&queue, &event.to_string()).await?;
        // Most are waited for, and now and then the next rotation comes upon a look.
        if n % 5 != 0 || n == ROTATIONS {
            fixture.holds(["db", "api"][which], &n.to_string()).await.with_context(|| sidecar.process.stderr())?;
        }
        ensure!(!reader.is_finished(), "{:?}", reader.join());
    }
    ended.store(true, Ordering::Relaxed);
    reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    ensure!(looks.load(Ordering::Relaxed) >= ROTATIONS, "only {} looks", looks.load(Ordering::Relaxed));
    let status = sidecar.status().await?;
    ensure!(status["publishes"].as_u64() >= Some(ROTATIONS * 4 / 5), "{status:#}");
    let origin = fs::read_to_string(fixture.volume().join("..data/both"))?;
    ensure!(origin.split(' ').any(|n| n == ROTATIONS.to_string()), "{origin}");
    Ok(())
}

#[tokio::test]
async fn no_fault_and_no_order_of_things_makes_a_set_of_two_moments() -> Result<()> {
    const STEPS: u32 = 28;
    let fixture = Fixture::new().await?;
    let (aws, proxy) = (&fixture.aws, &fixture.proxy);
    for secret in ["prod/db", "prod/api"] {
        aws.create_secret(secret, r#"{"n": 0}"#).await?;
    }
    aws.put_parameter("/prod/extra", ParameterType::String, "0").await?;
    let files = [
        "{name: db, from: 'secretsmanager:prod/db', select: n}",
        "{name: api, from: 'secretsmanager:prod/api', select: n}",
        "{name: extra, from: 'parameterstore:/prod/extra', optional: true}",
        "{name: strict, template: '{{ db.n }} {{ api.n }}'}",
        "{name: loose, template: '{{ db.n }} {{ extra }}', optional: true}",
    ];
    let values = "    values: {db: 'secretsmanager:prod/db', api: 'secretsmanager:prod/api', extra: 'parameterstore:/prod/extra'}\n";
    write(&fixture, "1s", &files, values)?;
    let sidecar = fixture.ready().await?;

    let ended = Arc::new(AtomicBool::new(false));
    let reader = {
        let (ended, reader) = (Arc::clone(&ended), SetReader::new(fixture.volume()));
        std::thread::spawn(move || -> Result<()> {
            while !ended.load(Ordering::Relaxed) {
                let set = reader.read(&["db", "api", "extra", "strict", "loose"])?;
                let text =
                    |name: &str| set.files[name].as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
                let (db, api, extra) = (text("db"), text("api"), text("extra"));
                let both = |one: &Option<String>, other: &Option<String>| {
                    Some(format!("{} {}", one.as_ref()?, other.as_ref()?))
                };
                ensure!(text("strict").is_some() && text("strict") == both(&db, &api), "a mixed set: {set:?}");
                ensure!(text("loose").is_none() || text("loose") == both(&db, &extra), "a mixed set: {set:?}");
                std::thread::sleep(Duration::from_micros(500));
            }
            Ok(())
        })
    };
    let seed = fastrand::u64(..);
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut there = true;
    for n in 1..=STEPS {
        match chance.u32(0..8) {
            0..=1 => drop(aws.put_secret_value("prod/db", format!(r#"{{"n": {n}}}"#).as_str()).await?),
            2 => drop(aws.put_secret_value("prod/api", format!(r#"{{"n": {n}}}"#).as_str()).await?),
            // A field is missing.
            3 => drop(aws.put_secret_value("prod/api", r#"{"m": 0}"#).await?),
            4 if there => {
                aws.delete_parameter("/prod/extra").await?;
                there = false;
            }
            4 | 5 => {
                aws.put_parameter("/prod/extra", ParameterType::String, &n.to_string()).await?;
                there = true;
            }
            6 => {
                let operation =
                    *chance.choice(["GetSecretValue", "GetParameters", "DescribeSecret"].iter()).context("one")?;
                let fault = chance.choice([Fault::Throttle, Fault::AccessDenied, Fault::Cut]).context("one")?;
                proxy.fault(Rule::new(fault).operation(operation).times(Times::First(2)));
            }
            _ => proxy.clear_faults(),
        }
        tokio::time::sleep(Duration::from_millis(chance.u64(50..500))).await;
        ensure!(!reader.is_finished(), "seed {seed}, step {n}: {:?}", reader.join());
    }
    // All comes right in the end.
    proxy.clear_faults();
    for secret in ["prod/db", "prod/api"] {
        aws.put_secret_value(secret, r#"{"n": 99}"#).await?;
    }
    aws.put_parameter("/prod/extra", ParameterType::String, "99").await?;
    // What was refused time and again is asked for ever more seldom.
    let whole = eventually(SOON * 2, async || {
        for file in ["strict", "loose"] {
            let found = fixture.read(file)?;
            ensure!(found == "99 99", "{file} holds {found:?}");
        }
        Ok(())
    });
    whole.await.with_context(|| format!("seed {seed}\n{}", sidecar.process.stderr()))?;
    ended.store(true, Ordering::Relaxed);
    reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?.with_context(|| format!("seed {seed}"))?;
    for reference in ["secretsmanager:prod/db", "secretsmanager:prod/api", "parameterstore:/prod/extra"] {
        sidecar.becomes(reference, "fresh").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_missing_field_keeps_the_old_set_and_names_its_line() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", r#"{"user": "u1", "password": "s3cr3t1"}"#).await?;
    fixture.aws.put_parameter("/prod/extra", ParameterType::String, "e1").await?;
    let template =
        r#"{name: app.conf, template: "user={{ db.user }}\npassword={{ db.password }}\nextra={{ extra }}\n"}"#;
    write(&fixture, "1s", &[DB, template], VALUES)?;
    let sidecar = fixture.ready().await?;
    let first = "user=u1\npassword=s3cr3t1\nextra=e1\n";
    ensure!(fixture.read("app.conf")? == first);
    let before = fixture.tree()?;

    fixture.aws.put_secret_value("prod/db", r#"{"user": "u2", "passwrd": "s3cr3t2"}"#).await?;
    let text = why(&sidecar, "secretsmanager:prod/db", "stale").await?;
    for words in ["app.conf", "line 2", "db.password"] {
        ensure!(text.contains(words), "no `{words}` in {text}");
    }
    // The value that is not to blame was confirmed, and stays fresh.
    sidecar.looks_again().await?;
    let extra = sidecar.reference("parameterstore:/prod/extra").await?;
    ensure!(extra["state"] == "fresh", "{extra:#}");
    ensure!(fixture.tree()? == before, "the set was touched");
    ensure!(!format!("{text}{}", sidecar.process.stderr()).contains("s3cr3t"), "{}", sidecar.process.stderr());

    fixture.aws.put_secret_value("prod/db", r#"{"user": "u3", "password": "p3"}"#).await?;
    fixture.holds("app.conf", "user=u3\npassword=p3\nextra=e1\n").await?;
    ensure!(fixture.read("db.json")?.contains("u3"));
    sidecar.becomes("secretsmanager:prod/db", "fresh").await?;
    Ok(())
}

#[tokio::test]
async fn a_template_that_cannot_be_made_at_the_start_publishes_nothing() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", r#"{"user": "s3cr3t"}"#).await?;
    write(&fixture, "1s", &[DB, "{name: app.conf, template: '{{ db.usr }}'}"], VALUES)?;
    let process = fixture.start()?.process;
    ends_with(&process, 1).await?;
    let text = process.stderr();
    ensure!(text.contains("app.conf") && text.contains("line 1") && text.contains("db.usr"), "{text}");
    ensure!(text.contains("did you mean") && text.contains("user") && !text.contains("s3cr3t"), "{text}");
    ensure!(fixture.volume_is_empty()?);
    Ok(())
}

#[tokio::test]
async fn mistakes_are_told_with_their_place_and_what_was_meant() -> Result<()> {
    let fixture = Fixture::new().await?;
    fs::write(fixture.path("bad.tmpl"), "a={{ db.user }}\nb={{ dbb.user }}\nc={% if %}\n")?;
    for (file, values, expected) in [
        (
            "{name: app.conf, template: 'a={{ dbb.user }}'}",
            VALUES,
            vec!["coffer.yaml:5:36: `template` names `dbb`", "did you mean `db`?"],
        ),
        (
            "{name: app.conf, template: '{{ db }}'}",
            "",
            vec!["`template` names `db`, which is no value of this volume", "add it to the volume's `values`"],
        ),
        ("{name: app.conf, template: '{{ db'}", VALUES, vec!["coffer.yaml:5:", "`template`", "line 1"]),
        ("{name: app.conf, template_file: bad.tmpl}", VALUES, vec!["coffer.yaml:5:", "template_file", "line 3"]),
        ("{name: app.conf, template_file: none.tmpl}", VALUES, vec!["coffer.yaml:5:", "none.tmpl", "No such file"]),
        ("{name: app.conf, template: 'no value'}", VALUES, vec!["names no value of the volume"]),
        ("{name: app.conf, template: ''}", VALUES, vec!["coffer.yaml:5:"]),
        (
            "{name: app.conf, template: '{{ db }}', from: 'secretsmanager:prod/db'}",
            VALUES,
            vec!["`from` and a template cannot stand in one file"],
        ),
        ("{template: '{{ db }}'}", VALUES, vec!["this file has no `name`"]),
        (
            "{name: app.conf, template: '{{ db }}'}",
            "    values: {1db: 'secretsmanager:prod/db', db: 'parameterstore:/prod/'}\n",
            vec!["`1db` cannot be the name of a value", "gives many values, and `db` is one"],
        ),
        (
            "{name: app.conf, template: '{{ db }}'}",
            "    values: {db: {form: 'secretsmanager:prod/db'}}\n",
            vec!["unknown key `form`", "did you mean `from`?"],
        ),
        (
            "{name: app.conf, template: '{{ db }}'}",
            "    values: [db]\n",
            vec!["`values` maps names to references", "names `db`"],
        ),
    ] {
        write(&fixture, "1s", &[file], values)?;
        let told = mistakes(&fixture).await?;
        for words in &expected {
            ensure!(told.contains(words), "no `{words}` for {file} in\n{told}");
        }
        // One mistake is told once.
        let told_alike = told.matches("coffer.yaml:").count() <= expected.len();
        ensure!(told_alike, "more than {} mistakes for {file} in\n{told}", expected.len());
    }
    Ok(())
}

#[tokio::test]
async fn a_template_file_that_is_edited_is_taken_over() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", r#"{"user": "u"}"#).await?;
    let template = fixture.path("app.tmpl");
    fs::write(&template, "user={{ db.user }}\n")?;
    write(&fixture, "1h", &[DB, "{name: app.conf, template_file: app.tmpl}"], VALUES)?;
    let sidecar = fixture.ready().await?;
    ensure!(fixture.read("app.conf")? == "user=u\n");

    fs::write(&template, "the user={{ db.user }}\n")?;
    fixture.holds("app.conf", "the user=u\n").await?;
    // A bad one changes nothing, and is told with its place.
    fs::write(&template, "the user={{ db.user }}\n{{ dbx }}\n")?;
    let config = async |state: &str| {
        eventually(SOON, async || {
            let (_, body) = sidecar.get("/status").await?;
            let status = serde_json::from_str::<Value>(&body)?["config"].take();
            ensure!(status["state"] == state, "{status:#}");
            Ok(status["why"].as_str().unwrap_or_default().to_owned())
        })
        .await
    };
    let text = config("failing").await?;
    ensure!(text.contains("coffer.yaml:6:") && text.contains("`dbx`") && text.contains("did you mean `db`?"), "{text}");
    ensure!(fixture.read("app.conf")? == "the user=u\n");
    // One that fits its values no longer neither.
    fs::write(&template, "the user={{ db.usr }}\n")?;
    eventually(SOON, async || {
        let text = config("failing").await?;
        ensure!(text.contains("app.conf") && text.contains("line 1") && text.contains("db.usr"), "{text}");
        Ok(())
    })
    .await?;
    ensure!(fixture.read("app.conf")? == "the user=u\n");
    fs::write(&template, "last={{ db.user }}\n")?;
    fixture.holds("app.conf", "last=u\n").await?;
    config("current").await?;
    Ok(())
}

#[tokio::test]
async fn an_optional_template_comes_with_its_values_and_never_tells_of_an_older_moment() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "db1").await?;
    write(&fixture, "1s", &[DB, "{name: app.conf, template: '{{ db }} {{ extra }}', optional: true}"], VALUES)?;
    let sidecar = fixture.ready().await?;
    ensure!(fixture.read("db.json")? == "db1" && fixture.read("app.conf").is_err());
    sidecar.becomes("parameterstore:/prod/extra", "missing").await?;
    ensure!(sidecar.get("/readyz").await?.0 == 200);
    // What AWS does not have makes a rotation cost no more than it does without it.
    fixture.proxy.clear_log();
    fixture.aws.put_secret_value("prod/db", "db2").await?;
    fixture.holds("db.json", "db2").await?;
    ensure!(fixture.read("app.conf").is_err());

    fixture.aws.put_parameter("/prod/extra", ParameterType::String, "e1").await?;
    fixture.holds("app.conf", "db2 e1").await?;
    sidecar.becomes("parameterstore:/prod/extra", "fresh").await?;
    fixture.aws.put_secret_value("prod/db", "db3").await?;
    fixture.holds("app.conf", "db3 e1").await?;
    ensure!(fixture.read("db.json")? == "db3");

    // A parameter that goes takes nothing with it, until the file would tell of two moments.
    fixture.aws.delete_parameter("/prod/extra").await?;
    sidecar.becomes("parameterstore:/prod/extra", "stale").await?;
    ensure!(fixture.read("app.conf")? == "db3 e1");
    fixture.aws.put_secret_value("prod/db", "db4").await?;
    fixture.holds("db.json", "db4").await?;
    ensure!(fixture.read("app.conf").is_err(), "an old template beside a new value");
    sidecar.becomes("parameterstore:/prod/extra", "missing").await?;
    let db = sidecar.reference("secretsmanager:prod/db").await?;
    ensure!(db["state"] == "fresh", "{db:#}");
    fixture.aws.put_parameter("/prod/extra", ParameterType::String, "e2").await?;
    fixture.holds("app.conf", "db4 e2").await
}

#[tokio::test]
async fn what_is_not_there_holds_up_nobody_while_it_cannot_be_asked_for() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "db1").await?;
    let template = "{name: app.conf, template: '{{ db }} {{ extra }}', optional: true}";
    let plain = "{name: extra, from: 'parameterstore:/prod/extra', optional: true}";
    write(&fixture, "1s", &[DB, template, plain], VALUES)?;
    let sidecar = fixture.ready().await?;
    sidecar.becomes("parameterstore:/prod/extra", "missing").await?;
    let fault = fixture.proxy.fault(Rule::new(Fault::Throttle).operation("GetParameters"));
    eventually(SOON, async || {
        let extra = sidecar.reference("parameterstore:/prod/extra").await?;
        ensure!(extra["state"] == "missing" && extra["code"] == "ThrottlingException", "{extra:#}");
        Ok(())
    })
    .await?;
    fixture.aws.put_secret_value("prod/db", "db2").await?;
    fixture.holds("db.json", "db2").await?;
    sidecar.becomes("secretsmanager:prod/db", "fresh").await?;
    fixture.proxy.clear_fault(fault);
    fixture.aws.put_parameter("/prod/extra", ParameterType::String, "e1").await?;
    fixture.holds("app.conf", "db2 e1").await?;
    fixture.holds("extra", "e1").await
}

#[tokio::test]
async fn a_value_that_fails_holds_back_the_others_of_its_files_and_says_so() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "db1").await?;
    fixture.aws.create_secret("prod/other", "o1").await?;
    fixture.aws.put_parameter("/prod/extra", ParameterType::String, "e1").await?;
    let files =
        [DB, "{name: other, from: 'secretsmanager:prod/other'}", "{name: app.conf, template: '{{ db }} {{ extra }}'}"];
    write(&fixture, "1s", &files, VALUES)?;
    let sidecar = fixture.ready().await?;
    fixture.aws.delete_parameter("/prod/extra").await?;
    sidecar.becomes("parameterstore:/prod/extra", "stale").await?;
    fixture.aws.put_secret_value("prod/db", "db2").await?;
    let text = why(&sidecar, "secretsmanager:prod/db", "stale").await?;
    ensure!(text.contains("app.conf: waits for parameterstore:/prod/extra"), "{text}");
    ensure!(fixture.read("db.json")? == "db1" && fixture.read("app.conf")? == "db1 e1");
    // What has nothing to do with it goes on.
    fixture.aws.put_secret_value("prod/other", "o2").await?;
    fixture.holds("other", "o2").await?;
    ensure!(fixture.read("db.json")? == "db1");
    fixture.aws.put_parameter("/prod/extra", ParameterType::String, "e2").await?;
    fixture.holds("app.conf", "db2 e2").await?;
    ensure!(fixture.read("db.json")? == "db2");
    sidecar.becomes("secretsmanager:prod/db", "fresh").await?;
    Ok(())
}

#[tokio::test]
async fn a_restart_takes_templates_over_as_they_are() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", r#"{"user": "u"}"#).await?;
    fixture.aws.put_parameter("/prod/extra", ParameterType::String, "e").await?;
    let template = r#"{name: app.conf, template: "{{ db.user }} {{ extra }}"}"#;
    write(&fixture, "1s", &[DB, template], VALUES)?;
    let sidecar = fixture.ready().await?;
    sidecar.process.kill()?;
    sidecar.process.wait(SOON).await?;
    let before = fixture.tree()?;
    let mut watch = FileWatch::new(&fixture.volume())?;
    let sidecar = fixture.ready().await?;
    sidecar.becomes("parameterstore:/prod/extra", "fresh").await?;
    fixture.proxy.clear_log();
    fixture.asked("DescribeSecret", 2).await?;
    ensure!(fixture.tree()? == before && sidecar.status().await?["publishes"] == 0);
    let swaps: Vec<_> = watch.events()?.into_iter().filter(|event| event.path.ends_with("..data")).collect();
    ensure!(swaps.is_empty(), "{swaps:?}");
    sidecar.process.wait_for_stderr("took over the set from before the start", SOON).await
}
