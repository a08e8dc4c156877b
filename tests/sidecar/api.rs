//! The loopback API, asked as programs ask AWS's Secrets Manager Agent.

use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use bed::{Fault, Rule, Times, aws::ParameterType, eventually};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::sleep,
};

use crate::fixture::{Fixture, SOON, Sidecar, ends_with};

const TOKEN: &str = "the-token-of-this-pod";

/// A pod in which the API is wanted.
struct Pod {
    fixture: Fixture,
    api: SocketAddr,
}

/// An answer of the API.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// The header lines, in lower case.
    headers: Vec<String>,
    body: String,
}

impl Pod {
    /// With these lines under `api:`, and a volume that asks nothing of Secrets Manager.
    async fn new(settings: &[&str]) -> Result<Self> {
        let fixture = Fixture::new().await?;
        let api = SocketAddr::new(fixture.listen().ip(), 2773);
        fixture.aws.put_parameter("/level", ParameterType::String, "info").await?;
        fs::write(fixture.path("token"), format!("{TOKEN}\n"))?;
        let pod = Self { fixture, api };
        let token_file = format!("token_file: {}", pod.fixture.path("token").display());
        let settings: Vec<&str> = settings.iter().copied().chain([token_file.as_str()]).collect();
        pod.configure(&settings)?;
        Ok(pod)
    }

    fn configure(&self, settings: &[&str]) -> Result<()> {
        let volume = self.fixture.volume_text("volume", ["{name: level, from: 'parameterstore:/level'}"]);
        let mut text = format!("refresh: 1h\napi:\n  listen: {}\n", self.api);
        for line in settings {
            text.push_str(&format!("  {line}\n"));
        }
        self.fixture.write_config(&format!("{text}volumes:\n{volume}"))
    }

    async fn get(&self, target: &str) -> Result<Answer> {
        ask(self.api, "GET", target, &[("X-Aws-Parameters-Secrets-Token", TOKEN)]).await
    }

    /// The JSON of an answer that says yes.
    async fn json(&self, target: &str) -> Result<Value> {
        let answer = self.get(target).await?;
        ensure!(answer.status == 200, "{target}: {answer:?}");
        Ok(serde_json::from_str(&answer.body)?)
    }

    fn calls(&self) -> usize {
        self.fixture.proxy.count("GetSecretValue")
    }

    /// Asks until the answer is stale, or is not any more.
    async fn until_stale(&self, target: &str, stale: bool) -> Result<Answer> {
        eventually(SOON, async || {
            let answer = self.get(target).await?;
            ensure!(answer.status == 200 && answer.header("x-coffer-stale-reason").is_some() == stale, "{answer:?}");
            Ok(answer)
        })
        .await
    }
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
    }
}

/// One request on a connection of its own, written by hand: the agent's clients are of every kind.
async fn ask(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let mut request = format!("{method} {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(SOON, exchange).await.with_context(|| format!("{target}: no answer"))??;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("not HTTP: {answer}"))?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?.parse()?;
    Ok(Answer { status, headers: lines.map(str::to_lowercase).collect(), body: body.to_owned() })
}

#[tokio::test]
async fn a_client_of_awss_agent_finds_what_it_knows() -> Result<()> {
    let pod = Pod::new(&[]).await?;
    let aws = &pod.fixture.aws;
    let first = aws.create_secret("prod/db", r#"{"password":"p\"w"}"#).await?;
    let second = aws.put_secret_value("prod/db", "second").await?;
    aws.create_secret("prod/key", &b"\x00\xff\xfe"[..]).await?;
    let _sidecar = pod.fixture.ready().await?;

    let secret = pod.json("/secretsmanager/get?secretId=prod/db").await?;
    ensure!(secret["ARN"] == second.arn.as_str() && secret["Name"] == "prod/db", "{secret:#}");
    ensure!(secret["VersionId"] == second.version_id.as_str() && secret["SecretString"] == "second", "{secret:#}");
    ensure!(secret["VersionStages"].as_array().is_some_and(|stages| stages.contains(&"AWSCURRENT".into())));
    ensure!(secret["CreatedDate"].as_str().is_some_and(|date| date.parse::<f64>().is_ok()), "{secret:#}");
    ensure!(secret.get("SecretBinary").is_none(), "{secret:#}");
    let by_stage = pod.json("/v1/prod/db?versionStage=AWSPREVIOUS").await?;
    ensure!(by_stage["SecretString"] == r#"{"password":"p\"w"}"#, "{by_stage:#}");
    let by_id = pod.json(&format!("/v1/prod%2Fdb?versionId={}", first.version_id)).await?;
    ensure!(by_id["SecretString"] == by_stage["SecretString"], "{by_id:#}");
    let by_arn = pod.json(&format!("/v1/{}", second.arn)).await?;
    ensure!(by_arn == secret, "{by_arn:#}");
    let binary = pod.json("/v1/prod/key").await?;
    ensure!(binary["SecretBinary"] == BASE64_STANDARD.encode(b"\x00\xff\xfe"), "{binary:#}");
    ensure!(binary.get("SecretString").is_none(), "{binary:#}");

    let ping = ask(pod.api, "GET", "/ping", &[]).await?;
    ensure!(ping.status == 200 && ping.body == "healthy", "{ping:?}");
    let missing = pod.get("/v1/prod/nothing").await?;
    let body: Value = serde_json::from_str(&missing.body)?;
    ensure!(missing.status == 400 && body["__type"] == "ResourceNotFoundException", "{missing:?}");
    ensure!(body["message"].as_str().is_some_and(|message| message.contains("can't find")), "{missing:?}");
    for (target, status) in [("/v1/", 400), ("/v1/a?b=c", 400), ("/secretsmanager/get", 400), ("/v2/a", 404)] {
        let answer = pod.get(target).await?;
        ensure!(answer.status == status, "{target}: {answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_client_of_awss_lambda_extension_finds_parameters() -> Result<()> {
    let pod = Pod::new(&[]).await?;
    let aws = &pod.fixture.aws;
    aws.put_parameter("/prod/key", ParameterType::SecureString, "one").await?;
    aws.put_parameter("/prod/key", ParameterType::SecureString, "two").await?;
    aws.label_parameter_version("/prod/key", 1, "blue").await?;
    let _sidecar = pod.fixture.ready().await?;
    for (query, value, version) in [
        ("name=%2Fprod%2Fkey&withDecryption=true", "two", 2),
        ("name=/prod/key&version=1&withDecryption=true", "one", 1),
        ("name=/prod/key&label=blue&withDecryption=true", "one", 1),
        ("name=/level", "info", 1),
    ] {
        for path in ["/systemsmanager/parameters/get", "/systemsmanager/parameters/get/"] {
            let answer = pod.json(&format!("{path}?{query}")).await?;
            let parameter = &answer["Parameter"];
            ensure!(parameter["Value"] == value && parameter["Version"] == version, "{query}: {answer:#}");
            let modified = parameter["LastModifiedDate"].as_str().context("no date")?;
            humantime::parse_rfc3339(modified).with_context(|| modified.to_owned())?;
            ensure!(answer["ResultMetadata"].is_object(), "{answer:#}");
        }
    }
    ensure!(pod.fixture.proxy.count("GetParameter") == 4, "{:?}", pod.fixture.operations());
    let encrypted = pod.json("/systemsmanager/parameters/get?name=/prod/key").await?;
    ensure!(encrypted["Parameter"]["Value"] != "two", "{encrypted:#}");
    let missing = pod.get("/systemsmanager/parameters/get?name=/nothing").await?;
    ensure!(missing.status == 400 && missing.body.contains(r#""__type":"ParameterNotFound""#), "{missing:?}");
    Ok(())
}

#[tokio::test]
async fn only_who_knows_the_token_is_served_and_a_new_token_counts_at_once() -> Result<()> {
    let pod = Pod::new(&[]).await?;
    pod.fixture.aws.create_secret("prod/db", "value").await?;
    let sidecar = pod.fixture.ready().await?;
    let token = ("X-Vault-Token", TOKEN);
    for (method, headers, status) in [
        ("GET", &[token][..], 200),
        ("GET", &[], 403),
        ("GET", &[("X-Vault-Token", "the-token-of-this-poe")], 403),
        ("GET", &[token, ("X-Forwarded-For", "10.0.0.1")], 400),
        ("POST", &[token], 405),
    ] {
        let answer = ask(pod.api, method, "/v1/prod/db", headers).await?;
        ensure!(answer.status == status, "{method} {headers:?}: {answer:?}");
        ensure!(status == 200 || !answer.body.contains("value"), "{answer:?}");
    }
    fs::write(pod.fixture.path("token"), "the-next-token-of-it")?;
    ensure!(pod.get("/v1/prod/db").await?.status == 403);
    let answer = ask(pod.api, "GET", "/v1/prod/db", &[("x-vault-token", "the-next-token-of-it")]).await?;
    ensure!(answer.status == 200, "{answer:?}");

    let metrics = sidecar.metrics().await?;
    for (name, label, expected) in [
        ("coffer_api_requests_total", ("code", "2xx"), 2.0),
        ("coffer_api_requests_total", ("code", "4xx"), 5.0),
        ("coffer_api_cache_total", ("result", "hit"), 1.0),
        ("coffer_api_cache_total", ("result", "miss"), 1.0),
    ] {
        ensure!(metrics.sum(name, &[label])? == expected, "{name} {label:?} is not {expected} in\n{metrics}");
    }
    Ok(())
}

#[tokio::test]
async fn a_thousand_who_ask_together_for_what_has_run_out_cost_one_call() -> Result<()> {
    let pod = Arc::new(Pod::new(&["ttl: 1s"]).await?);
    pod.fixture.aws.create_secret("prod/db", "value").await?;
    let _sidecar = pod.fixture.ready().await?;
    ensure!(pod.json("/v1/prod/db").await?["SecretString"] == "value");
    sleep(Duration::from_millis(1200)).await;
    pod.fixture.proxy.clear_log();
    pod.fixture.proxy.fault(Rule::new(Fault::Slow(Duration::from_secs(3))).operation("GetSecretValue"));
    let mut askers = JoinSet::new();
    for _ in 0..1000 {
        let pod = Arc::clone(&pod);
        askers.spawn(async move { pod.get("/secretsmanager/get?secretId=prod/db").await });
    }
    while let Some(answer) = askers.join_next().await {
        let answer = answer??;
        ensure!(answer.status == 200 && answer.body.contains(r#""SecretString":"value""#), "{answer:?}");
    }
    let operations = pod.fixture.operations();
    ensure!(operations == ["GetSecretValue"], "{operations:?}");
    Ok(())
}

#[tokio::test]
async fn an_answer_is_kept_for_its_time_and_not_for_who_insists() -> Result<()> {
    let pod = Pod::new(&["ttl: 1h"]).await?;
    pod.fixture.aws.create_secret("prod/db", "one").await?;
    let _sidecar = pod.fixture.ready().await?;
    ensure!(pod.json("/v1/prod/db").await?["SecretString"] == "one");
    pod.fixture.aws.put_secret_value("prod/db", "two").await?;
    ensure!(pod.json("/v1/prod/db").await?["SecretString"] == "one");
    ensure!(pod.calls() == 1);
    ensure!(pod.json("/v1/prod/db?refreshNow=true").await?["SecretString"] == "two");
    ensure!(pod.json("/v1/prod/db").await?["SecretString"] == "two");
    ensure!(pod.calls() == 2);
    ensure!(pod.fixture.proxy.count("DescribeSecret") == 0);
    Ok(())
}

#[tokio::test]
async fn a_ttl_of_zero_asks_aws_each_time() -> Result<()> {
    let pod = Pod::new(&["ttl: 0s"]).await?;
    pod.fixture.aws.create_secret("prod/db", "one").await?;
    let _sidecar = pod.fixture.ready().await?;
    for value in ["one", "two", "three"] {
        pod.fixture.aws.put_secret_value("prod/db", value).await?;
        ensure!(pod.json("/v1/prod/db").await?["SecretString"] == value);
    }
    ensure!(pod.calls() == 3);
    Ok(())
}

#[tokio::test]
async fn an_old_answer_serves_through_an_outage_and_says_so() -> Result<()> {
    let pod = Pod::new(&["ttl: 1s"]).await?;
    pod.fixture.aws.create_secret("prod/db", "old").await?;
    let _sidecar = pod.fixture.ready().await?;
    pod.json("/v1/prod/db").await?;
    for (fault, reason) in [
        (Fault::Throttle, "ThrottlingException"),
        (Fault::Status(503), "ServiceUnavailableException"),
        (Fault::AccessDenied, "AccessDeniedException"),
        (Fault::Cut, "ConnectionFailed"),
    ] {
        let rule = pod.fixture.proxy.fault(Rule::new(fault).operation("GetSecretValue"));
        let answer = pod.until_stale("/v1/prod/db", true).await?;
        ensure!(answer.header("x-coffer-stale-reason") == Some(&reason.to_lowercase()), "{reason}: {answer:?}");
        let since = answer.header("x-coffer-stale-since").context("no time")?.to_uppercase();
        humantime::parse_rfc3339(&since).with_context(|| since.clone())?;
        ensure!(answer.body.contains(r#""SecretString":"old""#), "{answer:?}");
        // The time stands while it lasts, and so do the calls, though everyone asks.
        let (calls, started) = (pod.calls(), Instant::now());
        while started.elapsed() < Duration::from_secs(1) {
            let again = pod.get("/v1/prod/db").await?;
            ensure!(again.header("x-coffer-stale-since").map(str::to_uppercase).as_ref() == Some(&since), "{again:?}");
        }
        // Two: what is cut is tried again at once.
        ensure!(pod.calls() <= calls + 2, "{} calls in a second", pod.calls() - calls);
        // Who insists gets what AWS says.
        let insisting = pod.get("/v1/prod/db?refreshNow=1").await?;
        ensure!(insisting.status >= 400, "{insisting:?}");
        pod.fixture.proxy.clear_fault(rule);
        pod.until_stale("/v1/prod/db", false).await?;
    }
    // With nothing in hand there is only AWS's word.
    pod.fixture.proxy.fault(Rule::new(Fault::Throttle).operation("GetSecretValue").times(Times::First(1)));
    let answer = pod.get("/v1/prod/other").await?;
    ensure!(answer.status == 400 && answer.body.contains(r#""__type":"ThrottlingException""#), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn a_secret_scheduled_for_deletion_serves_on_until_it_is_restored() -> Result<()> {
    let pod = Pod::new(&["ttl: 1s"]).await?;
    let aws = &pod.fixture.aws;
    aws.create_secret("prod/db", "kept").await?;
    let _sidecar = pod.fixture.ready().await?;
    pod.json("/v1/prod/db").await?;
    aws.delete_secret("prod/db").await?;
    let answer = pod.until_stale("/v1/prod/db", true).await?;
    ensure!(answer.body.contains(r#""SecretString":"kept""#), "{answer:?}");
    aws.restore_secret("prod/db").await?;
    pod.until_stale("/v1/prod/db", false).await?;
    Ok(())
}

#[tokio::test]
async fn a_request_may_name_a_role() -> Result<()> {
    let pod = Pod::new(&[]).await?;
    let aws = &pod.fixture.aws;
    aws.create_secret("prod/db", "value").await?;
    let _sidecar = pod.fixture.ready().await?;
    let role = aws.role_arn("reader");
    ensure!(pod.json(&format!("/v1/prod/db?roleArn={role}")).await?["SecretString"] == "value");
    ensure!(pod.json("/v1/prod/db").await?["SecretString"] == "value");
    let roles: Vec<_> = pod.fixture.proxy.calls_to("GetSecretValue").into_iter().map(|call| call.role).collect();
    ensure!(roles == [Some(role), Some(aws.role_arn("app"))], "{roles:?}");
    pod.fixture.proxy.fault(Rule::new(Fault::AccessDenied).operation("AssumeRole"));
    let answer = pod.get(&format!("/v1/prod/db?roleArn={}", aws.role_arn("nobody"))).await?;
    ensure!(answer.status == 403 && answer.body.contains(r#""__type":"AccessDeniedException""#), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn too_many_requests_are_told_so_and_ping_answers_still() -> Result<()> {
    let pod = Arc::new(Pod::new(&["max_connections: 2"]).await?);
    pod.fixture.aws.create_secret("prod/db", "value").await?;
    let _sidecar = pod.fixture.ready().await?;
    pod.fixture.proxy.fault(Rule::new(Fault::Slow(Duration::from_secs(5))).operation("GetSecretValue"));
    let mut askers = JoinSet::new();
    for _ in 0..2 {
        let pod = Arc::clone(&pod);
        askers.spawn(async move { pod.get("/v1/prod/db").await });
    }
    pod.fixture.asked("GetSecretValue", 1).await?;
    eventually(Duration::from_secs(4), async || {
        let answer = pod.get("/v1/prod/other").await?;
        ensure!(answer.status == 429 && answer.body == "Connection limit exceeded", "{answer:?}");
        Ok(())
    })
    .await?;
    ensure!(ask(pod.api, "GET", "/ping", &[]).await?.body == "healthy");
    while let Some(answer) = askers.join_next().await {
        let answer = answer??;
        ensure!(answer.status == 200, "{answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn without_a_token_coffer_does_not_start() -> Result<()> {
    let pod = Pod::new(&[]).await?;
    pod.configure(&[])?;
    let process = pod.fixture.run().start()?;
    ends_with(&process, 2).await?;
    let expected = "`api` has no token to ask of its clients: set `token_file`, or AWS_TOKEN, AWS_SESSION_TOKEN or \
                    AWS_CONTAINER_AUTHORIZATION_TOKEN to the token or to file://PATH";
    ensure!(process.stderr().contains(expected), "{}", process.stderr());

    // As AWS's agent has it: a variable, or the file that it names.
    let file = format!("file://{}", pod.fixture.path("token").display());
    for value in [TOKEN, &file] {
        let sidecar = pod.fixture.start_as(pod.fixture.run().env("AWS_TOKEN", value))?;
        sidecar.ready().await?;
        ensure!(pod.get("/v1/nothing").await?.status == 400, "{value}");
    }
    Ok(())
}

#[tokio::test]
async fn neither_token_nor_value_is_in_a_log_a_metric_or_a_command_line() -> Result<()> {
    let pod = Pod::new(&["ttl: 1s"]).await?;
    let canary = format!("canary{:032x}", fastrand::u128(..));
    pod.fixture.aws.create_secret("prod/db", &canary).await?;
    let sidecar: Sidecar = pod.fixture.start_as(pod.fixture.run().arg("--log-level=trace"))?;
    sidecar.ready().await?;
    pod.json("/v1/prod/db").await?;
    pod.get("/v1/prod/nothing").await?;
    ask(pod.api, "GET", "/v1/prod/db", &[("x-vault-token", "a-wrong-token")]).await?;
    pod.fixture.proxy.fault(Rule::new(Fault::Throttle).operation("GetSecretValue"));
    pod.until_stale("/v1/prod/db", true).await?;
    let (_, metrics) = sidecar.get("/metrics").await?;
    let (_, status) = sidecar.get("/status").await?;
    for (place, text) in [
        ("the log", sidecar.process.stderr()),
        ("the audit log", sidecar.process.stdout()),
        ("metrics", metrics),
        ("status", status),
    ] {
        for secret in [canary.as_str(), TOKEN, "a-wrong-token"] {
            ensure!(!text.contains(secret), "{secret} is in {place}:\n{text}");
        }
    }
    ensure!(sidecar.process.stderr().contains("prod/db"), "{}", sidecar.process.stderr());
    Ok(())
}
