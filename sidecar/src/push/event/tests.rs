use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::spec::Reference;

const ARN: &str = "arn:aws:secretsmanager:us-west-2:123456789012:secret:prod/db-a1b2c3";
const PARAMETER_ARN: &str = "arn:aws:ssm:us-west-2:123456789012:parameter/prod/level";

/// An event with the fields that EventBridge gives to all.
fn event(source: &str, detail_type: &str, resources: &[&str], detail: impl Into<Value>) -> String {
    json!({
        "version": "0", "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718", "detail-type": detail_type, "source": source,
        "account": "123456789012", "time": "2026-02-06T16:43:48Z", "region": "us-west-2",
        "resources": resources, "detail": detail.into(),
    })
    .to_string()
}

/// What CloudTrail records of a call, or of something that a service does by itself.
fn recorded(service: &str, event_name: &str, mut detail: Value) -> String {
    detail["eventSource"] = format!("{service}.amazonaws.com").into();
    detail["eventName"] = event_name.into();
    detail["awsRegion"] = "us-west-2".into();
    let kind = if event_name.starts_with("Rotation") { "Service Event" } else { "API Call" };
    event(&format!("aws.{service}"), &format!("AWS {kind} via CloudTrail"), &[], detail)
}

fn in_sns(event: &str) -> String {
    json!({
        "Type": "Notification", "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": "arn:aws:sns:us-west-2:123456789012:topic", "Message": event,
        "Timestamp": "2026-02-06T16:43:48.000Z", "SignatureVersion": "1", "Signature": "x", "UnsubscribeURL": "https://x",
    })
    .to_string()
}

fn change(subject: Subject, version: Option<&str>, label: Option<&str>) -> Change {
    Change {
        subject,
        region: Some("us-west-2".to_owned()),
        account: Some("123456789012".to_owned()),
        version: version.map(str::to_owned),
        label: label.map(str::to_owned),
    }
}

fn secret(name: Option<&str>, arn: Option<&str>) -> Subject {
    Subject::Secret { name: name.map(str::to_owned), arn: arn.map(str::to_owned) }
}

fn parameter(name: &str, arn: Option<&str>) -> Subject {
    Subject::Parameter { name: name.to_owned(), arn: arn.map(str::to_owned) }
}

#[test]
fn reads_the_events_of_both_services() {
    let detail = json!({"name": "prod/db", "labelUpdated": "AWSCURRENT", "versionId": "v2"});
    let label = event("aws.secretsmanager", "Secret Label Updated", &[ARN], detail);
    let of_label = vec![change(secret(Some("prod/db"), Some(ARN)), Some("v2"), Some("AWSCURRENT"))];
    assert_eq!(parse(&label), Ok(of_label.clone()));
    assert_eq!(parse(&in_sns(&label)), Ok(of_label));

    let detail = json!({"operation": "Update", "name": "/prod/level", "type": "String", "description": "d"});
    let parameter_change = event("aws.ssm", "Parameter Store Change", &[PARAMETER_ARN], detail);
    let of_parameter = vec![change(parameter("/prod/level", Some(PARAMETER_ARN)), None, None)];
    assert_eq!(parse(&parameter_change), Ok(of_parameter.clone()));
    assert_eq!(parse(&in_sns(&parameter_change)), Ok(of_parameter));

    let detail = json!({"policy-type": "Expiration", "parameter-name": "/prod/level"});
    assert_eq!(parse(&event("aws.ssm", "Parameter Store Policy Action", &[PARAMETER_ARN], detail)), Ok(vec![]));
}

#[test]
fn a_resource_is_enough_where_the_name_is_missing() {
    let label = event("aws.secretsmanager", "Secret Label Updated", &["arn:aws:x:::y", ARN], json!({}));
    assert_eq!(parse(&label), Ok(vec![change(secret(None, Some(ARN)), None, None)]));
    let of_parameter = event("aws.ssm", "Parameter Store Change", &[PARAMETER_ARN], json!({"name": null}));
    assert_eq!(parse(&of_parameter), Ok(vec![change(parameter("prod/level", Some(PARAMETER_ARN)), None, None)]));
}

#[test]
fn reads_what_cloudtrail_records() {
    let partial = &ARN[..ARN.len() - 7];
    for (service, event_name, detail, expected) in [
        (
            "secretsmanager",
            "PutSecretValue",
            json!({"requestParameters": {"secretId": "prod/db", "clientRequestToken": "v2", "versionStages": ["AWSPENDING"]},
                   "responseElements": {"arn": ARN, "versionId": "v2"}}),
            vec![change(secret(Some("prod/db"), Some(ARN)), Some("v2"), Some("AWSPENDING"))],
        ),
        (
            "secretsmanager",
            "PutSecretValue",
            json!({"requestParameters": {"secretId": partial, "versionStages": ["a", "b"]}, "responseElements": null}),
            vec![
                change(secret(None, Some(partial)), None, Some("a")),
                change(secret(None, Some(partial)), None, Some("b")),
            ],
        ),
        (
            "secretsmanager",
            "UpdateSecretVersionStage",
            json!({"requestParameters": {"secretId": partial, "versionStage": "AWSCURRENT", "moveToVersionId": "v2"},
                   "responseElements": {"aRN": ARN, "name": "prod/db"}}),
            vec![change(secret(Some("prod/db"), Some(ARN)), None, Some("AWSCURRENT"))],
        ),
        (
            "secretsmanager",
            "DeleteSecret",
            json!({"requestParameters": {"secretId": "prod/db", "recoveryWindowInDays": 7},
                   "responseElements": {"aRN": ARN, "name": "prod/db", "deletionDate": "Feb 6, 2026"}}),
            vec![change(secret(Some("prod/db"), Some(ARN)), None, None)],
        ),
        (
            "secretsmanager",
            "CreateSecret",
            json!({"requestParameters": {"name": "prod/db", "clientRequestToken": "v1"}, "responseElements": null}),
            vec![change(secret(Some("prod/db"), None), None, None)],
        ),
        (
            "secretsmanager",
            "RotationSucceeded",
            json!({"requestParameters": null, "responseElements": null, "additionalEventData": {"SecretId": ARN}}),
            vec![change(secret(None, Some(ARN)), None, None)],
        ),
        (
            "ssm",
            "PutParameter",
            json!({"requestParameters": {"name": "/prod/level", "overwrite": true, "value": "HIDDEN_DUE_TO_SECURITY_REASONS"},
                   "responseElements": {"version": 7, "tier": "Standard"}}),
            vec![change(parameter("/prod/level", None), Some("7"), None)],
        ),
        (
            "ssm",
            "LabelParameterVersion",
            json!({"requestParameters": {"name": PARAMETER_ARN, "parameterVersion": 3, "labels": ["live"]}}),
            vec![change(parameter("prod/level", Some(PARAMETER_ARN)), None, Some("live"))],
        ),
        (
            "ssm",
            "DeleteParameters",
            json!({"requestParameters": {"names": ["/a", "/b"]}}),
            vec![change(parameter("/a", None), None, None), change(parameter("/b", None), None, None)],
        ),
        // Changes nothing, or nothing that is read.
        ("secretsmanager", "GetSecretValue", json!({"requestParameters": {"secretId": "prod/db"}}), vec![]),
        ("secretsmanager", "RotationFailed", json!({"additionalEventData": {"SecretId": ARN}}), vec![]),
        ("ssm", "SendCommand", json!({"requestParameters": {"name": {"of": "another shape"}}}), vec![]),
        (
            "secretsmanager",
            "PutSecretValue",
            json!({"errorCode": "AccessDenied", "requestParameters": {"secretId": "prod/db"}}),
            vec![],
        ),
    ] {
        assert_eq!(parse(&recorded(service, event_name, detail)), Ok(expected), "{event_name}");
    }
}

#[test]
fn everything_else_is_rejected_by_a_reason_that_repeats_none_of_it() {
    let kind = format!("{}\n\u{1b}[31m", "k".repeat(80));
    for (body, words) in [
        (String::new(), "no event in JSON"),
        ("s3cr3t".to_owned(), "no event in JSON (line 1, column 1)"),
        ("{\"source\": {\"s3cr3t\": 1}}".to_owned(), "no event in JSON"),
        ("[\"Notification\", \"s3cr3t\"]".to_owned(), "no event in JSON"),
        ("[null, null, null, null, null, null, null, null]".to_owned(), "no `source` and `detail-type`"),
        ("{}".to_owned(), "without an input transformer"),
        ("\"s3cr3t\"".to_owned(), "no event in JSON"),
        (json!({"name": "s3cr3t"}).to_string(), "no `source` and `detail-type`"),
        (json!({"Type": "SubscriptionConfirmation", "Message": "s3cr3t"}).to_string(), "no `source`"),
        (in_sns("s3cr3t"), "no event in JSON"),
        (in_sns(&in_sns("{}")), "no `source` and `detail-type`"),
        (
            event("aws.ec2", "s3cr3t", &[], json!({})).replace("s3cr3t", "EC2 State"),
            "an event `EC2 State` tells of no secret",
        ),
        (event("aws.ec2", &kind, &[], json!({})), "`kkkk"),
        (event("aws.ssm", "Parameter Store Change", &[], json!({"operation": "s3cr3t"})), "names no secret"),
        (event("aws.secretsmanager", "Secret Label Updated", &["s3cr3t"], json!({})), "names no secret"),
        (event("aws.secretsmanager", "Secret Label Updated", &[ARN], json!("s3cr3t")), "names no secret"),
        (event("aws.secretsmanager", "Secret Label Updated", &[ARN], json!({"name": ["s3cr3t"]})), "no event in JSON"),
        (recorded("ssm", "PutParameter", json!({"requestParameters": {"value": "s3cr3t"}})), "names no secret"),
        (recorded("secretsmanager", "DeleteSecret", json!({})), "names no secret"),
        (
            recorded("ssm", "DeleteParameters", json!({"requestParameters": {"names": vec!["s3cr3t"; 11]}})),
            "than one call may",
        ),
        (
            recorded(
                "ssm",
                "LabelParameterVersion",
                json!({"requestParameters": {"name": "a", "labels": vec!["s3cr3t"; 21]}}),
            ),
            "than one call may",
        ),
        (format!("{{\"detail\": \"{}\"}}", "x".repeat(MESSAGE_MAX)), "longer than 1 MiB"),
        ("[".repeat(100_000), "no event in JSON"),
        (format!("{{\"detail\": {}", "[".repeat(100_000)), "no event in JSON"),
    ] {
        let reason = parse(&body).unwrap_err().to_string();
        let head: String = body.chars().take(80).collect();
        assert!(reason.contains(words), "not `{words}` for {head}: {reason}");
        assert!(!reason.contains("s3cr3t") && !reason.contains(char::is_control), "{reason}");
        assert!(reason.len() < 300, "{reason}");
    }
}

fn optional(text: impl Strategy<Value = String>) -> impl Strategy<Value = Option<String>> {
    proptest::option::of(text)
}

proptest! {
    #[test]
    fn never_panics_on_any_text(body in "\\PC{0,200}") {
        let _ = parse(&body);
    }

    #[test]
    fn never_panics_on_an_event_with_a_piece_changed(at in 0_usize..600, piece in "[\\PC\\n]{0,6}", sns: bool) {
        let detail = json!({"requestParameters": {"secretId": "prod/db", "versionStages": ["a"]},
                            "responseElements": {"arn": ARN, "versionId": "v"}});
        let event = recorded("secretsmanager", "PutSecretValue", detail);
        let mut event = if sns { in_sns(&event) } else { event };
        let at = at % event.len();
        event.replace_range(at..(at + piece.len()).min(event.len()), &piece);
        let _ = parse(&event);
    }

    #[test]
    fn a_label_event_gives_back_what_went_in(
        name in "\\PC{1,40}", suffix in "[A-Za-z0-9]{6}", version in optional("[a-f0-9-]{1,36}"),
        label in optional("\\PC{1,20}"), sns: bool,
    ) {
        let arn = format!("arn:aws:secretsmanager:us-west-2:123456789012:secret:{name}-{suffix}");
        let detail = json!({"name": name, "labelUpdated": label, "versionId": version});
        let event = event("aws.secretsmanager", "Secret Label Updated", &[&arn], detail);
        let event = if sns { in_sns(&event) } else { event };
        let expected = change(secret(Some(&name), Some(&arn)), version.as_deref(), label.as_deref());
        prop_assert_eq!(parse(&event), Ok(vec![expected]));
    }

    #[test]
    fn an_event_names_its_own_secret_however_that_is_referred_to(
        name in "[a-zA-Z0-9/_+=.@-]{1,20}", suffix in "[A-Za-z0-9]{6}", sns: bool,
    ) {
        let partial = format!("arn:aws:secretsmanager:us-west-2:123456789012:secret:{name}");
        let arn = format!("{partial}-{suffix}");
        let detail = json!({"name": name, "labelUpdated": "AWSCURRENT"});
        let event = event("aws.secretsmanager", "Secret Label Updated", &[&arn], detail);
        let change = parse(&if sns { in_sns(&event) } else { event }).unwrap().remove(0);
        for id in [&name, &partial, &arn] {
            let reference: Reference = format!("secretsmanager:{id}").parse().unwrap();
            prop_assert!(change.names(&reference, None, "us-west-2") && change.names(&reference, Some(&arn), ""));
        }
        let longer: Reference = format!("secretsmanager:{name}x").parse().unwrap();
        prop_assert!(!change.names(&longer, None, "us-west-2"));
    }

    #[test]
    fn a_parameter_event_gives_back_what_went_in(name in "\\PC{1,40}", operation in "\\PC{0,10}") {
        let event = event("aws.ssm", "Parameter Store Change", &[], json!({"operation": operation, "name": name}));
        prop_assert_eq!(parse(&event), Ok(vec![change(parameter(&name, None), None, None)]));
    }
}
