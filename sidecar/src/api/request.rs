//! What a request asks for, read from its path and query as AWS's agent reads them.

use super::refusal::Refusal;
use crate::source::SecretQuery;

/// Longest `SecretId` (Secrets Manager API reference, GetSecretValue).
const ID_MAX: usize = 2048;
/// Longest staging label, and above the 64 of a VersionId (the same page).
const VERSION_MAX: usize = 256;
/// Longest ARN of a role (IAM API reference, Role).
const ROLE_MAX: usize = 2048;

/// A request that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// `/ping`.
    Health,
    /// A secret.
    Secret(SecretRequest),
}

/// A request for a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SecretRequest {
    /// Which.
    pub(super) query: SecretQuery,
    /// Whether AWS is to be asked whatever is known.
    pub(super) refresh_now: bool,
    /// The role to ask as, in place of the configured identity.
    pub(super) role_arn: Option<String>,
}

impl Request {
    /// Reads a request's path and query. `/PREFIX/NAME` takes the name from the path, in which
    /// slashes may stand and other characters may be percent-encoded.
    pub(super) fn read(path: &str, query: Option<&str>, prefix: &str) -> Result<Self, Refusal> {
        let query = query.unwrap_or_default();
        match path {
            "/ping" => Ok(Self::Health),
            "/secretsmanager/get" => SecretRequest::read(None, query).map(Self::Secret),
            _ => match path.strip_prefix(prefix) {
                Some("") => Err(Refusal::bad_request("missing secret ID")),
                Some(name) => SecretRequest::read(Some(name), query).map(Self::Secret),
                None => Err(Refusal::not_found()),
            },
        }
    }
}

impl SecretRequest {
    /// `in_path` is the secret's name as it stands in the path; without it the query has one.
    fn read(in_path: Option<&str>, query: &str) -> Result<Self, Refusal> {
        let mut id = match in_path {
            Some(name) => Some(bounded("secretId", decode(name, false, "secretId")?, ID_MAX)?),
            None => None,
        };
        let id_in_path = id.is_some();
        let (mut version_id, mut version_stage, mut role_arn, mut refresh_now) = (None, None, None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = decode(key, true, "a parameter's name")?;
            let (slot, limit) = match key.as_str() {
                "secretId" if !id_in_path => (&mut id, ID_MAX),
                "versionId" => (&mut version_id, VERSION_MAX),
                "versionStage" => (&mut version_stage, VERSION_MAX),
                "roleArn" => (&mut role_arn, ROLE_MAX),
                "refreshNow" => (&mut refresh_now, VERSION_MAX),
                _ => return Err(Refusal::bad_request(format!("unknown parameter: {key}"))),
            };
            let value = bounded(&key, decode(value, true, &key)?, limit)?;
            if slot.replace(value).is_some() {
                return Err(Refusal::bad_request(format!("repeated parameter: {key}")));
            }
        }
        let refresh_now = match refresh_now {
            Some(text) => boolean(&text).ok_or_else(|| Refusal::bad_request("invalid refreshNow value"))?,
            None => false,
        };
        let id = id.filter(|id| !id.is_empty()).ok_or_else(|| Refusal::bad_request("missing parameter secretId"))?;
        for (key, value) in [("versionId", &version_id), ("versionStage", &version_stage)] {
            if value.as_ref().is_some_and(String::is_empty) {
                return Err(Refusal::bad_request(format!("empty parameter {key}")));
            }
        }
        if role_arn.as_deref().is_some_and(|arn| !is_role(arn)) {
            return Err(Refusal::bad_request(
                "invalid roleArn format, expected arn:<partition>:iam::<account>:role/<name>",
            ));
        }
        Ok(Self { query: SecretQuery { id, version_id, version_stage }, refresh_now, role_arn })
    }
}

fn bounded(key: &str, value: String, limit: usize) -> Result<String, Refusal> {
    if value.len() > limit {
        return Err(Refusal::bad_request(format!("{key} is longer than {limit} characters")));
    }
    Ok(value)
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// Whether a text has the form of a role's ARN, in any partition, with or without a path.
fn is_role(arn: &str) -> bool {
    let word = |byte: u8, more: &[u8]| byte.is_ascii_alphanumeric() || byte == b'_' || more.contains(&byte);
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ["arn", partition, "iam", "", account, resource] = parts[..] else { return false };
    let Some(name) = resource.strip_prefix("role/") else { return false };
    !partition.is_empty()
        && partition.bytes().all(|byte| word(byte, b"-"))
        && account.len() == 12
        && account.bytes().all(|byte| byte.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| word(byte, b"+=,.@/-"))
}

/// Undoes percent-encoding. A `%` that encodes nothing stands for itself, as browsers and AWS's
/// agent have it; `plus` tells whether `+` is a space, as it is in a query and not in a path.
fn decode(text: &str, plus: bool, what: &str) -> Result<String, Refusal> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [b'%', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(digit(*high) << 4 | digit(*low));
                tail
            }
            [b'+', tail @ ..] if plus => {
                bytes.push(b' ');
                tail
            }
            [byte, tail @ ..] => {
                bytes.push(*byte);
                tail
            }
            [] => break,
        };
    }
    String::from_utf8(bytes).map_err(|_| Refusal::bad_request(format!("{what} is not UTF-8")))
}

fn digit(hex: u8) -> u8 {
    match hex {
        b'0'..=b'9' => hex - b'0',
        _ => (hex | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(target: &str) -> Result<Request, (u16, String)> {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        Request::read(path, query, "/v1/").map_err(|refusal| (refusal.status.as_u16(), refusal.body))
    }

    fn secret(target: &str) -> SecretRequest {
        match read(target) {
            Ok(Request::Secret(request)) => request,
            other => panic!("{target}: {other:?}"),
        }
    }

    fn named(id: &str) -> SecretRequest {
        let query = SecretQuery { id: id.to_owned(), version_id: None, version_stage: None };
        SecretRequest { query, refresh_now: false, role_arn: None }
    }

    #[test]
    fn reads_every_form() {
        assert_eq!(read("/ping"), Ok(Request::Health));
        for (target, id) in [
            ("/secretsmanager/get?secretId=MyTest", "MyTest"),
            ("/secretsmanager/get?&secretId=MyTest&", "MyTest"),
            ("/secretsmanager/get?secretId=prod%2Fdb%2B1", "prod/db+1"),
            ("/secretsmanager/get?secret%49d=prod/db", "prod/db"),
            ("/v1/MyTest", "MyTest"),
            ("/v1/prod/db", "prod/db"),
            ("/v1/prod%2Fdb+1", "prod/db+1"),
            ("/v1/100%", "100%"),
            ("/v1/a%zz%4", "a%zz%4"),
            (
                "/v1/arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db-AbCdEf",
                "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db-AbCdEf",
            ),
        ] {
            assert_eq!(secret(target), named(id), "{target}");
        }
        let versions = "versionId=v&versionStage=AWSPREVIOUS";
        for target in [format!("/secretsmanager/get?secretId=a&{versions}"), format!("/v1/a?{versions}")] {
            let query =
                SecretQuery { id: "a".into(), version_id: Some("v".into()), version_stage: Some("AWSPREVIOUS".into()) };
            assert_eq!(secret(&target).query, query, "{target}");
        }
        for (text, value) in
            [("true", true), ("TRUE", true), ("1", true), ("false", false), ("False", false), ("0", false)]
        {
            assert_eq!(secret(&format!("/v1/a?refreshNow={text}")).refresh_now, value, "{text}");
        }
        for arn in ["arn:aws:iam::123456789012:role/app", "arn:aws-us-gov:iam::123456789012:role/team/app+=,.@-_"] {
            let role = secret(&format!("/v1/a?roleArn={}", arn.replace('+', "%2B"))).role_arn;
            assert_eq!(role.as_deref(), Some(arn));
        }
    }

    #[test]
    fn refuses_in_the_words_of_the_agent() {
        for (target, status, body) in [
            ("/", 404, "Not found"),
            ("/v2/a", 404, "Not found"),
            ("/ping/", 404, "Not found"),
            ("/secretsmanager/get/", 404, "Not found"),
            ("/v1/", 400, "missing secret ID"),
            ("/v1/?versionId=a", 400, "missing secret ID"),
            ("/secretsmanager/get", 400, "missing parameter secretId"),
            ("/secretsmanager/get?secretId=", 400, "missing parameter secretId"),
            ("/secretsmanager/get?versionId=a", 400, "missing parameter secretId"),
            ("/secretsmanager/get?secretId=a&abc=123", 400, "unknown parameter: abc"),
            ("/secretsmanager/get?secretId=a&secretid=b", 400, "unknown parameter: secretid"),
            ("/v1/a?abc=123", 400, "unknown parameter: abc"),
            ("/v1/a?secretId=b", 400, "unknown parameter: secretId"),
            ("/v1/a?refreshNow=123", 400, "invalid refreshNow value"),
            ("/v1/a?refreshNow=", 400, "invalid refreshNow value"),
            ("/v1/a?refreshNow", 400, "invalid refreshNow value"),
            // What the agent takes the last of, or lets AWS refuse.
            ("/v1/a?versionId=b&versionId=c", 400, "repeated parameter: versionId"),
            ("/v1/a?versionId=", 400, "empty parameter versionId"),
            ("/v1/a?versionStage=", 400, "empty parameter versionStage"),
            ("/v1/%ff", 400, "secretId is not UTF-8"),
            (
                "/v1/a?roleArn=arn:aws:iam::1:role/app",
                400,
                "invalid roleArn format, expected arn:<partition>:iam::<account>:role/<name>",
            ),
            ("/v1/a?roleArn=", 400, "invalid roleArn format, expected arn:<partition>:iam::<account>:role/<name>"),
        ] {
            assert_eq!(read(target), Err((status, body.to_owned())), "{target}");
        }
        let long = read(&format!("/v1/{}", "a".repeat(2049)));
        assert_eq!(long, Err((400, "secretId is longer than 2048 characters".to_owned())));
    }

    fn encode(text: &str) -> String {
        text.bytes().map(|byte| format!("%{byte:02X}")).collect()
    }

    proptest! {
        #[test]
        fn never_panics(target in any::<String>(), prefix in "/[a-z/]{0,4}") {
            let (path, query) = target.split_once('?').unwrap_or((&target, ""));
            let _ = Request::read(path, Some(query), &prefix);
            let _ = Request::read(&format!("{prefix}{path}"), Some(query), &prefix);
            let _ = Request::read("/secretsmanager/get", Some(query), &prefix);
        }

        #[test]
        fn never_panics_on_what_looks_like_a_query(
            pairs in proptest::collection::vec("(secretId|versionId|versionStage|refreshNow|roleArn|x)?=?[%+&=a-f0-9A-Zé]{0,8}", 0..6),
        ) {
            let _ = read(&format!("/secretsmanager/get?{}", pairs.join("&")));
        }

        #[test]
        fn what_is_encoded_arrives_as_it_was(id in "[^\u{0}]{1,40}", stage in "[^\u{0}]{1,40}") {
            let expected = SecretQuery { id: id.clone(), version_id: None, version_stage: Some(stage.clone()) };
            let (id, stage) = (encode(&id), encode(&stage));
            prop_assert_eq!(&secret(&format!("/secretsmanager/get?versionStage={stage}&secretId={id}")).query, &expected);
            prop_assert_eq!(&secret(&format!("/v1/{id}?versionStage={stage}")).query, &expected);
        }
    }
}
