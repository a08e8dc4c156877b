//! Changes that are told by EventBridge through a queue, with a refresh too far off to find them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bed::{Fault, Process, Program, Rule, Times, aws::ParameterType, eventually, unique_name};
use serde_json::{Value, json};

use crate::fixture::{Fixture, SOON, Sidecar};

const SECRET: &str = "secretsmanager:prod/db";
const PARAMETER: &str = "parameterstore:/prod/level";
/// The promise is two seconds; a busy machine gets some more before it counts as a failure.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A pod that reads a secret and a parameter once an hour, and a queue with the news of both.
struct Bed {
    fixture: Fixture,
    queue: String,
    secret_arn: String,
}

impl Bed {
    async fn new() -> Result<Self> {
        let fixture = Fixture::new().await?;
        let secret_arn = fixture.aws.create_secret("prod/db", "old").await?.arn;
        fixture.aws.put_parameter("/prod/level", ParameterType::SecureString, "old").await?;
        let name = unique_name("push");
        let queue = fixture.aws.create_queue(&name).await?;
        let pattern = json!({"source": ["aws.secretsmanager", "aws.ssm"]});
        fixture.aws.route_events(&name, &pattern, &fixture.aws.queue_arn(&name)).await?;
        let files = [format!("{{name: db, from: '{SECRET}'}}"), format!("{{name: level, from: '{PARAMETER}'}}")];
        let volume = fixture.volume_text("volume", files);
        fixture.write_config(&format!("refresh: 1h\npush: {{sqs: '{queue}', spread: 100ms}}\nvolumes:\n{volume}"))?;
        Ok(Self { fixture, queue, secret_arn })
    }

    /// Changes the secret, without a word to anyone.
    async fn change_secret(&self, value: &str) -> Result<Value> {
        let version = self.fixture.aws.put_secret_value("prod/db", value).await?.version_id;
        Ok(json!({"name": "prod/db", "labelUpdated": "AWSCURRENT", "versionId": version}))
    }

    /// Says so on the bus, as Secrets Manager does.
    async fn tell(&self, detail: &Value) -> Result<()> {
        let kind = "Secret Label Updated";
        self.fixture.aws.put_event("aws.secretsmanager", kind, &self.secret_arn, detail).await
    }

    /// The whole event, as EventBridge gives it to a queue.
    fn event(&self, detail: &Value) -> Value {
        json!({
            "version": "0", "id": unique_name("event"), "detail-type": "Secret Label Updated",
            "source": "aws.secretsmanager", "account": self.fixture.aws.account(), "time": "2026-02-06T16:43:48Z",
            "region": bed::aws::REGION, "resources": [self.secret_arn], "detail": detail,
        })
    }

    async fn send(&self, body: &str) -> Result<()> {
        self.fixture.aws.send_message(&self.queue, body).await
    }

    async fn is_drained(&self) -> Result<()> {
        eventually(SOON, async || {
            let left = self.fixture.aws.messages_in(&self.queue).await?;
            ensure!(left == 0, "{left} messages are left");
            Ok(())
        })
        .await
    }

    /// Waits until a file of the volume holds that, for less than any refresh would take.
    async fn holds_at_once(&self, name: &str, expected: &str) -> Result<()> {
        eventually(AT_ONCE, async || {
            let found = self.fixture.read(name)?;
            ensure!(found == expected, "{name} holds {found:?}, not {expected:?}");
            Ok(())
        })
        .await
    }

    fn listen(&self) -> Result<Listener> {
        let program = Program::new("push-listener").arg(self.fixture.config_path());
        let environment = self.fixture.aws.environment(&self.fixture.proxy.url());
        let program = environment.into_iter().fold(program, |program, (name, value)| program.env(name, value));
        Ok(Listener(program.start()?))
    }
}

/// What `/status` tells of the queue.
async fn push_status(sidecar: &Sidecar) -> Result<Value> {
    let (status, body) = sidecar.get("/status").await?;
    ensure!(status == 200, "{status}: {body}");
    let body: Value = serde_json::from_str(&body)?;
    ensure!(body["push"].is_object(), "nothing of push in {body:#}");
    Ok(body["push"].clone())
}

async fn push_becomes(sidecar: &Sidecar, state: &str) -> Result<Value> {
    let found = eventually(SOON, async || {
        let push = push_status(sidecar).await?;
        ensure!(push["state"] == state, "{push:#}");
        Ok(push)
    });
    found.await.with_context(|| format!("push is not {state}\n{}", sidecar.process.stderr()))
}

#[tokio::test]
async fn an_event_changes_the_file_long_before_the_refresh() -> Result<()> {
    let bed = Bed::new().await?;
    let sidecar = bed.fixture.ready().await?;
    push_becomes(&sidecar, "ok").await?;
    let detail = bed.change_secret("new").await?;
    bed.tell(&detail).await?;
    bed.holds_at_once("db", "new").await?;
    bed.is_drained().await?;
    let push = push_status(&sidecar).await?;
    ensure!(push["events"] == 1 && push["rejected"] == 0 && push["last_event"].is_u64(), "{push:#}");
    let metrics = sidecar.metrics().await?;
    ensure!(metrics.sum("coffer_push_up", &[])? == 1.0, "{metrics}");
    ensure!(metrics.sum("coffer_push_events_total", &[("result", "change")])? == 1.0, "{metrics}");
    Ok(())
}

#[tokio::test]
async fn a_changed_parameter_tells_of_itself() -> Result<()> {
    let bed = Bed::new().await?;
    let sidecar = bed.fixture.ready().await?;
    push_becomes(&sidecar, "ok").await?;
    // LocalStack's Parameter Store puts the event on the bus by itself.
    bed.fixture.aws.put_parameter("/prod/level", ParameterType::SecureString, "new").await?;
    bed.holds_at_once("level", "new").await?;
    bed.is_drained().await
}

#[tokio::test]
async fn an_event_of_others_asks_for_nothing_and_one_in_the_envelope_of_sns_counts() -> Result<()> {
    let bed = Bed::new().await?;
    let sidecar = bed.fixture.ready().await?;
    push_becomes(&sidecar, "ok").await?;
    bed.fixture.proxy.clear_log();
    let detail = bed.change_secret("new").await?;
    let arn = bed.secret_arn.replace("prod/db", "prod/other");
    let other = json!({"name": "prod/other", "labelUpdated": "AWSCURRENT", "versionId": "x"});
    bed.fixture.aws.put_event("aws.secretsmanager", "Secret Label Updated", &arn, &other).await?;
    let pending = json!({"name": "prod/db", "labelUpdated": "AWSPENDING", "versionId": "x"});
    bed.tell(&pending).await?;
    bed.is_drained().await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked: Vec<String> = bed
        .fixture
        .operations()
        .into_iter()
        .filter(|asked| asked.contains("Secret") || asked.contains("Param"))
        .collect();
    ensure!(asked.is_empty(), "asked for what nobody reads: {asked:?}");
    ensure!(bed.fixture.read("db")? == "old");

    let envelope = json!({"Type": "Notification", "Message": bed.event(&detail).to_string()});
    bed.send(&envelope.to_string()).await?;
    bed.holds_at_once("db", "new").await
}

#[tokio::test]
async fn a_lost_queue_is_told_and_the_schedule_goes_on() -> Result<()> {
    let bed = Bed::new().await?;
    let config = std::fs::read_to_string(bed.fixture.config_path())?;
    bed.fixture.write_config(&config.replace("refresh: 1h", "refresh: 1s"))?;
    let sidecar = bed.fixture.ready().await?;
    push_becomes(&sidecar, "ok").await?;
    bed.fixture.aws.delete_queue(&bed.queue).await?;
    let push = push_becomes(&sidecar, "failing").await?;
    let why = push["why"].as_str().unwrap_or_default();
    ensure!(why.contains("create the queue arn:aws:sqs:"), "{push:#}");
    bed.change_secret("new").await?;
    bed.fixture.holds("db", "new").await?;
    ensure!(sidecar.get("/readyz").await?.0 == 200, "the application would be cut off for the want of a queue");
    Ok(())
}

#[tokio::test]
async fn a_message_that_is_no_event_is_dropped_and_counted() -> Result<()> {
    let bed = Bed::new().await?;
    let sidecar = bed.fixture.ready().await?;
    push_becomes(&sidecar, "ok").await?;
    bed.send("s3cr3t").await?;
    bed.send(r#"{"source": "aws.ec2", "detail-type": "EC2 Instance State-change Notification", "detail": {}}"#).await?;
    bed.is_drained().await?;
    let push = push_status(&sidecar).await?;
    ensure!(push["rejected"] == 2 && push["events"] == 0 && push["state"] == "ok", "{push:#}");
    ensure!(!sidecar.process.stderr().contains("s3cr3t"), "the log repeats a message");
    let detail = bed.change_secret("new").await?;
    bed.tell(&detail).await?;
    bed.holds_at_once("db", "new").await
}

/// A running `push-listener`: what it has handed on, and what it knows of the queue.
struct Listener(Process);

impl Listener {
    fn lines(&self, kind: &str) -> Result<Vec<Value>> {
        let text = self.0.stdout();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole.lines().map(|line| serde_json::from_str::<Value>(line).context("a line is not JSON"));
        let found: Result<Vec<Value>> = lines.collect();
        Ok(found?.into_iter().filter_map(|mut line| line.get_mut(kind).map(Value::take)).collect())
    }

    /// The changes of each time that any were handed on.
    fn handed_on(&self) -> Result<Vec<Vec<String>>> {
        let texts = |changes: Value| serde_json::from_value(changes).context("changes are texts");
        self.lines("changes")?.into_iter().map(texts).collect()
    }

    async fn hands_on(&self, times: usize) -> Result<Vec<Vec<String>>> {
        let found = eventually(SOON, async || {
            let found = self.handed_on()?;
            ensure!(found.len() >= times, "handed on {} times, not {times}: {found:?}", found.len());
            Ok(found)
        });
        found.await.with_context(|| self.0.stderr())
    }

    /// Waits until the last that it knows is that.
    async fn knows(&self, what: impl Fn(&Value) -> bool) -> Result<Value> {
        let found = eventually(SOON, async || {
            let last = self.lines("status")?.pop().context("no status yet")?;
            ensure!(what(&last), "{last:#}");
            Ok(last)
        });
        found.await.with_context(|| self.0.stderr())
    }

    async fn becomes(&self, state: &str) -> Result<Value> {
        self.knows(|status| status["state"] == state).await
    }
}

#[tokio::test]
async fn the_listener_hands_on_events_once_and_deletes_them() -> Result<()> {
    let bed = Bed::new().await?;
    let listener = bed.listen()?;
    listener.becomes("ok").await?;
    let told = Instant::now();
    bed.tell(&json!({"name": "prod/db", "labelUpdated": "AWSCURRENT", "versionId": "v2"})).await?;
    let changes = listener.hands_on(1).await?;
    ensure!(told.elapsed() < AT_ONCE, "took {:?}", told.elapsed());
    let [change] = &changes[0][..] else { anyhow::bail!("{changes:?}") };
    for words in ["prod/db", &bed.secret_arn, "AWSCURRENT", "v2", bed.fixture.aws.account(), bed::aws::REGION] {
        ensure!(change.contains(words), "no {words} in {change}");
    }
    bed.is_drained().await?;

    // Parameter Store's own event, and a mess beside it.
    bed.fixture.aws.put_parameter("/prod/level", ParameterType::SecureString, "new").await?;
    let changes = listener.hands_on(2).await?;
    ensure!(changes[1][0].contains("/prod/level"), "{changes:?}");
    bed.send("s3cr3t").await?;
    let status = listener.knows(|status| status["rejected"] == 1).await?;
    ensure!(status["events"] == 2 && status["state"] == "ok", "{status:#}");
    bed.is_drained().await?;
    ensure!(!listener.0.stderr().contains("s3cr3t") && !listener.0.stdout().contains("s3cr3t"), "repeats a message");
    Ok(())
}

#[tokio::test]
async fn the_listener_collapses_doubles_of_one_read() -> Result<()> {
    let bed = Bed::new().await?;
    let event = bed.event(&json!({"name": "prod/db", "labelUpdated": "AWSCURRENT", "versionId": "v2"})).to_string();
    for _ in 0..5 {
        bed.send(&event).await?;
    }
    let listener = bed.listen()?;
    listener.knows(|status| status["events"] == 5).await?;
    bed.is_drained().await?;
    let handed_on = listener.handed_on()?;
    ensure!(handed_on.iter().all(|changes| changes.len() == 1), "{handed_on:?}");
    let receives = bed.fixture.proxy.calls_to("ReceiveMessage");
    ensure!(receives[0].request["WaitTimeSeconds"] == 0, "the first read waits: {:?}", receives[0].request);
    ensure!(handed_on.len() <= receives.len(), "{handed_on:?}");
    Ok(())
}

#[tokio::test]
async fn the_listener_waits_long_for_messages_and_does_not_spin() -> Result<()> {
    let bed = Bed::new().await?;
    let listener = bed.listen()?;
    listener.becomes("ok").await?;
    // Longer than an attempt of other calls may take.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let receives = bed.fixture.proxy.calls_to("ReceiveMessage");
    ensure!(receives.len() == 2, "{} reads in 12 s", receives.len());
    ensure!(receives[1].request["WaitTimeSeconds"] == 20, "{:?}", receives[1].request);
    listener.becomes("ok").await?;

    bed.fixture.proxy.fault(Rule::new(Fault::Body("{}".to_owned())).operation("ReceiveMessage"));
    bed.fixture.proxy.clear_log();
    tokio::time::sleep(Duration::from_secs(12)).await;
    let reads = bed.fixture.proxy.count("ReceiveMessage");
    ensure!(reads <= 12, "{reads} reads in 12 s of an endpoint that does not wait");
    Ok(())
}

#[tokio::test]
async fn the_listener_bears_failures_and_says_what_mends_them() -> Result<()> {
    let bed = Bed::new().await?;
    let proxy = &bed.fixture.proxy;
    let denied = proxy.fault(Rule::new(Fault::AccessDenied).operation("ReceiveMessage"));
    let listener = bed.listen()?;
    let status = listener.becomes("failing").await?;
    let why = status["why"].as_str().unwrap_or_default();
    ensure!(status["code"] == "AccessDeniedException", "{status:#}");
    ensure!(why.contains("allow sqs:ReceiveMessage on arn:aws:sqs:eu-west-1:") && why.contains("process"), "{why}");
    proxy.clear_fault(denied);
    listener.becomes("ok").await?;

    eventually(SOON, async || {
        let reads = proxy.calls_to("ReceiveMessage");
        let waits = reads.last().is_some_and(|read| read.outcome == bed::Outcome::Pending);
        ensure!(waits, "no read is under way: {reads:?}");
        Ok(())
    })
    .await?;
    // The first event ends the read that is under way; then the bad minute starts. The one set last
    // comes first: two bad answers and a throttled one are failures, the others are tried again.
    for (fault, times) in [(Fault::Throttle, 1), (Fault::Garbage, 2), (Fault::ExpiredToken, 1), (Fault::Cut, 1)] {
        proxy.fault(Rule::new(fault).operation("ReceiveMessage").times(Times::First(times)));
    }
    bed.tell(&json!({"name": "prod/db", "versionId": "v2"})).await?;
    let status = listener.becomes("failing").await?;
    ensure!(status["events"] == 1, "{status:#}");
    bed.tell(&json!({"name": "prod/db", "versionId": "v3"})).await?;
    let changes = listener.hands_on(2).await?;
    ensure!(changes[0][0].contains("v2") && changes[1][0].contains("v3"), "{changes:?}");
    listener.becomes("ok").await?;

    bed.fixture.aws.delete_queue(&bed.queue).await?;
    let status = listener.becomes("failing").await?;
    let why = status["why"].as_str().unwrap_or_default();
    ensure!(why.contains("create the queue arn:aws:sqs:eu-west-1:"), "{status:#}");
    let name = bed.queue.rsplit('/').next().context("a URL has slashes")?;
    bed.fixture.aws.create_queue(name).await?;
    listener.becomes("ok").await?;
    Ok(())
}

#[tokio::test]
async fn the_listener_hands_on_once_what_it_may_not_delete() -> Result<()> {
    let bed = Bed::new().await?;
    let denied = bed.fixture.proxy.fault(Rule::new(Fault::AccessDenied).operation("DeleteMessageBatch"));
    let listener = bed.listen()?;
    listener.becomes("ok").await?;
    bed.tell(&json!({"name": "prod/db"})).await?;
    listener.hands_on(1).await?;
    let status = listener.becomes("failing").await?;
    ensure!(status["why"].as_str().unwrap_or_default().contains("allow sqs:DeleteMessage on"), "{status:#}");
    // It comes again when it is no longer hidden; by then it may be deleted.
    bed.fixture.asked("DeleteMessageBatch", 1).await?;
    bed.fixture.proxy.clear_fault(denied);
    bed.fixture.proxy.clear_log();
    bed.fixture.asked("DeleteMessageBatch", 1).await?;
    bed.is_drained().await?;
    listener.becomes("ok").await?;
    let handed_on = listener.handed_on()?;
    ensure!(handed_on.len() == 1, "{handed_on:?}");
    Ok(())
}
