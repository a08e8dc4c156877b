//! What a request asks for, read from its path and query as AWS's agent and AWS's Lambda extension read
//! them.

use coffer_runtime::aws::is_role_arn;

use super::refusal::Refusal;
use crate::source::{ParameterQuery, SecretQuery, WholeQuery};

/// Longest `SecretId`, and longest `Name` of a parameter with its ARN (API references, GetSecretValue and
/// GetParameter).
const NAME_MAX: usize = 2048;
/// Longest staging label, and above what a VersionId, a version number or a label may be (the same pages).
const VERSION_MAX: usize = 256;
/// Longest ARN of a role (IAM API reference, Role).
const ROLE_MAX: usize = 2048;

/// A request that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// `/ping`.
    Health,
    /// A secret or a parameter.
    Value(ValueRequest),
}

/// A request for a secret or a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ValueRequest {
    /// Which.
    pub(super) query: WholeQuery,
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
            "/secretsmanager/get" => secret(None, query).map(Self::Value),
            // AWS's own examples write it with a slash at the end.
            "/systemsmanager/parameters/get" | "/systemsmanager/parameters/get/" => parameter(query).map(Self::Value),
            _ => match path.strip_prefix(prefix) {
                Some("") => Err(Refusal::bad_request("missing secret ID")),
                Some(name) => secret(Some(name), query).map(Self::Value),
                None => Err(Refusal::not_found()),
            },
        }
    }
}

/// `in_path` is the secret's name as it stands in the path; without it the query has one.
fn secret(in_path: Option<&str>, query: &str) -> Result<ValueRequest, Refusal> {
    let own: &[&str] =
        if in_path.is_some() { &["versionId", "versionStage"] } else { &["versionId", "versionStage", "secretId"] };
    let mut pairs = Pairs::read(query, own)?;
    let id = match in_path {
        Some(name) => Some(bounded("secretId", decode(name, false, "secretId")?)?),
        None => pairs.take("secretId"),
    };
    let refresh_now = pairs.boolean("refreshNow")?;
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| Refusal::bad_request("missing parameter secretId"))?;
    let (version_id, version_stage) = (pairs.filled("versionId")?, pairs.filled("versionStage")?);
    let query = WholeQuery::Secret(SecretQuery { id, version_id, version_stage });
    Ok(ValueRequest { query, refresh_now, role_arn: pairs.role()? })
}

/// As AWS's Parameters and Secrets Lambda Extension has it.
fn parameter(query: &str) -> Result<ValueRequest, Refusal> {
    let mut pairs = Pairs::read(query, &["name", "version", "label", "withDecryption"])?;
    let refresh_now = pairs.boolean("refreshNow")?;
    let decrypt = pairs.boolean("withDecryption")?;
    let name = pairs.take("name").filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Refusal::bad_request("missing parameter name"))?;
    let selector = match (pairs.filled("version")?, pairs.filled("label")?) {
        (Some(version), None) if version.bytes().any(|byte| !byte.is_ascii_digit()) => {
            return Err(Refusal::bad_request("invalid version value"));
        }
        (Some(_), Some(_)) => return Err(Refusal::bad_request("version and label each choose a version; keep one")),
        (version, label) => version.or(label),
    };
    let query = WholeQuery::Parameter(ParameterQuery { name, selector, decrypt });
    Ok(ValueRequest { query, refresh_now, role_arn: pairs.role()? })
}

/// The parameters of a query, each known and there once.
struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// `own` are the parameters of one kind of request; what all take is known anyway.
    fn read(query: &str, own: &[&str]) -> Result<Self, Refusal> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = decode(key, true, "a parameter's name")?;
            if !own.contains(&key.as_str()) && !["refreshNow", "roleArn"].contains(&key.as_str()) {
                return Err(Refusal::bad_request(format!("unknown parameter: {key}")));
            }
            if pairs.iter().any(|(other, _)| *other == key) {
                return Err(Refusal::bad_request(format!("repeated parameter: {key}")));
            }
            let value = bounded(&key, decode(value, true, &key)?)?;
            pairs.push((key, value));
        }
        Ok(Self(pairs))
    }

    fn take(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == key)?;
        Some(self.0.swap_remove(at).1)
    }

    /// A text that is something if it is there.
    fn filled(&mut self, key: &str) -> Result<Option<String>, Refusal> {
        match self.take(key) {
            Some(value) if value.is_empty() => Err(Refusal::bad_request(format!("empty parameter {key}"))),
            value => Ok(value),
        }
    }

    /// False if it is not there.
    fn boolean(&mut self, key: &str) -> Result<bool, Refusal> {
        let Some(text) = self.take(key) else { return Ok(false) };
        boolean(&text).ok_or_else(|| Refusal::bad_request(format!("invalid {key} value")))
    }

    fn role(&mut self) -> Result<Option<String>, Refusal> {
        let arn = self.take("roleArn");
        if arn.as_deref().is_some_and(|arn| !is_role_arn(arn)) {
            let expected = "invalid roleArn format, expected arn:<partition>:iam::<account>:role/<name>";
            return Err(Refusal::bad_request(expected));
        }
        Ok(arn)
    }
}

fn bounded(key: &str, value: String) -> Result<String, Refusal> {
    let limit = match key {
        "secretId" | "name" => NAME_MAX,
        "roleArn" => ROLE_MAX,
        _ => VERSION_MAX,
    };
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

    fn value(target: &str) -> ValueRequest {
        match read(target) {
            Ok(Request::Value(request)) => request,
            other => panic!("{target}: {other:?}"),
        }
    }

    fn secret(id: &str, version_id: Option<&str>, version_stage: Option<&str>) -> WholeQuery {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let (version_id, version_stage) = (owned(version_id), owned(version_stage));
        WholeQuery::Secret(SecretQuery { id: id.to_owned(), version_id, version_stage })
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
            let expected = ValueRequest { query: secret(id, None, None), refresh_now: false, role_arn: None };
            assert_eq!(value(target), expected, "{target}");
        }
        let versions = "versionId=v&versionStage=AWSPREVIOUS";
        for target in [format!("/secretsmanager/get?secretId=a&{versions}"), format!("/v1/a?{versions}")] {
            assert_eq!(value(&target).query, secret("a", Some("v"), Some("AWSPREVIOUS")), "{target}");
        }
        for (text, expected) in
            [("true", true), ("TRUE", true), ("1", true), ("false", false), ("False", false), ("0", false)]
        {
            assert_eq!(value(&format!("/v1/a?refreshNow={text}")).refresh_now, expected, "{text}");
        }
        for arn in ["arn:aws:iam::123456789012:role/app", "arn:aws-us-gov:iam::123456789012:role/team/app+=,.@-_"] {
            let role = value(&format!("/v1/a?roleArn={}", arn.replace('+', "%2B"))).role_arn;
            assert_eq!(role.as_deref(), Some(arn));
        }
    }

    #[test]
    fn reads_requests_for_parameters_as_the_lambda_extension_does() {
        let parameter = |name: &str, selector: Option<&str>, decrypt| {
            let selector = selector.map(str::to_owned);
            WholeQuery::Parameter(ParameterQuery { name: name.to_owned(), selector, decrypt })
        };
        for (query, expected) in [
            ("name=level", parameter("level", None, false)),
            ("name=%2Fprod%2Flevel&withDecryption=true", parameter("/prod/level", None, true)),
            ("name=/prod/level&version=3&withDecryption=false", parameter("/prod/level", Some("3"), false)),
            ("label=blue&name=/prod/level", parameter("/prod/level", Some("blue"), false)),
        ] {
            for path in ["/systemsmanager/parameters/get", "/systemsmanager/parameters/get/"] {
                assert_eq!(value(&format!("{path}?{query}")).query, expected, "{path}?{query}");
            }
        }
        for (query, body) in [
            ("", "missing parameter name"),
            ("name=", "missing parameter name"),
            ("name=a&version=1&label=b", "version and label each choose a version; keep one"),
            ("name=a&version=b", "invalid version value"),
            ("name=a&withDecryption=maybe", "invalid withDecryption value"),
            ("name=a&secretId=b", "unknown parameter: secretId"),
        ] {
            let refused = read(&format!("/systemsmanager/parameters/get?{query}"));
            assert_eq!(refused, Err((400, body.to_owned())), "{query}");
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
            let _ = Request::read("/systemsmanager/parameters/get", Some(query), &prefix);
        }

        #[test]
        fn never_panics_on_what_looks_like_a_query(
            pairs in proptest::collection::vec("(secretId|name|label|versionId|versionStage|refreshNow|roleArn|x)?=?[%+&=a-f0-9A-Zé]{0,8}", 0..6),
        ) {
            let query = pairs.join("&");
            let _ = read(&format!("/secretsmanager/get?{query}"));
            let _ = read(&format!("/systemsmanager/parameters/get?{query}"));
        }

        #[test]
        fn what_is_encoded_arrives_as_it_was(id in "[^\u{0}]{1,40}", stage in "[^\u{0}]{1,40}") {
            let expected = secret(&id, None, Some(&stage));
            let (id, stage) = (encode(&id), encode(&stage));
            prop_assert_eq!(&value(&format!("/secretsmanager/get?versionStage={stage}&secretId={id}")).query, &expected);
            prop_assert_eq!(&value(&format!("/v1/{id}?versionStage={stage}")).query, &expected);
        }
    }
}
