//! Looking again: what it costs, what it touches, what it notices.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bed::{Fault, FileEvent, FileWatch, Rule, aws::ParameterType, eventually, unique_id};

use crate::fixture::{Fixture, SOON, list};

/// How many swaps of the set a watcher has seen.
fn swaps(events: &[FileEvent]) -> usize {
    let is_swap =
        |event: &&FileEvent| event.path.ends_with("..data") && event.mask.contains(inotify::EventMask::MOVED_TO);
    events.iter().filter(is_swap).count()
}

#[tokio::test]
async fn an_unchanged_refresh_touches_nothing_and_asks_once_for_each() -> Result<()> {
    const SECRETS: usize = 3;
    const PARAMETERS: usize = 12;
    let fixture = Fixture::new().await?;
    let mut files = Vec::new();
    for n in 0..SECRETS {
        fixture.aws.create_secret(&format!("prod/s{n}"), &format!("secret {n}")).await?;
        files.push(format!("{{name: s{n}, from: 'secretsmanager:prod/s{n}'}}"));
    }
    for n in 0..PARAMETERS {
        fixture.aws.put_parameter(&format!("/prod/p{n}"), ParameterType::SecureString, &format!("p {n}")).await?;
        files.push(format!("{{name: conf/p{n}, from: 'parameterstore:/prod/p{n}'}}"));
    }
    fixture.config("1s", files)?;
    let sidecar = fixture.ready().await?;
    let before = sidecar.status().await?;
    let mut watch = FileWatch::with_reads(&fixture.volume())?;
    fixture.proxy.clear_log();
    let started = Instant::now();

    fixture.asked("DescribeSecret", 5 * SECRETS).await?;
    let calls = fixture.proxy.calls();
    // A look every 0.8 to 1.2 s, the first of them perhaps at once.
    let looks = (started.elapsed().as_secs_f64() / 0.79).floor() as usize + 1;
    let most = looks * (SECRETS + PARAMETERS.div_ceil(10));
    ensure!(calls.len() <= most, "{} calls in {looks} looks, not at most {most}", calls.len());
    let values = calls.iter().filter(|call| call.operation.ends_with("GetSecretValue")).count();
    ensure!(values == 0, "{values} calls for values that have not changed");
    let names: usize =
        calls.iter().filter(|call| call.operation == "GetParameters").map(|call| list(call, "Names").len()).sum();
    ensure!(names <= looks * PARAMETERS, "{names} parameters asked for in {looks} looks");

    let events = watch.events()?;
    ensure!(events.is_empty(), "a look at nothing new touched the volume: {events:?}");
    let after = sidecar.status().await?;
    ensure!(after["publishes"] == 1 && after["published_at"] == before["published_at"], "{after:#}");
    ensure!(after["references"].as_array().is_some_and(|all| all.iter().all(|one| one["state"] == "fresh")));
    Ok(())
}

#[tokio::test]
async fn what_is_pinned_to_a_version_is_confirmed_like_the_rest_and_its_loss_is_told() -> Result<()> {
    let fixture = Fixture::new().await?;
    let pinned = fixture.aws.create_secret("prod/pinned", "pinned").await?;
    fixture.aws.put_parameter("/prod/level", ParameterType::String, "info").await?;
    let reference = format!("secretsmanager:prod/pinned?version={}", pinned.version_id);
    fixture.config(
        "1s",
        [
            format!("{{name: pinned, from: '{reference}'}}"),
            "{name: level, from: 'parameterstore:/prod/level?version=1'}".to_owned(),
        ],
    )?;
    let sidecar = fixture.ready().await?;
    fixture.proxy.clear_log();
    fixture.asked("DescribeSecret", 3).await?;
    ensure!(fixture.proxy.count("GetSecretValue") == 0, "{:?}", fixture.operations());
    fixture.aws.delete_secret("prod/pinned").await?;
    let stale = sidecar.becomes(&reference, "stale").await?;
    ensure!(stale["code"] == "ScheduledForDeletion", "{stale:#}");
    ensure!(fixture.read("pinned")? == "pinned");
    fixture.aws.restore_secret("prod/pinned").await?;
    sidecar.becomes(&reference, "fresh").await?;
    Ok(())
}

#[tokio::test]
async fn optional_parameters_that_are_not_there_cost_no_calls_of_their_own() -> Result<()> {
    let fixture = Fixture::new().await?;
    let mut files = Vec::new();
    for n in 0..10 {
        fixture.aws.put_parameter(&format!("/prod/there{n}"), ParameterType::String, "x").await?;
        files.push(format!("{{name: there{n}, from: 'parameterstore:/prod/there{n}'}}"));
        files.push(format!("{{name: absent{n}, from: 'parameterstore:/prod/absent{n}', optional: true}}"));
    }
    fixture.config("1s", files)?;
    let sidecar = fixture.ready().await?;
    for _ in 0..3 {
        fixture.proxy.clear_log();
        sidecar.looks_again().await?;
        let calls = fixture.proxy.calls_to("GetParameters").len();
        // A second look may have begun.
        ensure!(calls <= 4, "{calls} calls for 20 parameters");
    }
    Ok(())
}

#[tokio::test]
async fn a_new_parameter_whose_name_is_taken_keeps_nobody_from_being_refreshed() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "one").await?;
    fixture.aws.put_parameter("/app/level", ParameterType::String, "info").await?;
    fixture.config("1s", ["{from: 'parameterstore:/app/'}", "{name: db, from: 'secretsmanager:prod/db'}"])?;
    let sidecar = fixture.ready().await?;
    fixture.aws.put_parameter("/app/db", ParameterType::String, "impostor").await?;
    let stale = sidecar.becomes("parameterstore:/app/*", "stale").await?;
    ensure!(stale["why"].as_str().is_some_and(|why| why.contains("cannot both be files")), "{stale:#}");
    fixture.aws.put_secret_value("prod/db", "two").await?;
    fixture.holds("db", "two").await?;
    ensure!(fixture.read("level")? == "info");
    Ok(())
}

#[tokio::test]
async fn a_changed_secret_costs_one_more_call_and_changes_the_set_once() -> Result<()> {
    let fixture = Fixture::new().await?;
    for name in ["prod/a", "prod/b", "prod/c"] {
        fixture.aws.create_secret(name, "old").await?;
    }
    fixture
        .config("1s", ["a", "b", "c"].map(|name| format!("{{name: {name}, from: 'secretsmanager:prod/{name}'}}")))?;
    let sidecar = fixture.ready().await?;
    let mut watch = FileWatch::new(&fixture.volume())?;
    fixture.proxy.clear_log();
    let new = fixture.aws.rotate_secret("prod/b", "new").await?;
    fixture.holds("b", "new").await?;
    // Two more looks find nothing.
    let so_far = fixture.proxy.count("DescribeSecret");
    fixture.asked("DescribeSecret", so_far + 6).await?;

    let fetched = fixture.proxy.calls_to("GetSecretValue");
    ensure!(fetched.len() == 1 && fetched[0].request["SecretId"] == "prod/b", "{fetched:#?}");
    ensure!(fixture.proxy.count("BatchGetSecretValue") == 0);
    let events = watch.events()?;
    ensure!(swaps(&events) == 1, "{} swaps: {events:?}", swaps(&events));
    let status = sidecar.status().await?;
    ensure!(status["publishes"] == 2, "{status:#}");
    ensure!(sidecar.reference("secretsmanager:prod/b").await?["version"] == *new.version_id);
    ensure!(fixture.read("a")? == "old" && fixture.read("c")? == "old");
    Ok(())
}

#[tokio::test]
async fn changes_of_one_moment_come_in_one_swap() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.put_parameter("/prod/a", ParameterType::String, "old").await?;
    fixture.aws.put_parameter("/prod/b", ParameterType::String, "old").await?;
    fixture.config("1s", ["a", "b"].map(|name| format!("{{name: {name}, from: 'parameterstore:/prod/{name}'}}")))?;
    let sidecar = fixture.ready().await?;
    // The looks are held up while both are changed, and so see both.
    let hold = fixture.proxy.fault(Rule::new(Fault::Status(503)));
    sidecar.becomes("parameterstore:/prod/a", "stale").await?;
    sidecar.becomes("parameterstore:/prod/b", "stale").await?;
    fixture.aws.put_parameter("/prod/a", ParameterType::String, "new").await?;
    fixture.aws.put_parameter("/prod/b", ParameterType::String, "new").await?;
    let mut watch = FileWatch::new(&fixture.volume())?;
    fixture.proxy.clear_fault(hold);
    fixture.holds("a", "new").await?;
    fixture.holds("b", "new").await?;
    let status = sidecar.status().await?;
    let seen = swaps(&watch.events()?);
    ensure!(seen == 1 && status["publishes"] == 2, "{seen} swaps: {status:#}");
    Ok(())
}

#[tokio::test]
async fn without_leave_to_describe_the_values_tell_what_changed() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.proxy.fault(Rule::new(Fault::AccessDenied).operation("DescribeSecret"));
    for name in ["prod/a", "prod/b"] {
        fixture.aws.create_secret(name, "old").await?;
    }
    fixture.config("1s", ["a", "b"].map(|name| format!("{{name: {name}, from: 'secretsmanager:prod/{name}'}}")))?;
    let sidecar = fixture.ready().await?;
    let mut watch = FileWatch::new(&fixture.volume())?;
    fixture.asked("BatchGetSecretValue", 4).await?;
    ensure!(watch.events()?.is_empty(), "unchanged values were written again");
    let described = fixture.proxy.count("DescribeSecret");
    ensure!(described <= 2, "{described} calls that are known to be denied");

    fixture.aws.put_secret_value("prod/b", "new").await?;
    fixture.holds("b", "new").await?;
    ensure!(swaps(&watch.events()?) == 1 && fixture.read("a")? == "old");
    ensure!(!sidecar.process.stderr().contains("stale"), "{}", sidecar.process.stderr());
    sidecar.becomes("secretsmanager:prod/a", "fresh").await?;
    Ok(())
}

#[tokio::test]
async fn a_new_version_of_the_same_bytes_swaps_nothing_and_is_told() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "the same").await?;
    fixture.aws.put_parameter("/prod/level", ParameterType::String, "the same").await?;
    fixture.config(
        "1s",
        ["{name: db, from: 'secretsmanager:prod/db'}", "{name: level, from: 'parameterstore:/prod/level'}"],
    )?;
    let sidecar = fixture.ready().await?;
    let mut watch = FileWatch::new(&fixture.volume())?;
    let new = fixture.aws.put_secret_value("prod/db", "the same").await?;
    fixture.aws.put_parameter("/prod/level", ParameterType::String, "the same").await?;
    for (reference, version) in
        [("secretsmanager:prod/db", new.version_id.as_str()), ("parameterstore:/prod/level", "2")]
    {
        eventually(SOON, async || {
            let found = sidecar.reference(reference).await?;
            ensure!(found["version"] == version && found["state"] == "fresh", "not {version}: {found:#}");
            Ok(())
        })
        .await?;
    }
    fixture.proxy.clear_log();
    fixture.asked("DescribeSecret", 3).await?;
    let events = watch.events()?;
    ensure!(events.is_empty(), "{events:?}");
    ensure!(sidecar.status().await?["publishes"] == 1);
    // The new version is known now, and not fetched again and again.
    ensure!(fixture.proxy.count("GetSecretValue") == 0);
    Ok(())
}

#[tokio::test]
async fn a_label_that_moves_is_followed() -> Result<()> {
    let fixture = Fixture::new().await?;
    let aws = &fixture.aws;
    let first = aws.create_secret("prod/db", "first").await?.version_id;
    let second = unique_id();
    aws.put_secret_version("prod/db", "second", &second, &["green"]).await?;
    aws.update_secret_version_stage("prod/db", "blue", None, Some(&first)).await?;
    for value in ["one", "two"] {
        aws.put_parameter("/prod/level", ParameterType::String, value).await?;
    }
    aws.label_parameter_version("/prod/level", 1, "live").await?;
    fixture.config(
        "1s",
        [
            "{name: db, from: 'secretsmanager:prod/db?stage=blue'}",
            "{name: level, from: 'parameterstore:/prod/level?label=live'}",
        ],
    )?;
    let _sidecar = fixture.ready().await?;
    ensure!(fixture.read("db")? == "first" && fixture.read("level")? == "one");
    aws.update_secret_version_stage("prod/db", "blue", Some(&first), Some(&second)).await?;
    aws.label_parameter_version("/prod/level", 2, "live").await?;
    fixture.holds("db", "second").await?;
    fixture.holds("level", "two").await
}

#[tokio::test]
async fn each_volume_has_an_interval_of_its_own() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/often", "old").await?;
    fixture.aws.create_secret("prod/seldom", "old").await?;
    let often = fixture.volume_text("volume", ["{name: a, from: 'secretsmanager:prod/often'}"]);
    let seldom = fixture.volume_text("other", ["{name: a, from: 'secretsmanager:prod/seldom'}"]);
    fixture.write_config(&format!("refresh: 1h\nvolumes:\n{often}    refresh: 1s\n{seldom}"))?;
    let _sidecar = fixture.ready().await?;
    let started = Instant::now();
    eventually(SOON, async || {
        let asked = fixture.proxy.calls_to("DescribeSecret");
        ensure!(asked.iter().filter(|call| call.request["SecretId"] == "prod/often").count() >= 4);
        // The second look of all comes within two minutes, at the earliest after one.
        let seldom = asked.iter().filter(|call| call.request["SecretId"] == "prod/seldom").count();
        ensure!(
            seldom == 0 || started.elapsed() > Duration::from_secs(55),
            "{seldom} looks at what is looked at seldom"
        );
        Ok(())
    })
    .await
}
