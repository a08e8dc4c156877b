//! `push`: the queue that brings the news of changes.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use coffer_runtime::aws::is_region;

use super::super::RoleStep;
use super::super::yaml::Node;
use super::fields::{Fields, Problems, duration, text};
use super::inherited::{EXTERNAL_ID_KEY, Inherited, inherited, region_key, role_arn_key};
use super::table::{Demands, Mapping, Setting, Takes, Without};

/// Enough to spread a fleet of hundreds over more than one of AWS's quota seconds, and too short
/// for an application to notice.
const DEFAULT_SPREAD: Duration = Duration::from_millis(500);
const SPREAD: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);
/// Longest name of a queue, `.fifo` included (SQS API reference, CreateQueue, `QueueName`).
const QUEUE_NAME_MAX: usize = 80;

pub(super) static PUSH: Mapping = Mapping {
    id: "push",
    what: "`push`",
    meaning: "The queue that tells of changes, so that they are fetched within a second or so",
    keys: &[
        Setting {
            name: "sqs",
            takes: Takes::Form(
                "the URL of an SQS queue",
                "^https?://[A-Za-z0-9.:\\[\\]-]+(/queue/[^/]+)?/[0-9]{12}/[A-Za-z0-9_-]+(\\.fifo)?$",
                "https://sqs.eu-west-1.amazonaws.com/123456789012/coffer-push",
            ),
            without: Without::Refused,
            meaning: "The queue to which EventBridge sends events of secrets and parameters; one for each process",
        },
        role_arn_key("the process's own identity"),
        EXTERNAL_ID_KEY,
        region_key("what the queue's URL says, or that of the process"),
        Setting {
            name: "spread",
            takes: Takes::Time(SPREAD),
            without: Without::Time(DEFAULT_SPREAD),
            meaning: "Up to how long after an event the look comes, at random, so that a fleet does not ask in step",
        },
    ],
    demands: Demands::Nothing,
};

/// An SQS queue to which EventBridge sends events of secrets and parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushSpec {
    /// URL of the queue.
    pub queue: QueueUrl,
    /// The role to read it as; `None` for the process itself.
    pub role: Option<RoleStep>,
    /// The queue's region; `None` for the process's own.
    pub region: Option<String>,
    /// Up to how long after an event the look comes, at random, so that a fleet does not ask in step.
    pub spread: Duration,
}

/// The URL of a queue, as SQS gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueUrl {
    url: String,
    region: Option<String>,
    account: String,
    name: String,
}

impl PushSpec {
    /// The queue's ARN, as policies name it; `region` is the process's own.
    #[must_use]
    pub fn queue_arn(&self, region: &str) -> String {
        let region = self.region.as_deref().unwrap_or(region);
        let partition = match region {
            china if china.starts_with("cn-") => "aws-cn",
            government if government.starts_with("us-gov-") => "aws-us-gov",
            _ => "aws",
        };
        format!("arn:{partition}:sqs:{region}:{}:{}", self.queue.account, self.queue.name)
    }
}

impl QueueUrl {
    /// The whole URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.url
    }

    /// The region that the URL names, if it does.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// Reads a URL; the error says the fix.
    fn parse(url: &str) -> Result<Self, String> {
        if let Some(fix) = of_arn(url) {
            return Err(format!("this is the queue's ARN; write its URL, `{fix}`"));
        }
        const FIX: &str = "write the queue's URL, as `aws sqs get-queue-url` prints it: `https://sqs.eu-west-1.amazonaws.com/123456789012/NAME`";
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let Some((host, path)) = rest.and_then(|rest| rest.split_once('/')) else {
            return Err(format!("`{}` is no queue's URL; {FIX}", url.escape_debug()));
        };
        let parts: Vec<&str> = path.split('/').collect();
        let (named, account, name) = match parts[..] {
            [account, name] => (None, account, name),
            // An endpoint that serves every region at one host.
            ["queue", region, account, name] => (Some(region), account, name),
            _ => return Err(format!("`{}` has no `/ACCOUNT/NAME` after the host; {FIX}", url.escape_debug())),
        };
        let host_ok = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b));
        if !host_ok {
            return Err(format!("`{}` is no host of SQS; {FIX}", host.escape_debug()));
        }
        if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("`{}` is no account of 12 digits; {FIX}", account.escape_debug()));
        }
        let stem = name.strip_suffix(".fifo").unwrap_or(name);
        let name_ok = !stem.is_empty() && stem.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if !name_ok || name.len() > QUEUE_NAME_MAX {
            let rule = format!("1 to {QUEUE_NAME_MAX} letters, digits, `-` and `_`");
            return Err(format!("`{}` is no queue's name, which has {rule}; {FIX}", name.escape_debug()));
        }
        let region = named.filter(|region| is_region(region)).or_else(|| region_of(host)).map(str::to_owned);
        Ok(Self { url: url.to_owned(), region, account: account.to_owned(), name: name.to_owned() })
    }
}

impl FromStr for QueueUrl {
    type Err = String;

    /// The error says the fix.
    fn from_str(url: &str) -> Result<Self, String> {
        Self::parse(url)
    }
}

pub(super) fn push(node: Node, problems: &mut Problems) -> Option<PushSpec> {
    let place = node.place;
    let mut fields = Fields::of(node, &PUSH, problems)?;
    let region_place = fields.place_of("region");
    let Inherited { region, role, .. } = inherited(&mut fields, &Inherited::default(), problems);
    let spread =
        fields.take("spread").and_then(|node| duration(&node, "spread", SPREAD, problems)).unwrap_or(DEFAULT_SPREAD);
    let Some(queue) = fields.take("sqs") else {
        problems.add(place, "`push` needs the queue's URL; add `sqs: https://sqs.REGION.amazonaws.com/ACCOUNT/NAME`");
        return None;
    };
    let url = text(&queue, "sqs", problems)?;
    let queue = problems.parsed(queue.place, "sqs", QueueUrl::parse(&url))?;
    if let (Some(place), Some(named), Some(own)) = (region_place, &region, &queue.region)
        && named != own
    {
        problems.add(place, format!("`region: {named}`: the queue's URL says {own}; take `region` out"));
    }
    let region = queue.region.clone().or(region);
    Some(PushSpec { queue, role, region, spread })
}

/// The URL of the queue with that ARN.
fn of_arn(text: &str) -> Option<String> {
    let mut parts = text.split(':');
    let ("arn", partition, "sqs") = (parts.next()?, parts.next()?, parts.next()?) else { return None };
    let (region, account, name) = (parts.next()?, parts.next()?, parts.next()?);
    let suffix = if partition == "aws-cn" { ".cn" } else { "" };
    Some(format!("https://sqs.{region}.amazonaws.com{suffix}/{account}/{name}"))
}

/// The region in a host's name: `sqs.REGION.…`, of an interface endpoint `….sqs.REGION.…`, or of
/// old `REGION.queue.amazonaws.com` (AWS General Reference, "Amazon SQS endpoints and quotas").
fn region_of(host: &str) -> Option<&str> {
    let labels: Vec<&str> = host.split('.').collect();
    let region = match labels.iter().position(|label| matches!(*label, "sqs" | "sqs-fips" | "queue")) {
        Some(0) if host == "queue.amazonaws.com" => Some("us-east-1"),
        Some(at) if labels[at] == "queue" => at.checked_sub(1).map(|before| labels[before]),
        Some(at) => labels.get(at + 1).copied(),
        None => None,
    };
    region.filter(|region| is_region(region))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Config;
    use super::*;

    fn parse(push: &str) -> Result<PushSpec, String> {
        let volumes = "volumes: [{path: /v, files: [{name: a, from: 'secretsmanager:a'}]}]";
        let config = Config::parse("c", &format!("push: {push}\n{volumes}"), &|_| unreachable!())
            .map_err(|error| error.to_string())?;
        config.push.ok_or_else(|| "no push".to_owned())
    }

    const URL: &str = "https://sqs.eu-west-1.amazonaws.com/123456789012/coffer-push";

    #[test]
    fn reads_the_short_form_and_the_long_one() {
        let short = parse(&format!("{{sqs: '{URL}'}}")).unwrap();
        assert_eq!((short.queue.as_str(), short.region.as_deref()), (URL, Some("eu-west-1")));
        assert_eq!((short.role.as_ref(), short.spread), (None, DEFAULT_SPREAD));
        assert_eq!(short.queue_arn("us-east-1"), "arn:aws:sqs:eu-west-1:123456789012:coffer-push");

        let long = parse(
            "{sqs: 'http://localhost:4566/000000000000/q.fifo', region: us-gov-east-1, spread: 2s,
              role_arn: 'arn:aws:iam::123456789012:role/reader', external_id: x}",
        )
        .unwrap();
        let role = long.role.as_ref().unwrap();
        assert_eq!(
            (role.role_arn.as_str(), role.external_id.as_deref()),
            ("arn:aws:iam::123456789012:role/reader", Some("x"))
        );
        assert_eq!((long.region.as_deref(), long.spread), (Some("us-gov-east-1"), Duration::from_secs(2)));
        assert_eq!(long.queue_arn("eu-west-1"), "arn:aws-us-gov:sqs:us-gov-east-1:000000000000:q.fifo");
    }

    #[test]
    fn the_region_is_read_from_every_form_of_url() {
        for (host, region) in [
            ("sqs.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("sqs-fips.us-east-2.amazonaws.com", Some("us-east-2")),
            ("sqs.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("sqs.eu-west-1.api.aws", Some("eu-west-1")),
            ("vpce-0a-1b.sqs.eu-west-1.vpce.amazonaws.com", Some("eu-west-1")),
            ("eu-west-1.queue.amazonaws.com", Some("eu-west-1")),
            ("queue.amazonaws.com", Some("us-east-1")),
            ("sqs.eu-west-1.localhost.localstack.cloud:4566", Some("eu-west-1")),
            ("sqs.localhost:4566", None),
            ("127.0.0.1:4566", None),
            ("127.0.0.1:4566/queue/eu-west-1", Some("eu-west-1")),
        ] {
            let read = QueueUrl::parse(&format!("https://{host}/123456789012/q")).unwrap();
            assert_eq!(read.region.as_deref(), region, "{host}");
        }
    }

    #[test]
    fn every_mistake_is_told_by_place_and_fix() {
        for (push, place, words) in [
            ("{}".to_owned(), "1:7", "add `sqs: https://"),
            (URL.to_owned(), "1:7", "`push` is a mapping of keys to values, not a text"),
            (format!("{{sqs: '{URL}', sprad: 1s}}"), "1:77", "did you mean `spread`?"),
            (format!("{{sqs: '{URL}', spread: 61s}}"), "1:85", "a time from 0s to 1m"),
            (format!("{{sqs: '{URL}', spread: 1}}"), "1:85", "has no unit"),
            (format!("{{sqs: '{URL}', external_id: x}}"), "1:90", "put `role_arn` beside it"),
            (format!("{{sqs: '{URL}', region: us-east-1}}"), "1:85", "the queue's URL says eu-west-1"),
            (
                "{sqs: 'arn:aws:sqs:eu-west-1:123456789012:coffer-push'}".to_owned(),
                "1:13",
                "write its URL, `https://sqs.eu-west-1.amazonaws.com/123456789012/coffer-push`",
            ),
            ("{sqs: coffer-push}".to_owned(), "1:13", "`coffer-push` is no queue's URL; write"),
            ("{sqs: 'https://sqs.eu-west-1.amazonaws.com/coffer-push'}".to_owned(), "1:13", "no `/ACCOUNT/NAME`"),
            ("{sqs: 'https://sqs.eu-west-1.amazonaws.com/12/q'}".to_owned(), "1:13", "no account of 12 digits"),
            (format!("{{sqs: '{URL}/'}}"), "1:13", "no `/ACCOUNT/NAME`"),
            (format!("{{sqs: '{URL}?x=1'}}"), "1:13", "is no queue's name"),
            ("{sqs: 'https://u:p@h/123456789012/q'}".to_owned(), "1:13", "is no host"),
            ("{sqs: [a]}".to_owned(), "1:13", "`sqs` takes a text, not a list"),
        ] {
            let error = parse(&push).unwrap_err();
            let told = error.lines().any(|line| line.starts_with(&format!("c:{place}: ")) && line.contains(words));
            assert!(told, "not `{words}` at {place} for {push}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_url_or_has_a_fix(text in "(https?://)?[a-z.:0-9/\\PC]{0,60}") {
            match QueueUrl::parse(&text) {
                Ok(url) => prop_assert_eq!(url.as_str(), text),
                Err(error) => prop_assert!(error.contains("write"), "{}", error),
            }
        }
    }
}
