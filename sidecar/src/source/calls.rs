//! The calls themselves, each turned from the SDK's shapes into ours at once.

use std::collections::HashMap;
use std::time::SystemTime;

use aws_sdk_secretsmanager as secretsmanager;
use aws_sdk_ssm as ssm;
use aws_types::SdkConfig;
use aws_types::request_id::RequestId;
use coffer_runtime::Secret;
use coffer_runtime::aws::{AwsError, Class, UserAgent};

use super::{Answer, Fetched, ParameterQuery, SecretQuery, WholeParameter, WholeSecret};
use crate::render::Value;
use crate::spec::{ParameterRef, ParameterVersion, PathRef, SecretRef, SecretVersion};

/// Most pages that one path is read to: 10,000 pages of 10 are ten times what an account may hold
/// under one path in the standard tier, and a server that hands out tokens for ever is not followed.
const PAGES_MAX: usize = 10_000;

pub(super) mod action {
    pub(in crate::source) const GET_SECRET: &str = "secretsmanager:GetSecretValue";
    pub(in crate::source) const BATCH: &str = "secretsmanager:BatchGetSecretValue";
    pub(in crate::source) const DESCRIBE: &str = "secretsmanager:DescribeSecret";
    pub(in crate::source) const GET_PARAMETER: &str = "ssm:GetParameter";
    pub(in crate::source) const GET_PARAMETERS: &str = "ssm:GetParameters";
    pub(in crate::source) const GET_BY_PATH: &str = "ssm:GetParametersByPath";

    /// What gives the value of that reference.
    pub(in crate::source) fn of(reference: &crate::spec::Reference) -> &'static str {
        match reference {
            crate::spec::Reference::Secret(_) => GET_SECRET,
            crate::spec::Reference::Parameter(_) => GET_PARAMETERS,
            crate::spec::Reference::Path(_) => GET_BY_PATH,
        }
    }
}

/// The clients of one identity in one region.
#[derive(Debug)]
pub(super) struct Clients {
    secrets: secretsmanager::Client,
    parameters: ssm::Client,
}

/// What DescribeSecret tells without the value.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// The VersionId that carries each staging label.
    stages: HashMap<String, String>,
    /// When AWS rotates the secret next, if it does.
    pub(super) next_rotation: Option<SystemTime>,
}

impl Head {
    /// The VersionId that a reference means now.
    pub(super) fn version<'a>(&'a self, version: &'a SecretVersion) -> Option<&'a str> {
        match version {
            SecretVersion::Current => self.stages.get("AWSCURRENT").map(String::as_str),
            SecretVersion::Stage(stage) => self.stages.get(stage).map(String::as_str),
            SecretVersion::Id(id) => Some(id),
        }
    }
}

/// A page of BatchGetSecretValue.
pub(super) struct BatchPage {
    pub(super) found: Vec<BatchEntry>,
    /// AWS's `SecretId`, and what it says of it.
    pub(super) failed: Vec<(String, AwsError)>,
    pub(super) next: Option<String>,
}

/// A secret that a batch found.
pub(super) struct BatchEntry {
    pub(super) name: String,
    pub(super) fetched: Fetched,
}

impl BatchEntry {
    /// Whether `id`, a name or an ARN with or without its random suffix, means this secret.
    pub(super) fn is(&self, id: &str) -> bool {
        let arn = self.fetched.arn.as_deref().unwrap_or_default();
        id == self.name || id == arn || (id.starts_with("arn:") && without_suffix(arn) == id)
    }
}

/// What `ask` could not find an answer for, with the reason for each.
pub(super) type Missing = Vec<(ParameterRef, AwsError)>;

impl Clients {
    pub(super) fn new(config: &SdkConfig) -> Self {
        let secrets = secretsmanager::config::Builder::from(config).interceptor(UserAgent).build();
        let parameters = ssm::config::Builder::from(config).interceptor(UserAgent).build();
        Self { secrets: secretsmanager::Client::from_conf(secrets), parameters: ssm::Client::from_conf(parameters) }
    }

    pub(super) async fn secret(&self, secret: &SecretRef) -> Result<(Fetched, Option<String>), AwsError> {
        let ask = self.secrets.get_secret_value().secret_id(&secret.id);
        let ask = match &secret.version {
            SecretVersion::Current => ask,
            SecretVersion::Stage(stage) => ask.version_stage(stage),
            SecretVersion::Id(id) => ask.version_id(id),
        };
        let answer = ask.send().await.map_err(|error| about_secret(AwsError::from_sdk(action::GET_SECRET, &error)))?;
        let request_id = answer.request_id().map(str::to_owned);
        let version = answer.version_id.unwrap_or_default();
        let value =
            value(action::GET_SECRET, answer.secret_string, answer.secret_binary.map(|blob| blob.into_inner()))?;
        Ok((Fetched { value, version, arn: answer.arn, request_id: request_id.clone() }, request_id))
    }

    /// Everything that GetSecretValue tells, and AWS's own codes where it tells nothing.
    pub(super) async fn whole_secret(&self, query: &SecretQuery) -> Result<(WholeSecret, Option<String>), AwsError> {
        let ask = self.secrets.get_secret_value().secret_id(&query.id);
        let ask = ask.set_version_id(query.version_id.clone()).set_version_stage(query.version_stage.clone());
        let answer = ask.send().await.map_err(|error| AwsError::from_sdk(action::GET_SECRET, &error))?;
        let request_id = answer.request_id().map(str::to_owned);
        let binary = answer.secret_binary.map(|blob| Value::Binary(Secret::new(blob.into_inner())));
        let whole = WholeSecret {
            arn: answer.arn,
            name: answer.name,
            version_id: answer.version_id,
            value: answer.secret_string.map(|text| Value::Text(Secret::from(text))).or(binary),
            version_stages: answer.version_stages,
            created: answer.created_date.and_then(|date| SystemTime::try_from(date).ok()),
            request_id: request_id.clone(),
        };
        Ok((whole, request_id))
    }

    /// Everything that GetParameter tells.
    pub(super) async fn whole_parameter(
        &self,
        query: &ParameterQuery,
    ) -> Result<(WholeParameter, Option<String>), AwsError> {
        let name = match &query.selector {
            Some(selector) => format!("{}:{selector}", query.name),
            None => query.name.clone(),
        };
        let ask = self.parameters.get_parameter().name(name).with_decryption(query.decrypt);
        let answer = ask.send().await.map_err(|error| AwsError::from_sdk(action::GET_PARAMETER, &error))?;
        let request_id = answer.request_id().map(str::to_owned);
        let Some(parameter) = answer.parameter else {
            let text = "the answer holds no parameter";
            return Err(AwsError::new(action::GET_PARAMETER, Class::Transient, "UnreadableAnswer", text));
        };
        let whole = WholeParameter {
            arn: parameter.arn,
            data_type: parameter.data_type,
            last_modified: parameter.last_modified_date.and_then(|date| SystemTime::try_from(date).ok()),
            name: parameter.name,
            selector: parameter.selector,
            source_result: parameter.source_result,
            kind: parameter.r#type.map(|kind| kind.as_str().to_owned()),
            value: parameter.value.map(Secret::from),
            version: parameter.version,
            request_id: request_id.clone(),
        };
        Ok((whole, request_id))
    }

    pub(super) async fn batch(
        &self,
        ids: &[String],
        page: Option<String>,
    ) -> Result<(BatchPage, Option<String>), AwsError> {
        let ask = self.secrets.batch_get_secret_value().set_secret_id_list(Some(ids.to_vec())).set_next_token(page);
        let answer = ask.send().await.map_err(|error| AwsError::from_sdk(action::BATCH, &error))?;
        let request_id = answer.request_id().map(str::to_owned);
        let mut found = Vec::new();
        let mut failed = Vec::new();
        for entry in answer.secret_values.unwrap_or_default() {
            let version = entry.version_id.unwrap_or_default();
            let bytes = entry.secret_binary.map(|blob| blob.into_inner());
            let value = value(action::BATCH, entry.secret_string, bytes)?;
            let fetched = Fetched { value, version, arn: entry.arn, request_id: request_id.clone() };
            found.push(BatchEntry { name: entry.name.unwrap_or_default(), fetched });
        }
        for error in answer.errors.unwrap_or_default() {
            let code = error.error_code.unwrap_or_default();
            let message = error.message.unwrap_or_default();
            // These come with HTTP 200: the code alone tells the class.
            let class = Class::of_code(&code, 400);
            let mut cause = about_secret(AwsError::new(action::GET_SECRET, class, code, &message));
            cause.request_id.clone_from(&request_id);
            failed.push((error.secret_id.unwrap_or_default(), cause));
        }
        Ok((BatchPage { found, failed, next: answer.next_token }, request_id))
    }

    pub(super) async fn head(&self, id: &str) -> Result<(Head, Option<String>), AwsError> {
        let ask = self.secrets.describe_secret().secret_id(id);
        let answer = ask.send().await.map_err(|error| about_secret(AwsError::from_sdk(action::DESCRIBE, &error)))?;
        let request_id = answer.request_id().map(str::to_owned);
        if answer.deleted_date.is_some() {
            return Err(AwsError { request_id, ..scheduled_for_deletion(action::DESCRIBE) });
        }
        let mut stages = HashMap::new();
        for (version, labels) in answer.version_ids_to_stages.unwrap_or_default() {
            stages.extend(labels.into_iter().map(|label| (label, version.clone())));
        }
        let next_rotation = answer.next_rotation_date.and_then(|date| SystemTime::try_from(date).ok());
        Ok((Head { stages, next_rotation }, request_id))
    }

    pub(super) async fn parameters(
        &self,
        wanted: &[ParameterRef],
    ) -> Result<((Vec<(ParameterRef, Fetched)>, Missing), Option<String>), AwsError> {
        let names = wanted.iter().map(wire_name).collect();
        let ask = self.parameters.get_parameters().set_names(Some(names)).with_decryption(true);
        let answer = ask.send().await.map_err(|error| AwsError::from_sdk(action::GET_PARAMETERS, &error))?;
        let request_id = answer.request_id().map(str::to_owned);
        let mut given = answer.parameters.unwrap_or_default();
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for parameter in wanted {
            // AWS answers in its own order, and leaves out what it does not know.
            let at = given.iter().position(|one| means(parameter, one));
            match at.map(|at| given.swap_remove(at)) {
                Some(one) => found.push((parameter.clone(), fetched(one, request_id.clone())?)),
                None => {
                    let text = "AWS knows no parameter of that name and version";
                    let error = AwsError::new(action::GET_PARAMETERS, Class::NotFound, "ParameterNotFound", text);
                    missing.push((parameter.clone(), AwsError { request_id: request_id.clone(), ..error }));
                }
            }
        }
        Ok(((found, missing), request_id))
    }

    /// One page; the token of the next is `None` after the last.
    pub(super) async fn path_page(
        &self,
        path: &PathRef,
        page: Option<String>,
    ) -> Result<((Vec<(String, Fetched)>, Option<String>), Option<String>), AwsError> {
        let ask = self.parameters.get_parameters_by_path().path(&path.path).recursive(path.recursive);
        let ask = ask.with_decryption(true).max_results(10).set_next_token(page);
        let answer = ask.send().await.map_err(|error| AwsError::from_sdk(action::GET_BY_PATH, &error))?;
        let request_id = answer.request_id().map(str::to_owned);
        let mut found = Vec::new();
        for one in answer.parameters.unwrap_or_default() {
            let name = one.name.clone().unwrap_or_default();
            let rest = name.strip_prefix(path.path.trim_end_matches('/')).unwrap_or(&name);
            found.push((rest.trim_start_matches('/').to_owned(), fetched(one, request_id.clone())?));
        }
        Ok(((found, answer.next_token), request_id))
    }
}

/// Puts the pages of a path together.
pub(super) struct Pages {
    found: Vec<(String, Fetched)>,
    read: usize,
}

impl Pages {
    pub(super) fn new() -> Self {
        Self { found: Vec::new(), read: 0 }
    }

    /// Takes one page; the error is that there is no end to them.
    pub(super) fn add(&mut self, page: Vec<(String, Fetched)>) -> Result<(), AwsError> {
        self.found.extend(page);
        self.read += 1;
        if self.read < PAGES_MAX {
            return Ok(());
        }
        Err(AwsError::new(
            action::GET_BY_PATH,
            Class::Invalid,
            "TooManyPages",
            "there is no end to the parameters under this path",
        ))
    }

    /// The whole; a path without any parameter is an error, as a name without one is.
    pub(super) fn whole(mut self) -> Result<Answer, AwsError> {
        if self.found.is_empty() {
            let text = "there is no parameter under this path";
            return Err(AwsError::new(action::GET_BY_PATH, Class::NotFound, "ParameterNotFound", text));
        }
        self.found.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(Answer::Tree(self.found))
    }
}

/// `GetSecretValue` and its kin say "marked for deletion" only in the message of a general code
/// (Secrets Manager API reference, GetSecretValue, InvalidRequestException).
fn about_secret(error: AwsError) -> AwsError {
    let deleted = error.code == "InvalidRequestException" && error.message.contains("deletion");
    if deleted { AwsError { request_id: error.request_id, ..scheduled_for_deletion(error.action) } } else { error }
}

fn scheduled_for_deletion(action: &'static str) -> AwsError {
    AwsError::new(action, Class::Invalid, "ScheduledForDeletion", "the secret is scheduled for deletion")
}

fn wire_name(parameter: &ParameterRef) -> String {
    match &parameter.version {
        ParameterVersion::Latest => parameter.name.clone(),
        ParameterVersion::Number(number) => format!("{}:{number}", parameter.name),
        ParameterVersion::Label(label) => format!("{}:{label}", parameter.name),
    }
}

fn means(wanted: &ParameterRef, given: &ssm::types::Parameter) -> bool {
    // AWS repeats the selector, LocalStack does not; no call asks for two versions of one name.
    let selector = given.selector.as_deref().map(|selector| selector.trim_start_matches(':'));
    let same_version = match &wanted.version {
        ParameterVersion::Latest => selector.is_none_or(str::is_empty),
        ParameterVersion::Number(number) => match selector {
            Some(selector) => selector == number.to_string(),
            None => u64::try_from(given.version) == Ok(*number),
        },
        ParameterVersion::Label(label) => selector.is_none_or(|selector| selector == label),
    };
    let name = &wanted.name;
    same_version && (given.name.as_ref() == Some(name) || given.arn.as_ref() == Some(name))
}

fn fetched(parameter: ssm::types::Parameter, request_id: Option<String>) -> Result<Fetched, AwsError> {
    let version = parameter.version.to_string();
    let value = value(action::GET_PARAMETERS, parameter.value, None)?;
    Ok(Fetched { value, version, arn: parameter.arn, request_id })
}

fn value(action: &'static str, text: Option<String>, bytes: Option<Vec<u8>>) -> Result<Value, AwsError> {
    match (text, bytes) {
        (Some(text), _) => Ok(Value::Text(Secret::from(text))),
        (None, Some(bytes)) => Ok(Value::Binary(Secret::new(bytes))),
        (None, None) => Err(AwsError::new(action, Class::NotFound, "EmptyVersion", "this version holds no value yet")),
    }
}

/// A secret's ARN ends with a hyphen and six random characters.
fn without_suffix(arn: &str) -> &str {
    match arn.len().checked_sub(7) {
        Some(at) if arn.is_char_boundary(at) && arn[at..].starts_with('-') => &arn[..at],
        _ => arn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, arn: &str) -> BatchEntry {
        let fetched = Fetched {
            value: Value::Text(Secret::copy_of(b"v")),
            version: "1".into(),
            arn: Some(arn.into()),
            request_id: None,
        };
        BatchEntry { name: name.into(), fetched }
    }

    #[test]
    fn a_batch_entry_is_found_by_name_and_by_whole_or_partial_arn() {
        let arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db-AbCdEf";
        let entry = entry("prod/db", arn);
        assert!(entry.is("prod/db") && entry.is(arn) && entry.is(&arn[..arn.len() - 7]));
        assert!(!entry.is("prod/d") && !entry.is("arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod"));
    }

    #[test]
    fn a_parameter_is_matched_with_its_selector() {
        let given = |selector: Option<&str>| {
            ssm::types::Parameter::builder().name("/a").arn("arn:x").set_selector(selector.map(str::to_owned)).build()
        };
        let wanted = |name: &str, version| ParameterRef { name: name.into(), version };
        assert!(means(&wanted("/a", ParameterVersion::Latest), &given(None)));
        assert!(means(&wanted("arn:x", ParameterVersion::Latest), &given(None)));
        assert!(means(&wanted("/a", ParameterVersion::Number(3)), &given(Some(":3"))));
        assert!(!means(&wanted("/a", ParameterVersion::Latest), &given(Some(":3"))));
        assert!(!means(&wanted("/a", ParameterVersion::Number(3)), &given(None)));
    }

    #[test]
    fn a_deleted_secret_is_told_from_other_invalid_requests() {
        let error = |message| {
            about_secret(AwsError::new(action::GET_SECRET, Class::Invalid, "InvalidRequestException", message)).code
        };
        assert_eq!(
            error("You can't perform this operation on the secret because it was marked for deletion."),
            "ScheduledForDeletion"
        );
        assert_eq!(error("something else"), "InvalidRequestException");
    }
}
