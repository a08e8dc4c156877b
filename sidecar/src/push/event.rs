//! What a message of the queue says. Pure: text in, changes out.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::change::{Change, Subject, parameter_of_arn, secret_of_arn};

/// Longest message that SQS delivers, in bytes (SQS Developer Guide, "Amazon SQS message quotas").
const MESSAGE_MAX: usize = 1 << 20;
/// Longest part of an event's kind that a message repeats, in characters.
const KIND_MAX: usize = 64;
/// Most names in one call (Systems Manager API reference, DeleteParameters, `Names`).
const NAMES_MAX: usize = 10;
/// Most labels in one call (Secrets Manager API reference, PutSecretValue, `VersionStages`;
/// Parameter Store takes fewer).
const LABELS_MAX: usize = 20;

/// Why a message tells of no secret and no parameter. Nothing of the message is repeated but the
/// kind of event that it says it is, escaped and cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It is longer than SQS delivers.
    #[error("the message is longer than 1 MiB")]
    TooLong,
    /// It is not JSON, or not as events are built.
    #[error(
        "the message is no event in JSON (line {line}, column {column}); give the queue to an EventBridge rule, or to an SNS topic that one feeds, and to nobody else"
    )]
    Unreadable {
        /// Line, from 1; 0 where it is not known.
        line: usize,
        /// Column, from 1; 0 where it is not known.
        column: usize,
    },
    /// It is JSON, but nothing of EventBridge.
    #[error(
        "the message has no `source` and `detail-type`; let the rule's target send the whole matched event, without an input transformer"
    )]
    NoEvent,
    /// The event is of something else.
    #[error("an event `{kind}` tells of no secret and no parameter; narrow the rule's pattern")]
    Foreign {
        /// Its `detail-type`.
        kind: String,
    },
    /// The event is of the right kind but leaves out of what it tells.
    #[error(
        "an event `{kind}` that names no secret and no parameter; let the rule's target send the whole matched event"
    )]
    Nameless {
        /// Its `detail-type`.
        kind: String,
    },
    /// The event names more at once than its service takes, so it is none of AWS's.
    #[error("an event `{kind}` that names more secrets, parameters or labels than one call may")]
    TooMany {
        /// Its `detail-type`.
        kind: String,
    },
}

/// Reads a message: an event of EventBridge as it is, or in the envelope of SNS.
///
/// Understood are Secrets Manager's `Secret Label Updated`, Parameter Store's `Parameter Store
/// Change`, and CloudTrail's records of calls that change secrets and parameters. An event of these
/// services that changes no value gives no change, and is no error.
pub fn parse(body: &str) -> Result<Vec<Change>, Rejected> {
    let message = Message::read(body)?;
    match message {
        Message { source: None, detail_type: None, notified: Some(event), kind: Some(kind), .. }
            if kind == "Notification" =>
        {
            Message::read(&event)?.changes()
        }
        message => message.changes(),
    }
}

/// An event of EventBridge (EventBridge Events Reference, "Event structure"), or a notification of
/// SNS around it (SNS Developer Guide, "Amazon SNS message and JSON formats").
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(rename = "Type")]
    kind: Option<String>,
    #[serde(rename = "Message")]
    notified: Option<String>,

    source: Option<String>,
    #[serde(rename = "detail-type")]
    detail_type: Option<String>,
    account: Option<String>,
    region: Option<String>,
    resources: Option<Vec<String>>,
    #[serde(borrow)]
    detail: Option<&'a RawValue>,
}

/// `detail` of `Secret Label Updated` (Secrets Manager User Guide, page of that name).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LabelUpdated {
    name: Option<String>,
    label_updated: Option<String>,
    version_id: Option<String>,
}

/// `detail` of `Parameter Store Change` (Systems Manager User Guide, "Reference: Amazon EventBridge
/// event patterns and types for Systems Manager").
#[derive(Deserialize)]
struct ParameterChange {
    name: Option<String>,
}

/// `detail` of CloudTrail's events (CloudTrail User Guide, "CloudTrail record contents").
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    event_source: Option<String>,
    event_name: Option<String>,
    aws_region: Option<String>,
    error_code: Option<String>,
    // Read only for calls that are known: those of others have fields of the same names.
    #[serde(borrow)]
    request_parameters: Option<&'a RawValue>,
    #[serde(borrow)]
    response_elements: Option<&'a RawValue>,
    #[serde(borrow)]
    additional_event_data: Option<&'a RawValue>,
    #[serde(borrow)]
    service_event_details: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    secret_id: Option<String>,
    version_stage: Option<String>,
    version_stages: Option<Vec<String>>,
    name: Option<String>,
    names: Option<Vec<String>>,
    labels: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    arn: Option<String>,
    /// As some of Secrets Manager's records have it.
    #[serde(rename = "aRN")]
    arn_too: Option<String>,
    name: Option<String>,
    version_id: Option<String>,
    version: Option<u64>,
}

#[derive(Default, Deserialize)]
struct ServiceEvent {
    #[serde(rename = "SecretId")]
    secret_id: Option<String>,
    #[serde(rename = "secretId")]
    secret_id_too: Option<String>,
}

impl<'a> Message<'a> {
    fn read(text: &'a str) -> Result<Self, Rejected> {
        if text.len() > MESSAGE_MAX {
            return Err(Rejected::TooLong);
        }
        let message = read(text)?;
        // Serde takes a list for a struct.
        if text.trim_start().starts_with('{') { Ok(message) } else { Err(Rejected::NoEvent) }
    }

    fn changes(self) -> Result<Vec<Change>, Rejected> {
        let (Some(source), Some(detail_type)) = (self.source.as_deref(), self.detail_type.as_deref()) else {
            return Err(Rejected::NoEvent);
        };
        match (source, detail_type) {
            ("aws.secretsmanager", "Secret Label Updated") => self.label_updated(),
            ("aws.ssm", "Parameter Store Change") => self.parameter_change(),
            ("aws.ssm", "Parameter Store Policy Action") => Ok(Vec::new()),
            ("aws.secretsmanager" | "aws.ssm", "AWS API Call via CloudTrail" | "AWS Service Event via CloudTrail") => {
                self.recorded()
            }
            _ => Err(Rejected::Foreign { kind: self.shown_kind() }),
        }
    }

    fn label_updated(&self) -> Result<Vec<Change>, Rejected> {
        let detail: LabelUpdated = self.detail()?;
        let arn = self.resource(secret_of_arn);
        if detail.name.is_none() && arn.is_none() {
            return Err(self.nameless());
        }
        let subject = Subject::Secret { name: detail.name, arn };
        Ok(vec![Change { version: detail.version_id, label: detail.label_updated, ..self.change(subject) }])
    }

    fn parameter_change(&self) -> Result<Vec<Change>, Rejected> {
        let detail: ParameterChange = self.detail()?;
        let arn = self.resource(parameter_of_arn);
        let name = detail.name.or_else(|| arn.as_deref().and_then(parameter_of_arn).map(str::to_owned));
        let name = name.ok_or_else(|| self.nameless())?;
        Ok(vec![self.change(Subject::Parameter { name, arn })])
    }

    fn recorded(&self) -> Result<Vec<Change>, Rejected> {
        let record: Record<'_> = self.detail()?;
        let event_name = record.event_name.as_deref().unwrap_or_default();
        // What was refused has changed nothing.
        if record.error_code.is_some() {
            return Ok(Vec::new());
        }
        let changes = match (record.event_source.as_deref(), event_name) {
            (
                Some("secretsmanager.amazonaws.com"),
                "CreateSecret"
                | "PutSecretValue"
                | "UpdateSecret"
                | "UpdateSecretVersionStage"
                | "RestoreSecret"
                | "DeleteSecret"
                | "RotateSecret"
                | "CancelRotateSecret"
                | "RotationSucceeded",
            ) => self.recorded_secret(&record)?,
            (
                Some("ssm.amazonaws.com"),
                "PutParameter"
                | "DeleteParameter"
                | "DeleteParameters"
                | "LabelParameterVersion"
                | "UnlabelParameterVersion",
            ) => self.recorded_parameters(&record)?,
            (Some("secretsmanager.amazonaws.com" | "ssm.amazonaws.com"), _) => Vec::new(),
            _ => return Err(Rejected::Foreign { kind: self.shown_kind() }),
        };
        let placed = |change: Change| Change { region: change.region.or_else(|| record.aws_region.clone()), ..change };
        Ok(changes.into_iter().map(placed).collect())
    }

    fn recorded_secret(&self, record: &Record<'_>) -> Result<Vec<Change>, Rejected> {
        let request: Request = part(record.request_parameters)?;
        let response: Response = part(record.response_elements)?;
        let additional: ServiceEvent = part(record.additional_event_data)?;
        let details: ServiceEvent = part(record.service_event_details)?;
        let of_service = |event: ServiceEvent| event.secret_id.or(event.secret_id_too);
        let asked = request.secret_id.or_else(|| of_service(additional)).or_else(|| of_service(details));
        let (asked_arn, asked_name) = match asked {
            Some(id) if secret_of_arn(&id).is_some() => (Some(id), None),
            other => (None, other),
        };
        // The answer's ARN is whole; the caller's may not be.
        let arns = [response.arn, response.arn_too, self.resource(secret_of_arn), asked_arn];
        let arn = arns.into_iter().flatten().find(|arn| secret_of_arn(arn).is_some());
        let name = response.name.or(asked_name).or(request.name);
        if name.is_none() && arn.is_none() {
            return Err(self.nameless());
        }
        let labels: Vec<String> = request.version_stages.into_iter().flatten().chain(request.version_stage).collect();
        self.check_count(1, labels.len())?;
        let change = self.change(Subject::Secret { name, arn });
        Ok(for_each_label(&Change { version: response.version_id, ..change }, labels))
    }

    fn recorded_parameters(&self, record: &Record<'_>) -> Result<Vec<Change>, Rejected> {
        let request: Request = part(record.request_parameters)?;
        let response: Response = part(record.response_elements)?;
        let names: Vec<String> = request.name.into_iter().chain(request.names.into_iter().flatten()).collect();
        if names.is_empty() {
            return Err(self.nameless());
        }
        let labels = request.labels.unwrap_or_default();
        self.check_count(names.len(), labels.len())?;
        let of_one = |name: String| {
            let subject = match parameter_of_arn(&name) {
                Some(plain) => Subject::Parameter { name: plain.to_owned(), arn: Some(name) },
                None => Subject::Parameter { name, arn: None },
            };
            let version = response.version.map(|number| number.to_string());
            for_each_label(&Change { version, ..self.change(subject) }, labels.clone())
        };
        Ok(names.into_iter().flat_map(of_one).collect())
    }

    /// A message of 1 MiB could name a hundred thousand of each, and their product.
    fn check_count(&self, names: usize, labels: usize) -> Result<(), Rejected> {
        if names <= NAMES_MAX && labels <= LABELS_MAX {
            return Ok(());
        }
        Err(Rejected::TooMany { kind: self.shown_kind() })
    }

    fn detail<T: Deserialize<'a>>(&self) -> Result<T, Rejected> {
        match self.detail {
            Some(detail) if detail.get().starts_with('{') => read(detail.get()),
            _ => Err(self.nameless()),
        }
    }

    /// The first resource of a kind.
    fn resource(&self, of_kind: fn(&str) -> Option<&str>) -> Option<String> {
        self.resources.iter().flatten().find(|arn| of_kind(arn).is_some()).cloned()
    }

    fn change(&self, subject: Subject) -> Change {
        Change { subject, region: self.region.clone(), account: self.account.clone(), version: None, label: None }
    }

    fn nameless(&self) -> Rejected {
        Rejected::Nameless { kind: self.shown_kind() }
    }

    /// The `detail-type`, as an error may show it.
    fn shown_kind(&self) -> String {
        let kind = self.detail_type.as_deref().unwrap_or_default();
        let cut: String = kind.chars().take(KIND_MAX).collect();
        let ellipsis = if cut.len() < kind.len() { "…" } else { "" };
        format!("{}{ellipsis}", cut.escape_debug())
    }
}

/// The change for each label that moved, or the one of no label in particular.
fn for_each_label(change: &Change, labels: Vec<String>) -> Vec<Change> {
    if labels.is_empty() {
        return vec![change.clone()];
    }
    labels.into_iter().map(|label| Change { label: Some(label), ..change.clone() }).collect()
}

/// A part of a record that may be left out.
fn part<'a, T: Default + Deserialize<'a>>(raw: Option<&'a RawValue>) -> Result<T, Rejected> {
    raw.map_or_else(|| Ok(T::default()), |raw| read(raw.get()))
}

/// The parser's own words may quote the text: only the place is kept.
fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Rejected> {
    serde_json::from_str(text).map_err(|error| Rejected::Unreadable { line: error.line(), column: error.column() })
}

#[cfg(test)]
mod tests;
