//! What a failed call to the queue means to a person, and what to do about it.

use coffer_runtime::aws::{AwsError, Class};

use crate::source::FetchError;

/// Gives errors that only SQS knows their class.
///
/// The codes are from the SQS API reference, "Errors" of ReceiveMessage and DeleteMessageBatch; the
/// service gives them in the form of its old protocol or of the new one.
pub(super) fn about_queue(error: AwsError) -> AwsError {
    let name = error.code.rsplit(['.', '#']).next().unwrap_or_default();
    let class = match name {
        "NonExistentQueue" | "QueueDoesNotExist" => Class::NotFound,
        "OverLimit" | "KmsThrottled" => Class::Throttled,
        "KmsAccessDenied" => Class::Denied,
        _ => error.class,
    };
    AwsError { class, ..error }
}

/// What failed, and the fix. `arn` is the queue's.
pub(super) fn why(error: &AwsError, identity: &str, region: &str, arn: &str) -> String {
    let who = match identity {
        "process" => "the identity of this process".to_owned(),
        role => role.to_owned(),
    };
    let about_sqs = error.action.starts_with("sqs:");
    let fix = match error.class {
        Class::NotFound if about_sqs => {
            format!(
                "create the queue {arn}, or correct `sqs` under `push`; until then changes are found at the next refresh"
            )
        }
        Class::Denied | Class::Invalid if about_sqs && error.code.to_lowercase().contains("kms") => {
            format!("check that the queue's KMS key is enabled and allow kms:Decrypt on it to {who}")
        }
        Class::Denied if about_sqs => format!("allow {} on {arn} to {who}", error.action),
        Class::Throttled if about_sqs => {
            format!(
                "nothing is wrong but the pace: {arn} has too many readers, or too many messages that none of them deletes"
            )
        }
        Class::Invalid if about_sqs => format!("correct `sqs` under `push`; SQS does not accept {arn} as it is"),
        _ => FetchError::new(error.clone(), identity, region).fix(),
    };
    format!("{error}; {fix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:sqs:eu-west-1:123456789012:q";

    fn told(class: Class, code: &str) -> (Class, String) {
        let error = about_queue(AwsError::new("sqs:ReceiveMessage", class, code, "m"));
        (error.class, why(&error, "arn:aws:iam::123456789012:role/app", "eu-west-1", ARN))
    }

    #[test]
    fn a_queue_that_is_gone_is_told_in_both_protocols_words() {
        for code in
            ["AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "com.amazonaws.sqs#QueueDoesNotExist"]
        {
            let (class, text) = told(Class::Invalid, code);
            assert_eq!(class, Class::NotFound);
            assert!(text.contains(&format!("create the queue {ARN}")), "{text}");
        }
    }

    #[test]
    fn a_denial_names_action_queue_and_identity() {
        let (_, text) = told(Class::Denied, "AccessDeniedException");
        assert_eq!(
            text,
            format!(
                "sqs:ReceiveMessage: AccessDeniedException: m; allow sqs:ReceiveMessage on {ARN} to arn:aws:iam::123456789012:role/app"
            )
        );
        let (class, text) = told(Class::Invalid, "KmsAccessDenied");
        assert_eq!(class, Class::Denied);
        assert!(text.contains("allow kms:Decrypt"), "{text}");
    }

    #[test]
    fn what_is_not_of_the_queue_is_told_as_everywhere() {
        let error = AwsError::new("sts:AssumeRole", Class::Denied, "AccessDenied", "m");
        assert!(why(&error, "r", "eu-west-1", ARN).contains("check that r trusts this process's role"));
        assert!(told(Class::Transient, "ConnectionFailed").1.contains("DNS"));
        assert!(told(Class::Throttled, "RequestThrottled").1.contains("too many readers"));
    }
}
