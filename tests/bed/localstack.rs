//! LocalStack, one for each test process.

use std::{
    fs::File,
    io::{Read, Seek},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::OnceCell;

use crate::{eventually, free_port, http_get};

/// The script that installs and runs LocalStack; `--help` tells how to use it by hand.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bed/localstack");

/// Names a LocalStack that is running already, as `http://127.0.0.1:PORT`.
const RUNNING_ELSEWHERE: &str = "COFFER_TEST_LOCALSTACK";

/// Start-up takes a second or two; a busy machine needs longer.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A running LocalStack.
#[derive(Debug)]
pub struct LocalStack {
    url: String,
    /// Not there when LocalStack runs elsewhere. Its standard input, held open here, closes
    /// with this process, however that ends; and then LocalStack ends.
    _child: Option<Child>,
}

impl LocalStack {
    /// The LocalStack of this test process: started at the first call, ended with the process.
    ///
    /// With `COFFER_TEST_LOCALSTACK` set, the one running at that URL.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<LocalStack> = OnceCell::const_new();
        SHARED
            .get_or_try_init(async || match std::env::var(RUNNING_ELSEWHERE) {
                Ok(url) => Self::running_at(&url).await,
                Err(_) => Self::start().await,
            })
            .await
    }

    /// The endpoint of every service, as `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    async fn running_at(url: &str) -> Result<Self> {
        let url = url.trim_end_matches('/').to_owned();
        check_health(&url).await.with_context(|| format!("{RUNNING_ELSEWHERE} names no LocalStack that is ready"))?;
        Ok(Self { url, _child: None })
    }

    async fn start() -> Result<Self> {
        // A first install takes a while, and so its words go to the terminal.
        let installed =
            tokio::task::spawn_blocking(|| Command::new(SCRIPT).arg("install").stdin(Stdio::null()).status());
        let installed = installed.await?.with_context(|| format!("cannot run {SCRIPT}"))?;
        ensure!(installed.success(), "{SCRIPT} install failed, see above");

        let port = free_port()?;
        let mut output = tempfile::tempfile()?;
        let mut child = Command::new(SCRIPT)
            .args(["serve", "--port", &port.to_string(), "--until-stdin-closes"])
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot run {SCRIPT}"))?;
        let url = format!("http://127.0.0.1:{port}");
        let ready = eventually(READY_WITHIN, async || match child.try_wait()? {
            Some(status) => Ok(Err(status)),
            None => check_health(&url).await.map(Ok),
        });
        match ready.await {
            Ok(Ok(())) => Ok(Self { url, _child: Some(child) }),
            Ok(Err(status)) => bail!("LocalStack ended at start ({status}):\n{}", written(&mut output)),
            Err(error) => Err(error.context(format!("LocalStack did not get ready:\n{}", written(&mut output)))),
        }
    }
}

async fn check_health(url: &str) -> Result<()> {
    let (status, body) = http_get(&format!("{url}/_localstack/health")).await?;
    ensure!(status == 200, "{url} answers {status}: {body}");
    Ok(())
}

fn written(output: &mut File) -> String {
    let mut text = String::new();
    match output.rewind().and_then(|()| output.read_to_string(&mut text)) {
        Ok(_) => text,
        Err(error) => format!("(its output cannot be read: {error})"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        Aws, FaultProxy, Outcome, Service, TokenFile,
        aws::{ParameterType, Refusal, xml_text},
    };

    #[tokio::test]
    async fn secrets_live_and_rotate() {
        let aws = Aws::new(LocalStack::shared().await.unwrap().url());
        let get = async |stage: &str| {
            let request = json!({"SecretId": "prod/db", "VersionStage": stage});
            aws.call(Service::SecretsManager, "GetSecretValue", request).await
        };
        aws.create_secret("prod/key", &b"\x00\xff"[..]).await.unwrap();
        let request = json!({"SecretId": "prod/key"});
        let key = aws.call(Service::SecretsManager, "GetSecretValue", request).await.unwrap();
        assert_eq!(key["SecretBinary"], "AP8=");
        let first = aws.create_secret("prod/db", "one").await.unwrap();
        assert!(first.arn.contains(&format!(":{}:secret:prod/db-", aws.account())), "{first:?}");
        assert_eq!(get("AWSCURRENT").await.unwrap()["SecretString"], "one");

        let second = aws.put_secret_value("prod/db", "two").await.unwrap();
        let third = aws.rotate_secret("prod/db", &b"\x00\xff"[..]).await.unwrap();
        assert_eq!(aws.version_at_stage("prod/db", "AWSCURRENT").await.unwrap(), third.version_id);
        assert_eq!(aws.version_at_stage("prod/db", "AWSPREVIOUS").await.unwrap(), second.version_id);
        assert!(aws.version_at_stage("prod/db", "AWSPENDING").await.is_err());
        assert_eq!(get("AWSCURRENT").await.unwrap()["SecretBinary"], "AP8=");
        let request = json!({"SecretIdList": ["prod/db"]});
        let batch = aws.call(Service::SecretsManager, "BatchGetSecretValue", request).await.unwrap();
        assert_eq!(batch["SecretValues"][0]["SecretBinary"], "AP8=", "{batch}");
        assert_eq!(get("AWSPREVIOUS").await.unwrap()["SecretString"], "two");

        aws.delete_secret("prod/db").await.unwrap();
        let refusal = get("AWSCURRENT").await.unwrap_err();
        assert_eq!(refusal.downcast_ref::<Refusal>().unwrap().code, "InvalidRequestException");
        aws.restore_secret("prod/db").await.unwrap();
        get("AWSCURRENT").await.unwrap();

        // Nothing of this is in another test's account.
        let other = Aws::new(LocalStack::shared().await.unwrap().url());
        assert!(other.describe_secret("prod/db").await.is_err());
    }

    #[tokio::test]
    async fn parameters_live() {
        let aws = Aws::new(LocalStack::shared().await.unwrap().url());
        assert_eq!(aws.put_parameter("/app/level", ParameterType::SecureString, "info").await.unwrap(), 1);
        assert_eq!(aws.put_parameter("/app/level", ParameterType::SecureString, "debug").await.unwrap(), 2);
        aws.put_parameter("/app/hosts", ParameterType::StringList, "a,b").await.unwrap();
        aws.label_parameter_version("/app/level", 1, "stable").await.unwrap();
        let request = json!({"Names": ["/app/level:stable", "/app/hosts"], "WithDecryption": true});
        let answer = aws.call(Service::ParameterStore, "GetParameters", request).await.unwrap();
        assert_eq!(answer["Parameters"].as_array().unwrap().len(), 2, "{answer}");
        assert!(answer.to_string().contains(r#""info""#), "{answer}");
        assert_eq!(aws.describe_parameter("/app/hosts").await.unwrap()["Type"], "StringList");
        aws.delete_parameter("/app/level").await.unwrap();
        assert!(aws.describe_parameter("/app/level").await.is_err());
    }

    #[tokio::test]
    async fn events_reach_a_queue() {
        let aws = Aws::new(LocalStack::shared().await.unwrap().url());
        let queue = aws.create_queue("news").await.unwrap();
        let pattern = json!({"source": ["aws.secretsmanager", "aws.ssm"]});
        aws.route_events("news", &pattern, &aws.queue_arn("news")).await.unwrap();
        let detail = json!({"name": "prod/db"});
        aws.put_event("aws.secretsmanager", "Secret Label Updated", "arn:x", &detail).await.unwrap();
        aws.put_event("aws.ec2", "EC2 Instance State-change Notification", "arn:x", &detail).await.unwrap();
        // Parameter Store puts its own on the bus; Secrets Manager, here, does not.
        aws.put_parameter("/app/level", ParameterType::String, "info").await.unwrap();
        aws.create_secret("prod/db", "one").await.unwrap();
        let held = eventually(READY_WITHIN, async || {
            let held = aws.messages_in(&queue).await?;
            ensure!(held == 2, "the queue holds {held} messages");
            Ok(())
        });
        held.await.unwrap();
        let received = aws.call(Service::Sqs, "ReceiveMessage", json!({"QueueUrl": queue, "MaxNumberOfMessages": 10}));
        let received = received.await.unwrap().to_string();
        assert!(received.contains("Secret Label Updated") || received.contains("Parameter Store Change"), "{received}");
        aws.send_message(&queue, "by hand").await.unwrap();
        assert_eq!(aws.messages_in(&queue).await.unwrap(), 3);
        aws.delete_queue(&queue).await.unwrap();
        assert!(aws.messages_in(&queue).await.is_err());
    }

    #[tokio::test]
    async fn the_way_through_the_proxy_is_logged() {
        let localstack = LocalStack::shared().await.unwrap();
        let aws = Aws::new(localstack.url());
        aws.create_secret("prod/db", "one").await.unwrap();
        aws.put_parameter("/app/level", ParameterType::String, "info").await.unwrap();

        let proxy = FaultProxy::start(localstack.url()).unwrap();
        let token = TokenFile::new("system:serviceaccount:shop:api", "sts.amazonaws.com").unwrap();
        let role = aws.role_arn("app");
        let fields = [("RoleArn", &*role), ("RoleSessionName", "shop.api"), ("WebIdentityToken", token.token())];
        let through = Aws::in_account(&proxy.url(), aws.account());
        let issued = through.query(Service::Sts, "AssumeRoleWithWebIdentity", &fields).await.unwrap();

        // With the role's own key, which LocalStack takes for the same account.
        let pod = Aws::in_account(&proxy.url(), &xml_text(&issued, "AccessKeyId").unwrap());
        let request = json!({"SecretIdList": ["prod/db", "prod/none"]});
        let answer = pod.call(Service::SecretsManager, "BatchGetSecretValue", request).await.unwrap();
        assert_eq!(answer["SecretValues"][0]["SecretString"], "one", "{answer}");
        assert_eq!(answer["Errors"][0]["SecretId"], "prod/none", "{answer}");
        let request = json!({"Path": "/app", "Recursive": true});
        let answer = pod.call(Service::ParameterStore, "GetParametersByPath", request).await.unwrap();
        assert_eq!(answer["Parameters"][0]["Value"], "info", "{answer}");

        let calls = proxy.calls();
        let operations: Vec<_> = calls.iter().map(|call| call.operation.as_str()).collect();
        assert_eq!(operations, ["AssumeRoleWithWebIdentity", "BatchGetSecretValue", "GetParametersByPath"]);
        assert_eq!(calls[0].request["WebIdentityToken"], token.token());
        for call in &calls {
            assert_eq!((call.status, &call.outcome), (Some(200), &Outcome::Relayed));
            assert!(call.request_id.is_some());
        }
        for call in &calls[1..] {
            assert_eq!(call.role.as_deref(), Some(&*role));
            assert!(call.session.as_ref().unwrap().ends_with(":assumed-role/app/shop.api"), "{call:?}");
        }
    }
}
