//! The body of an answer: AWS's JSON, in memory that is wiped when it has been sent.

use std::fmt;
use std::io::{self, Write};
use std::time::SystemTime;

use axum::body::Bytes;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use coffer_runtime::Secret;
use serde::{Serialize, Serializer};

use crate::render::Value;
use crate::source::{Whole, WholeParameter, WholeSecret};

/// Writes what AWS said.
pub(super) fn write(whole: &Whole) -> serde_json::Result<Bytes> {
    match whole {
        Whole::Secret(secret) => json(&SecretDocument::of(secret)),
        Whole::Parameter(parameter) => {
            json(&ParameterDocument { parameter: ParameterFields::of(parameter), result_metadata: Nothing {} })
        }
    }
}

fn json(document: &impl Serialize) -> serde_json::Result<Bytes> {
    // Of the right size from the start: a buffer that grows would leave copies behind.
    let mut length = Length(0);
    serde_json::to_writer(&mut length, document)?;
    let mut bytes = Vec::with_capacity(length.0);
    serde_json::to_writer(&mut bytes, document)?;
    Ok(Bytes::from_owner(Body(Secret::new(bytes))))
}

/// A secret as AWS's agent writes it: the fields in its order, `null` for what AWS always tells and
/// did not, and the date as a text of seconds since 1970.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SecretDocument<'a> {
    #[serde(rename = "ARN")]
    arn: Option<&'a str>,
    name: Option<&'a str>,
    version_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_string: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_binary: Option<Base64<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_stages: Option<&'a [String]>,
    created_date: Option<String>,
}

/// A parameter as AWS's Parameters and Secrets Lambda Extension writes it: `null` for what AWS did not
/// tell, the date as RFC 3339, and an empty object that clients may look for.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ParameterDocument<'a> {
    parameter: ParameterFields<'a>,
    result_metadata: Nothing,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ParameterFields<'a> {
    #[serde(rename = "ARN")]
    arn: Option<&'a str>,
    data_type: Option<&'a str>,
    last_modified_date: Option<String>,
    name: Option<&'a str>,
    selector: Option<&'a str>,
    source_result: Option<&'a str>,
    r#type: Option<&'a str>,
    value: Option<&'a str>,
    version: i64,
}

#[derive(Serialize)]
struct Nothing {}

impl<'a> SecretDocument<'a> {
    fn of(secret: &'a WholeSecret) -> Self {
        let (secret_string, secret_binary) = match &secret.value {
            Some(Value::Text(value)) => (Some(text(value)), None),
            Some(Value::Binary(bytes)) => (None, Some(Base64(bytes))),
            None => (None, None),
        };
        Self {
            arn: secret.arn.as_deref(),
            name: secret.name.as_deref(),
            version_id: secret.version_id.as_deref(),
            secret_string,
            secret_binary,
            version_stages: secret.version_stages.as_deref(),
            created_date: secret.created.map(seconds),
        }
    }
}

impl<'a> ParameterFields<'a> {
    fn of(parameter: &'a WholeParameter) -> Self {
        Self {
            arn: parameter.arn.as_deref(),
            data_type: parameter.data_type.as_deref(),
            last_modified_date: parameter.last_modified.map(|time| humantime::format_rfc3339_millis(time).to_string()),
            name: parameter.name.as_deref(),
            selector: parameter.selector.as_deref(),
            source_result: parameter.source_result.as_deref(),
            r#type: parameter.kind.as_deref(),
            value: parameter.value.as_ref().map(text),
            version: parameter.version,
        }
    }
}

fn text(value: &Secret) -> &str {
    str::from_utf8(value.expose()).expect("the SDK gave this value as a text")
}

struct Base64<'a>(&'a Secret);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Piece by piece, without a text of the whole in between.
        serializer.collect_str(&Base64Display::new(self.0.expose(), &STANDARD))
    }
}

/// Seconds since 1970 with as many decimals as AWS gave.
fn seconds(time: SystemTime) -> String {
    let seconds = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => after.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    };
    seconds.to_string()
}

struct Body(Secret);

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body(…)")
    }
}

/// Counts what would be written.
struct Length(usize);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn secret(value: Option<Value>) -> WholeSecret {
        WholeSecret {
            arn: Some("arn:aws:secretsmanager:us-west-2:123456789012:secret:MyTest-NhBWsc".into()),
            name: Some("MyTest".into()),
            version_id: Some("5767290c-d089-49ed-b97c-17086f8c9d79".into()),
            value,
            version_stages: Some(vec!["AWSCURRENT".into()]),
            // As the SDK makes it of the JSON number 1569534789.046.
            created: Some(SystemTime::UNIX_EPOCH + Duration::new(1_569_534_789, 46_000_099)),
            request_id: None,
        }
    }

    fn written(secret: WholeSecret) -> String {
        String::from_utf8(write(&Whole::Secret(secret)).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn a_secret_reads_as_the_agent_writes_it() {
        assert_eq!(
            written(secret(Some(Value::Text(Secret::copy_of(b"{\"a\":\"b\"}"))))),
            r#"{"ARN":"arn:aws:secretsmanager:us-west-2:123456789012:secret:MyTest-NhBWsc","Name":"MyTest","VersionId":"5767290c-d089-49ed-b97c-17086f8c9d79","SecretString":"{\"a\":\"b\"}","VersionStages":["AWSCURRENT"],"CreatedDate":"1569534789.046"}"#
        );
        let binary = written(secret(Some(Value::Binary(Secret::copy_of(b"\0\xff\x10")))));
        assert!(
            binary.contains(r#""SecretBinary":"AP8Q","VersionStages""#) && !binary.contains("SecretString"),
            "{binary}"
        );
    }

    #[test]
    fn what_aws_left_out_is_null_or_left_out() {
        let nothing = WholeSecret {
            arn: None,
            name: None,
            version_id: None,
            value: None,
            version_stages: None,
            created: None,
            request_id: None,
        };
        assert_eq!(written(nothing), r#"{"ARN":null,"Name":null,"VersionId":null,"CreatedDate":null}"#);
    }

    #[test]
    fn a_parameter_reads_as_the_lambda_extension_writes_it() {
        let parameter = Whole::Parameter(WholeParameter {
            arn: Some("arn:aws:ssm:us-west-2:123456789012:parameter/level".into()),
            data_type: Some("text".into()),
            last_modified: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_569_534_789_046)),
            name: Some("/level".into()),
            selector: None,
            source_result: None,
            kind: Some("String".into()),
            value: Some(Secret::copy_of(b"a \"quoted\" one")),
            version: 3,
            request_id: None,
        });
        assert_eq!(
            String::from_utf8(write(&parameter).unwrap().to_vec()).unwrap(),
            r#"{"Parameter":{"ARN":"arn:aws:ssm:us-west-2:123456789012:parameter/level","DataType":"text","LastModifiedDate":"2019-09-26T21:53:09.046Z","Name":"/level","Selector":null,"SourceResult":null,"Type":"String","Value":"a \"quoted\" one","Version":3},"ResultMetadata":{}}"#
        );
    }

    #[test]
    fn a_date_of_whole_seconds_has_no_decimals() {
        assert_eq!(seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(1_569_534_789)), "1569534789");
        assert_eq!(seconds(SystemTime::UNIX_EPOCH - Duration::from_millis(1500)), "-1.5");
    }

    proptest! {
        #[test]
        fn any_text_and_any_bytes_read_back(value in any::<String>(), bytes: Vec<u8>) {
            use base64::Engine as _;
            let read = |value| serde_json::from_str::<serde_json::Value>(&written(secret(Some(value)))).unwrap();
            let text = read(Value::Text(Secret::copy_of(value.as_bytes())));
            prop_assert_eq!(text["SecretString"].as_str(), Some(value.as_str()));
            let binary = read(Value::Binary(Secret::copy_of(&bytes)));
            prop_assert_eq!(STANDARD.decode(binary["SecretBinary"].as_str().unwrap()).unwrap(), bytes);
        }
    }
}
