//! A small AWS client to seed an endpoint and to ask what it holds.
//!
//! It speaks the wire protocol itself, so that what Coffer does through the AWS SDK is set up
//! and judged by other code. LocalStack reads an account from the credentials and checks no
//! signature; nothing here is signed.

use std::fmt;

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use http_body_util::Full;
use hyper::{Request, Response, body::Bytes, header};
use serde_json::{Map, Value, json};

use crate::{
    Service, form,
    http::{self, HttpClient},
    unique_account, unique_id,
};

/// The region that everything in the bed happens in, unless told otherwise.
pub const REGION: &str = "eu-west-1";

/// A client of one endpoint, in one AWS account.
///
/// A client keeps connections that belong to the runtime it was first used in, so each test
/// makes its own.
#[derive(Clone, Debug)]
pub struct Aws {
    endpoint: String,
    account: String,
    region: String,
    http: HttpClient,
}

/// An answer of AWS that says no.
///
/// The cause in the errors of [`Aws`]: `error.downcast_ref::<Refusal>()` finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// AWS's name for the error, such as `ResourceNotFoundException`; empty if the answer
    /// was not in AWS's form.
    pub code: String,
    /// AWS's words; the whole body if it was not in AWS's form.
    pub message: String,
}

/// The value of a secret, text or bytes.
#[derive(Clone, Copy, Debug)]
pub enum SecretValue<'a> {
    /// Goes to `SecretString`.
    Text(&'a str),
    /// Goes to `SecretBinary`.
    Binary(&'a [u8]),
}

/// A version of a secret that was just made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretVersion {
    /// The secret's full ARN, with its random six characters.
    pub arn: String,
    /// The version's id.
    pub version_id: String,
}

/// The type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterType {
    /// Plain text.
    String,
    /// Texts with commas between.
    StringList,
    /// Text that AWS keeps encrypted.
    SecureString,
}

impl Aws {
    /// A client of an endpoint, in a new account of its own: no other test's secrets are there.
    pub fn new(endpoint: &str) -> Self {
        Self::in_account(endpoint, &unique_account())
    }

    /// A client of an endpoint, in the account with these twelve digits.
    pub fn in_account(endpoint: &str, account: &str) -> Self {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Self { endpoint, account: account.to_owned(), region: REGION.to_owned(), http: http::client() }
    }

    /// The same in another region.
    pub fn in_region(self, region: &str) -> Self {
        Self { region: region.to_owned(), ..self }
    }

    /// The account's twelve digits.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The ARN of a role in this account. The role need not be made first.
    pub fn role_arn(&self, role: &str) -> String {
        format!("arn:aws:iam::{}:role/{role}", self.account)
    }

    /// The environment in which a program reaches this account at an endpoint, which may be a
    /// [`FaultProxy`](crate::FaultProxy)'s.
    ///
    /// The access key is the account's number: so LocalStack takes it.
    pub fn environment(&self, endpoint: &str) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", endpoint.to_owned()),
            ("AWS_REGION", self.region.clone()),
            ("AWS_ACCESS_KEY_ID", self.account.clone()),
            ("AWS_SECRET_ACCESS_KEY", "not-verified".to_owned()),
        ]
    }

    /// Makes a secret.
    pub async fn create_secret<'a>(&self, name: &str, value: impl Into<SecretValue<'a>>) -> Result<SecretVersion> {
        let mut request = value.into().fields();
        request.insert("Name".to_owned(), name.into());
        request.insert("ClientRequestToken".to_owned(), unique_id().into());
        self.secret_version("CreateSecret", request.into()).await
    }

    /// Gives a secret a new value, which is `AWSCURRENT` from now on.
    pub async fn put_secret_value<'a>(&self, secret: &str, value: impl Into<SecretValue<'a>>) -> Result<SecretVersion> {
        self.put_secret_version(secret, value, &unique_id(), &["AWSCURRENT"]).await
    }

    /// Gives a secret a new version, of a given id (32 to 64 characters) and with given stages.
    pub async fn put_secret_version<'a>(
        &self,
        secret: &str,
        value: impl Into<SecretValue<'a>>,
        version_id: &str,
        stages: &[&str],
    ) -> Result<SecretVersion> {
        let mut request = value.into().fields();
        request.insert("SecretId".to_owned(), secret.into());
        request.insert("ClientRequestToken".to_owned(), version_id.into());
        request.insert("VersionStages".to_owned(), json!(stages));
        self.secret_version("PutSecretValue", request.into()).await
    }

    /// Moves a stage from one version of a secret to another; without the one it is only
    /// added, without the other only removed.
    pub async fn update_secret_version_stage(
        &self,
        secret: &str,
        stage: &str,
        from_version: Option<&str>,
        to_version: Option<&str>,
    ) -> Result<()> {
        let mut request = json!({"SecretId": secret, "VersionStage": stage});
        if let Some(version) = from_version {
            request["RemoveFromVersionId"] = version.into();
        }
        if let Some(version) = to_version {
            request["MoveToVersionId"] = version.into();
        }
        self.call(Service::SecretsManager, "UpdateSecretVersionStage", request).await?;
        Ok(())
    }

    /// Does what a rotation function does: a pending version first, then `AWSCURRENT` moves to
    /// it and `AWSPREVIOUS` to the one before.
    pub async fn rotate_secret<'a>(&self, secret: &str, value: impl Into<SecretValue<'a>>) -> Result<SecretVersion> {
        let before = self.version_at_stage(secret, "AWSCURRENT").await?;
        let pending = self.put_secret_version(secret, value, &unique_id(), &["AWSPENDING"]).await?;
        let new = &pending.version_id;
        self.update_secret_version_stage(secret, "AWSCURRENT", Some(&before), Some(new)).await?;
        self.update_secret_version_stage(secret, "AWSPENDING", Some(new), None).await?;
        Ok(pending)
    }

    /// The id of the version that holds a stage.
    pub async fn version_at_stage(&self, secret: &str, stage: &str) -> Result<String> {
        let description = self.describe_secret(secret).await?;
        let versions = description["VersionIdsToStages"].as_object();
        let holder = versions
            .into_iter()
            .flatten()
            .find(|(_, stages)| stages.as_array().is_some_and(|stages| stages.iter().any(|held| held == stage)));
        let (version, _) = holder.with_context(|| format!("no version of {secret} is at stage {stage}"))?;
        Ok(version.clone())
    }

    /// Schedules a secret's deletion, in seven days; until then it cannot be read.
    pub async fn delete_secret(&self, secret: &str) -> Result<()> {
        let request = json!({"SecretId": secret, "RecoveryWindowInDays": 7});
        self.call(Service::SecretsManager, "DeleteSecret", request).await?;
        Ok(())
    }

    /// Takes a scheduled deletion back.
    pub async fn restore_secret(&self, secret: &str) -> Result<()> {
        self.call(Service::SecretsManager, "RestoreSecret", json!({"SecretId": secret})).await?;
        Ok(())
    }

    /// A secret's metadata, as `DescribeSecret` answers it.
    pub async fn describe_secret(&self, secret: &str) -> Result<Value> {
        self.call(Service::SecretsManager, "DescribeSecret", json!({"SecretId": secret})).await
    }

    /// Makes or overwrites a parameter: its new version number.
    pub async fn put_parameter(&self, name: &str, type_: ParameterType, value: &str) -> Result<i64> {
        let request = json!({"Name": name, "Type": type_.name(), "Value": value, "Overwrite": true});
        let answer = self.call(Service::ParameterStore, "PutParameter", request).await?;
        answer["Version"].as_i64().with_context(|| format!("no Version in {answer}"))
    }

    /// Puts a label on a version of a parameter.
    pub async fn label_parameter_version(&self, name: &str, version: i64, label: &str) -> Result<()> {
        let request = json!({"Name": name, "ParameterVersion": version, "Labels": [label]});
        self.call(Service::ParameterStore, "LabelParameterVersion", request).await?;
        Ok(())
    }

    /// Deletes a parameter, with all its versions.
    pub async fn delete_parameter(&self, name: &str) -> Result<()> {
        self.call(Service::ParameterStore, "DeleteParameter", json!({"Name": name})).await?;
        Ok(())
    }

    /// A parameter's metadata, as an item of `DescribeParameters`.
    pub async fn describe_parameter(&self, name: &str) -> Result<Value> {
        let filter = json!({"Key": "Name", "Option": "Equals", "Values": [name]});
        let request = json!({"ParameterFilters": [filter]});
        let mut answer = self.call(Service::ParameterStore, "DescribeParameters", request).await?;
        let found = answer["Parameters"].get_mut(0).map(Value::take);
        found.with_context(|| format!("there is no parameter {name}"))
    }

    /// Makes a queue: its URL.
    pub async fn create_queue(&self, name: &str) -> Result<String> {
        let answer = self.call(Service::Sqs, "CreateQueue", json!({"QueueName": name})).await?;
        let url = answer["QueueUrl"].as_str().map(str::to_owned);
        url.with_context(|| format!("no QueueUrl in {answer}"))
    }

    /// The ARN of a queue in this account.
    pub fn queue_arn(&self, name: &str) -> String {
        format!("arn:aws:sqs:{}:{}:{name}", self.region, self.account)
    }

    /// Puts a message into a queue.
    pub async fn send_message(&self, queue_url: &str, body: &str) -> Result<()> {
        self.call(Service::Sqs, "SendMessage", json!({"QueueUrl": queue_url, "MessageBody": body})).await?;
        Ok(())
    }

    /// How many messages a queue holds, those included that a reader has and did not delete yet.
    pub async fn messages_in(&self, queue_url: &str) -> Result<u64> {
        let counts = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
        let request = json!({"QueueUrl": queue_url, "AttributeNames": counts});
        let answer = self.call(Service::Sqs, "GetQueueAttributes", request).await?;
        counts.into_iter().try_fold(0, |sum, count| {
            let number = answer["Attributes"][count].as_str().with_context(|| format!("no {count} in {answer}"))?;
            Ok(sum + number.parse::<u64>()?)
        })
    }

    /// Deletes a queue and all that it holds.
    pub async fn delete_queue(&self, queue_url: &str) -> Result<()> {
        self.call(Service::Sqs, "DeleteQueue", json!({"QueueUrl": queue_url})).await?;
        Ok(())
    }

    /// Sends the events that match a pattern to a queue from now on.
    pub async fn route_events(&self, rule: &str, pattern: &Value, queue_arn: &str) -> Result<()> {
        let request = json!({"Name": rule, "EventPattern": pattern.to_string(), "State": "ENABLED"});
        self.call(Service::EventBridge, "PutRule", request).await?;
        let request = json!({"Rule": rule, "Targets": [{"Id": "queue", "Arn": queue_arn}]});
        let answer = self.call(Service::EventBridge, "PutTargets", request).await?;
        ensure!(answer["FailedEntryCount"].as_u64().unwrap_or_default() == 0, "PutTargets: {answer}");
        Ok(())
    }

    /// Puts an event on the default bus, as a service of AWS does.
    pub async fn put_event(&self, source: &str, detail_type: &str, resource: &str, detail: &Value) -> Result<()> {
        let detail = detail.to_string();
        let entry = json!({"Source": source, "DetailType": detail_type, "Resources": [resource], "Detail": detail});
        let answer = self.call(Service::EventBridge, "PutEvents", json!({"Entries": [entry]})).await?;
        ensure!(answer["FailedEntryCount"] == 0, "PutEvents: {answer}");
        Ok(())
    }

    /// Calls an operation of a service that speaks JSON: its answer.
    ///
    /// # Errors
    /// A [`Refusal`] if AWS answers anything but 2xx.
    pub async fn call(&self, service: Service, operation: &str, request: Value) -> Result<Value> {
        let prefix = service.target_prefix().with_context(|| format!("{service:?} does not speak JSON"))?;
        let request = self
            .request(service, "application/x-amz-json-1.1")
            .header("x-amz-target", format!("{prefix}.{operation}"))
            .body(Full::from(request.to_string()))?;
        let answer = self.send(operation, request).await?;
        // Some operations answer nothing at all.
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer).with_context(|| format!("{operation}: the answer is not JSON"))
    }

    /// Calls an operation of a service that speaks the query protocol (STS, IAM): its answer,
    /// as XML.
    ///
    /// # Errors
    /// A [`Refusal`] if AWS answers anything but 2xx.
    pub async fn query(&self, service: Service, action: &str, fields: &[(&str, &str)]) -> Result<String> {
        let version = service.query_version().with_context(|| format!("{service:?} takes no queries"))?;
        let frame = [("Action", action), ("Version", version)];
        let body = form::encode(frame.into_iter().chain(fields.iter().copied()));
        let request = self.request(service, "application/x-www-form-urlencoded").body(Full::from(body))?;
        let answer = self.send(action, request).await?;
        String::from_utf8(answer.into()).with_context(|| format!("{action}: the answer is not text"))
    }

    async fn secret_version(&self, operation: &str, request: Value) -> Result<SecretVersion> {
        let answer = self.call(Service::SecretsManager, operation, request).await?;
        let field = |name: &str| {
            let text = answer[name].as_str().map(str::to_owned);
            text.with_context(|| format!("{operation}: no {name} in {answer}"))
        };
        Ok(SecretVersion { arn: field("ARN")?, version_id: field("VersionId")? })
    }

    fn request(&self, service: Service, content_type: &str) -> hyper::http::request::Builder {
        let scope = format!("{}/20260101/{}/{}/aws4_request", self.account, self.region, service.signing_name());
        let authorization = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0");
        Request::post(format!("{}/", self.endpoint))
            .header(header::AUTHORIZATION, authorization)
            .header(header::CONTENT_TYPE, content_type)
    }

    async fn send(&self, operation: &str, request: Request<Full<Bytes>>) -> Result<Bytes> {
        let answer = http::exchange(&self.http, request).await.with_context(|| operation.to_owned())?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        Err(Refusal::read(&answer)).with_context(|| operation.to_owned())
    }
}

impl Refusal {
    fn read(answer: &Response<Bytes>) -> Self {
        let status = answer.status().as_u16();
        let body = String::from_utf8_lossy(answer.body());
        let (code, message) = match serde_json::from_str::<Value>(&body) {
            Ok(json) => {
                let field = |name: &str| json[name].as_str().map(str::to_owned);
                (field("__type"), field("message").or_else(|| field("Message")))
            }
            Err(_) => (xml_text(&body, "Code"), xml_text(&body, "Message")),
        };
        Self {
            status,
            code: code.unwrap_or_default().trim().to_owned(),
            message: message.map_or_else(|| body.trim().to_owned(), |message| message.trim().to_owned()),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.code, self.message)
    }
}

impl std::error::Error for Refusal {}

impl SecretValue<'_> {
    fn fields(self) -> Map<String, Value> {
        let (name, value) = match self {
            Self::Text(text) => ("SecretString", text.to_owned()),
            Self::Binary(bytes) => ("SecretBinary", BASE64_STANDARD.encode(bytes)),
        };
        Map::from_iter([(name.to_owned(), value.into())])
    }
}

impl<'a> From<&'a str> for SecretValue<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for SecretValue<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [u8]> for SecretValue<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Binary(bytes)
    }
}

impl ParameterType {
    fn name(self) -> &'static str {
        match self {
            Self::String => "String",
            Self::StringList => "StringList",
            Self::SecureString => "SecureString",
        }
    }
}

/// The text of the first element of that name in an XML answer of AWS, which has no
/// attributes and repeats no name that the bed asks for.
pub(crate) fn xml_text(xml: &str, element: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{element}>"))?;
    let (text, _) = rest.split_once(&format!("</{element}>"))?;
    Some(text.to_owned())
}
