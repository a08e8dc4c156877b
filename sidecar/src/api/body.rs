//! The body of an answer: GetSecretValue's JSON, in memory that is wiped when it has been sent.

use std::fmt;
use std::io::{self, Write};
use std::time::SystemTime;

use axum::body::Bytes;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use coffer_runtime::Secret;
use serde::{Serialize, Serializer};

use crate::render::Value;
use crate::source::WholeSecret;

/// Writes a secret as AWS's agent does: the fields in its order, `null` for what AWS always tells
/// and did not, and the date as a text of seconds since 1970.
pub(super) fn write(secret: &WholeSecret) -> serde_json::Result<Bytes> {
    let (text, binary) = match &secret.value {
        Some(Value::Text(text)) => (Some(str::from_utf8(text.expose()).expect("Value::Text is valid UTF-8")), None),
        Some(Value::Binary(bytes)) => (None, Some(Base64(bytes))),
        None => (None, None),
    };
    let document = Document {
        arn: secret.arn.as_deref(),
        name: secret.name.as_deref(),
        version_id: secret.version_id.as_deref(),
        secret_string: text,
        secret_binary: binary,
        version_stages: secret.version_stages.as_deref(),
        created_date: secret.created.map(seconds),
    };
    // Of the right size from the start: a buffer that grows would leave copies behind.
    let mut length = Length(0);
    serde_json::to_writer(&mut length, &document)?;
    let mut bytes = Vec::with_capacity(length.0);
    serde_json::to_writer(&mut bytes, &document)?;
    Ok(Bytes::from_owner(Body(Secret::new(bytes))))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Document<'a> {
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
        }
    }

    fn text(secret: &WholeSecret) -> String {
        String::from_utf8(write(secret).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn a_secret_reads_as_the_agent_writes_it() {
        assert_eq!(
            text(&secret(Some(Value::Text(Secret::copy_of(b"{\"a\":\"b\"}"))))),
            r#"{"ARN":"arn:aws:secretsmanager:us-west-2:123456789012:secret:MyTest-NhBWsc","Name":"MyTest","VersionId":"5767290c-d089-49ed-b97c-17086f8c9d79","SecretString":"{\"a\":\"b\"}","VersionStages":["AWSCURRENT"],"CreatedDate":"1569534789.046"}"#
        );
        let binary = text(&secret(Some(Value::Binary(Secret::copy_of(b"\0\xff\x10")))));
        assert!(
            binary.contains(r#""SecretBinary":"AP8Q","VersionStages""#) && !binary.contains("SecretString"),
            "{binary}"
        );
    }

    #[test]
    fn what_aws_left_out_is_null_or_left_out() {
        let nothing =
            WholeSecret { arn: None, name: None, version_id: None, value: None, version_stages: None, created: None };
        assert_eq!(text(&nothing), r#"{"ARN":null,"Name":null,"VersionId":null,"CreatedDate":null}"#);
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
            let read = |value| serde_json::from_str::<serde_json::Value>(&text(&secret(Some(value)))).unwrap();
            let text = read(Value::Text(Secret::copy_of(value.as_bytes())));
            prop_assert_eq!(text["SecretString"].as_str(), Some(value.as_str()));
            let binary = read(Value::Binary(Secret::copy_of(&bytes)));
            prop_assert_eq!(STANDARD.decode(binary["SecretBinary"].as_str().unwrap()).unwrap(), bytes);
        }
    }
}
