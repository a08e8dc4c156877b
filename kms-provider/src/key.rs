//! How a KMS key is named, and the encryption context that goes with it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

/// Longest name of a key, in bytes: far above the longest ARN, and with room for what is added to it in a
/// key_id, of which an API server takes 1,024 bytes (k8s.io/apiserver, `kmsv2/envelope.go`).
const NAME_MAX: usize = 900;

/// A key as a flag names it: a key id, an alias, or the ARN of either.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyName {
    text: String,
    arn: Option<Arn>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Arn {
    partition: String,
    region: String,
    account: String,
}

/// A name that KMS would not take for a key's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyNameError {
    /// It is empty.
    #[error("no key is named; give a key id, a key ARN, or an alias as `alias/NAME`")]
    Empty,
    /// It is an ARN of something else, or not a whole one.
    #[error("'{0}' is not the ARN of a KMS key or alias; they look like arn:aws:kms:REGION:ACCOUNT:key/ID")]
    NotAKey(String),
    /// It holds what no name of a key holds.
    #[error("'{0}' cannot name a KMS key; give a key id, a key ARN, or an alias as `alias/NAME`")]
    Malformed(String),
}

impl KeyName {
    /// The name as it was written. It is the key_id that an API server gets to see, as the AWS
    /// Encryption Provider does it (its `pkg/plugin/plugin_v2.go`).
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The region that the ARN names, if it is an ARN.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.arn.as_ref().map(|arn| arn.region.as_str())
    }

    /// Whether this is an alias, which may point to another key tomorrow.
    #[must_use]
    pub fn is_alias(&self) -> bool {
        self.resource().starts_with("alias/")
    }

    /// Whether this is a multi-region key, which has one key id in each of its regions (AWS KMS
    /// Developer Guide, "Multi-Region keys").
    #[must_use]
    pub fn is_multi_region(&self) -> bool {
        self.key_id().is_some_and(|id| id.starts_with("mrk-"))
    }

    /// The same multi-region key in another region; nothing for other keys.
    #[must_use]
    pub fn in_region(&self, region: &str) -> Option<String> {
        let id = self.key_id().filter(|_| self.is_multi_region())?;
        Some(match &self.arn {
            None => id.to_owned(),
            Some(Arn { partition, account, .. }) => format!("arn:{partition}:kms:{region}:{account}:key/{id}"),
        })
    }

    /// The bare key id; nothing for an alias.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        let resource = self.resource();
        if self.is_alias() { None } else { Some(resource.strip_prefix("key/").unwrap_or(resource)) }
    }

    fn resource(&self) -> &str {
        match self.arn {
            Some(_) => self.text.splitn(6, ':').nth(5).unwrap_or_default(),
            None => &self.text,
        }
    }
}

impl FromStr for KeyName {
    type Err = KeyNameError;

    fn from_str(text: &str) -> Result<Self, KeyNameError> {
        if text.is_empty() {
            return Err(KeyNameError::Empty);
        }
        if text.len() > NAME_MAX || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(KeyNameError::Malformed(text.chars().take(80).collect()));
        }
        if !text.starts_with("arn:") {
            return Ok(Self { text: text.to_owned(), arn: None });
        }
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        match parts[..] {
            [_, partition, "kms", region, account, resource]
                if !partition.is_empty()
                    && !region.is_empty()
                    && !account.is_empty()
                    && ["key/", "alias/"]
                        .iter()
                        .any(|kind| resource.len() > kind.len() && resource.starts_with(kind)) =>
            {
                let arn =
                    Arn { partition: partition.to_owned(), region: region.to_owned(), account: account.to_owned() };
                Ok(Self { text: text.to_owned(), arn: Some(arn) })
            }
            _ => Err(KeyNameError::NotAKey(text.to_owned())),
        }
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An encryption context: what KMS binds to a ciphertext, and wants to see again to decrypt it. It is
/// not secret: it stands in CloudTrail.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct EncryptionContext(BTreeMap<String, String>);

/// A text that is no list of pairs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// A part of it is not a pair.
    #[error("'{0}' is not KEY=VALUE; write the pairs as a=b,c=d")]
    NotAPair(String),
    /// A quote is not closed, or stands where none may.
    #[error("the quotes in '{0}' do not match; quote a whole pair that holds a comma, as in a=b,\"c=d,e\"")]
    Quotes(String),
}

impl EncryptionContext {
    /// As the SDK takes it; nothing when there is none.
    #[must_use]
    pub fn to_request(&self) -> Option<HashMap<String, String>> {
        (!self.0.is_empty()).then(|| self.0.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// Whether it holds no pair.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for EncryptionContext {
    type Err = ContextError;

    /// Reads the form of the AWS Encryption Provider's `--encryption-context`: one line of CSV, brackets
    /// around it allowed; of two pairs with one key the last counts.
    fn from_str(text: &str) -> Result<Self, ContextError> {
        let line = text.trim_matches(['[', ']']);
        if line.is_empty() {
            return Ok(Self::default());
        }
        let fields = csv_fields(line).ok_or_else(|| ContextError::Quotes(text.to_owned()))?;
        let pairs = fields.into_iter().map(|field| match field.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(ContextError::NotAPair(field.clone())),
        });
        Ok(Self(pairs.collect::<Result<_, _>>()?))
    }
}

/// The fields of one line of CSV as RFC 4180 has it; nothing if its quotes do not match.
#[must_use]
pub fn csv_fields(line: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (field, after) = rest.split_at(end);
                if field.contains('"') {
                    return None;
                }
                (field.to_owned(), after)
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None if after.is_empty() => return Some(fields),
            None => return None,
        }
    }
}

/// The text up to the closing quote, and what follows it.
fn quoted_field(quoted: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut rest = quoted;
    loop {
        let (part, after) = rest.split_once('"')?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Some((field, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> KeyName {
        text.parse().unwrap()
    }

    #[test]
    fn every_form_of_a_key_is_understood() {
        let arn = name("arn:aws-us-gov:kms:us-gov-west-1:123456789012:key/mrk-12ab");
        assert_eq!(arn.region(), Some("us-gov-west-1"));
        assert_eq!(arn.key_id(), Some("mrk-12ab"));
        assert!(arn.is_multi_region() && !arn.is_alias());
        let elsewhere = arn.in_region("us-gov-east-1").unwrap();
        assert_eq!(elsewhere, "arn:aws-us-gov:kms:us-gov-east-1:123456789012:key/mrk-12ab");
        assert_eq!(name("mrk-12ab").in_region("eu-west-1").as_deref(), Some("mrk-12ab"));

        let alias = name("arn:aws:kms:eu-west-1:123456789012:alias/a/b");
        assert!(alias.is_alias() && alias.key_id().is_none() && alias.in_region("eu-west-2").is_none());
        assert!(name("alias/etcd").is_alias());
        assert_eq!(name("1234abcd-12ab-34cd-56ef-1234567890ab").region(), None);
    }

    #[test]
    fn what_names_no_key_is_refused() {
        for text in ["", "arn:aws:s3:::bucket", "arn:aws:kms:eu-west-1:123456789012:key/", "a key", "arn:aws:kms"] {
            assert!(text.parse::<KeyName>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_context_is_read_as_the_other_plugin_reads_it() {
        let context = |text: &str| text.parse::<EncryptionContext>().map(|context| context.0);
        let pairs = |pairs: &[(&str, &str)]| {
            Ok(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        assert_eq!(context(""), pairs(&[]));
        assert_eq!(context("[]"), pairs(&[]));
        assert_eq!(context("a=b,c=d=e"), pairs(&[("a", "b"), ("c", "d=e")]));
        assert_eq!(context("[a=b]"), pairs(&[("a", "b")]));
        assert_eq!(context("a=b,\"c=d,\"\"e\"\"\""), pairs(&[("a", "b"), ("c", "d,\"e\"")]));
        assert_eq!(context("a=1,a=2"), pairs(&[("a", "2")]));
        assert_eq!(context("a=b,c"), Err(ContextError::NotAPair("c".to_owned())));
        assert!(context("a=b,\"c=d").unwrap_err().to_string().contains("quotes"));
    }
}
