//! A change that an event tells of, and which references it concerns. Pure.

use crate::spec::{ParameterRef, ParameterVersion, PathRef, Reference, SecretVersion};

/// Parameter Store serves a secret as the parameter of this name (Systems Manager User Guide,
/// "Referencing AWS Secrets Manager secrets from Parameter Store parameters").
const SECRET_AS_PARAMETER: &str = "/aws/reference/secretsmanager/";

/// A secret or a parameter that may now say something else.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    /// Which.
    pub subject: Subject,
    /// The region it is in, where the event tells.
    pub region: Option<String>,
    /// The account it is in, where the event tells.
    pub account: Option<String>,
    /// The new VersionId, or a parameter's version number, where the event tells.
    pub version: Option<String>,
    /// The staging label of a secret, or the label of a parameter, that alone has moved; `None` when
    /// any version may be another now.
    pub label: Option<String>,
}

/// What a change is of. At least one of name and ARN is there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A secret.
    Secret {
        /// Its name.
        name: Option<String>,
        /// Its ARN, which may lack the six random characters.
        arn: Option<String>,
    },
    /// A parameter.
    Parameter {
        /// Its name, with the leading slash or without.
        name: String,
        /// Its ARN.
        arn: Option<String>,
    },
}

impl Change {
    /// Whether this is news for that reference. `arn_known` is the ARN that earlier answers gave for
    /// it, and `region` where it is asked for (an ARN says that itself; empty if it is not known).
    ///
    /// In doubt it is: a look in vain costs one call, a look left out a whole interval. A region or
    /// an account that differs, and a label that the reference does not read, leave no doubt.
    #[must_use]
    pub fn names(&self, reference: &Reference, arn_known: Option<&str>, region: &str) -> bool {
        let asked_in = reference.region().unwrap_or(region);
        let account = id_of(reference).and_then(|id| arn_part(id, ACCOUNT)).or_else(|| arn_known.and_then(account_of));
        if !agree(self.region(), Some(asked_in)) || !agree(self.account(), account) {
            return false;
        }
        match (&self.subject, reference) {
            (Subject::Secret { name, arn }, Reference::Secret(secret)) => {
                self.moves(&secret.version) && is_secret(name.as_deref(), arn.as_deref(), &secret.id, arn_known)
            }
            (Subject::Secret { name, arn }, Reference::Parameter(parameter)) => {
                let id = parameter.name.strip_prefix(SECRET_AS_PARAMETER);
                id.is_some_and(|id| is_secret(name.as_deref(), arn.as_deref(), id, None))
            }
            (Subject::Secret { .. }, Reference::Path(_)) => false,
            (Subject::Parameter { name, .. }, Reference::Parameter(parameter)) => {
                self.moves_parameter(&parameter.version) && bare(name) == bare(parameter_name(parameter))
            }
            (Subject::Parameter { name, .. }, Reference::Path(path)) => self.label.is_none() && is_below(path, name),
            (Subject::Parameter { .. }, Reference::Secret(_)) => false,
        }
    }

    fn moves(&self, version: &SecretVersion) -> bool {
        let Some(label) = self.label.as_deref() else { return true };
        match version {
            SecretVersion::Current => label == "AWSCURRENT",
            // With AWSCURRENT goes AWSPREVIOUS, and at the end of a rotation AWSPENDING; AWS tells of
            // neither (Secrets Manager User Guide, "Secret Label Updated event").
            SecretVersion::Stage(stage) => {
                stage == label || (label == "AWSCURRENT" && matches!(stage.as_str(), "AWSPREVIOUS" | "AWSPENDING"))
            }
            SecretVersion::Id(_) => false,
        }
    }

    fn moves_parameter(&self, version: &ParameterVersion) -> bool {
        match (&self.label, version) {
            (None, _) => true,
            (Some(label), ParameterVersion::Label(read)) => label == read,
            (Some(_), ParameterVersion::Latest | ParameterVersion::Number(_)) => false,
        }
    }

    fn region(&self) -> Option<&str> {
        self.region.as_deref().or_else(|| arn_part(self.arn()?, REGION))
    }

    fn account(&self) -> Option<&str> {
        // A rule may forward another account's events: the ARN is nearer to the truth.
        self.arn().and_then(account_of).or(self.account.as_deref())
    }

    fn arn(&self) -> Option<&str> {
        match &self.subject {
            Subject::Secret { arn, .. } | Subject::Parameter { arn, .. } => arn.as_deref(),
        }
    }
}

/// Whether the secret with that name or ARN, as an event gives them, is the one that a reference
/// calls `id`, and of which `arn_known` is known.
fn is_secret(name: Option<&str>, arn: Option<&str>, id: &str, arn_known: Option<&str>) -> bool {
    let told = arn.and_then(secret_of_arn);
    match (secret_of_arn(id), told) {
        (Some(wanted), Some(told)) => same_secret(wanted, told),
        (Some(wanted), None) => name.is_some_and(|name| same_secret(wanted, name)),
        (None, told) => {
            let by_name = match (name, told) {
                (Some(name), _) => name == id,
                (None, Some(told)) => same_secret(told, id),
                (None, None) => false,
            };
            by_name || told.zip(arn_known.and_then(secret_of_arn)).is_some_and(|(told, known)| told == known)
        }
    }
}

/// Compares two of a secret's names that may each end with the ARN's hyphen and six random
/// characters; one of them has to be whole.
fn same_secret(one: &str, other: &str) -> bool {
    one == other || without_suffix(one) == Some(other) || without_suffix(other) == Some(one)
}

fn without_suffix(name: &str) -> Option<&str> {
    let (stem, suffix) = name.split_at_checked(name.len().checked_sub(7)?)?;
    let random = suffix.strip_prefix('-')?;
    random.bytes().all(|b| b.is_ascii_alphanumeric()).then_some(stem)
}

fn is_below(path: &PathRef, name: &str) -> bool {
    let path_name = bare(path.path.trim_end_matches('/'));
    let below = match path_name {
        "" => Some(bare(name)),
        _ => bare(name).strip_prefix(path_name).and_then(|rest| rest.strip_prefix('/')),
    };
    below.is_some_and(|rest| !rest.is_empty() && (path.recursive || !rest.contains('/')))
}

/// An ARN leaves a name's leading slash out, and an event may.
fn bare(name: &str) -> &str {
    name.strip_prefix('/').unwrap_or(name)
}

fn parameter_name(parameter: &ParameterRef) -> &str {
    parameter_of_arn(&parameter.name).unwrap_or(&parameter.name)
}

fn id_of(reference: &Reference) -> Option<&str> {
    match reference {
        Reference::Secret(secret) => Some(&secret.id),
        Reference::Parameter(parameter) => Some(&parameter.name),
        Reference::Path(_) => None,
    }
}

/// Whether two texts are the same, as far as both are known.
fn agree(one: Option<&str>, other: Option<&str>) -> bool {
    let known = |text: Option<&str>| text.is_none_or(str::is_empty);
    known(one) || known(other) || one == other
}

// Where in `arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE`.
const SERVICE: usize = 2;
const REGION: usize = 3;
const ACCOUNT: usize = 4;
const RESOURCE: usize = 5;

fn arn_part(text: &str, part: usize) -> Option<&str> {
    text.starts_with("arn:").then(|| text.splitn(RESOURCE + 1, ':').nth(part)).flatten()
}

fn account_of(arn: &str) -> Option<&str> {
    arn_part(arn, ACCOUNT)
}

/// What a secret is called in its ARN: its name and, in a whole one, the random suffix.
pub(super) fn secret_of_arn(text: &str) -> Option<&str> {
    let resource = arn_part(text, RESOURCE).filter(|_| arn_part(text, SERVICE) == Some("secretsmanager"));
    resource?.strip_prefix("secret:").filter(|name| !name.is_empty())
}

/// What a parameter is called in its ARN: its name without the leading slash.
pub(super) fn parameter_of_arn(text: &str) -> Option<&str> {
    let resource = arn_part(text, RESOURCE).filter(|_| arn_part(text, SERVICE) == Some("ssm"));
    resource?.strip_prefix("parameter/").filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db-AbCdEf";
    const PARTIAL: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db";
    const HOME: &str = "eu-west-1";

    fn secret(name: Option<&str>, arn: Option<&str>, label: Option<&str>) -> Change {
        Change {
            subject: Subject::Secret { name: name.map(str::to_owned), arn: arn.map(str::to_owned) },
            region: Some(HOME.to_owned()),
            account: Some("123456789012".to_owned()),
            version: None,
            label: label.map(str::to_owned),
        }
    }

    fn parameter(name: &str, label: Option<&str>) -> Change {
        let arn = format!("arn:aws:ssm:eu-west-1:123456789012:parameter/{}", bare(name));
        Change { subject: Subject::Parameter { name: name.to_owned(), arn: Some(arn) }, ..secret(None, None, label) }
    }

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn a_secret_is_known_by_name_and_by_whole_or_partial_arn() {
        let native = secret(Some("prod/db"), Some(ARN), Some("AWSCURRENT"));
        let by_name = secret(Some("prod/db"), None, None);
        let by_arn = secret(None, Some(ARN), None);
        let by_partial = secret(None, Some(PARTIAL), None);
        for change in [&native, &by_name, &by_arn, &by_partial] {
            for id in ["secretsmanager:prod/db", ARN, PARTIAL] {
                assert!(change.names(&reference(id), None, HOME), "{change:?} is not {id}");
                assert!(change.names(&reference(id), Some(ARN), HOME), "{change:?} is not {id}");
            }
            for id in [
                "secretsmanager:prod/d",
                "secretsmanager:prod/db2",
                "secretsmanager:db",
                "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/other-AbCdEf",
                "parameterstore:/prod/db",
                "parameterstore:/prod/",
            ] {
                assert!(!change.names(&reference(id), None, HOME), "{change:?} is {id}");
            }
        }
        // Made again under its name, it has other random characters: by name it is the one meant.
        let again = secret(Some("prod/db"), Some(&ARN.replace("AbCdEf", "GhIjKl")), None);
        assert!(again.names(&reference("secretsmanager:prod/db"), Some(ARN), HOME));
        assert!(!again.names(&reference(ARN), Some(ARN), HOME));
        // An event may give an ARN alone for a name whose ARN is known.
        assert!(by_arn.names(&reference("secretsmanager:prod/db"), Some(ARN), ""));
    }

    #[test]
    fn region_and_account_must_agree_where_both_are_known() {
        let change = secret(Some("prod/db"), Some(ARN), None);
        let by_name = reference("secretsmanager:prod/db");
        assert!(!change.names(&by_name, None, "us-east-1"));
        assert!(change.names(&by_name, None, ""), "not known is no contradiction");
        // The region of an ARN is its own, wherever the process is.
        assert!(change.names(&reference(ARN), None, "us-east-1"));
        assert!(!change.names(&reference(&ARN.replace("eu-west-1", "us-east-1")), None, HOME));

        assert!(!change.names(&reference(&ARN.replace("123456789012", "210987654321")), None, HOME));
        assert!(!change.names(&by_name, Some(&ARN.replace("123456789012", "210987654321")), HOME));
        let nameless_place = Change { region: None, account: None, ..secret(Some("prod/db"), None, None) };
        assert!(nameless_place.names(&by_name, Some(ARN), "us-east-1"));
        let only_in_arn = Change { region: None, account: None, ..change };
        assert!(!only_in_arn.names(&by_name, None, "us-east-1"));
    }

    #[test]
    fn a_label_is_news_for_those_who_read_it() {
        let current = reference("secretsmanager:prod/db");
        let stage = |stage: &str| reference(&format!("secretsmanager:prod/db?stage={stage}"));
        let pinned = reference("secretsmanager:prod/db?version=01234567-89ab-cdef-0123-456789abcdef");
        for (label, concerned) in [
            (Some("AWSCURRENT"), [true, true, true, false, false]),
            (Some("AWSPENDING"), [false, false, true, false, false]),
            (Some("AWSPREVIOUS"), [false, true, false, false, false]),
            (Some("blue"), [false, false, false, true, false]),
            (None, [true, true, true, true, true]),
        ] {
            let change = secret(Some("prod/db"), Some(ARN), label);
            let readers = [&current, &stage("AWSPREVIOUS"), &stage("AWSPENDING"), &stage("blue"), &pinned];
            assert_eq!(readers.map(|reader| change.names(reader, None, HOME)), concerned, "{label:?}");
        }
        let parameter_label = parameter("/app/level", Some("live"));
        for (text, concerned) in [
            ("parameterstore:/app/level", false),
            ("parameterstore:/app/level?version=3", false),
            ("parameterstore:/app/level?label=live", true),
            ("parameterstore:/app/level?label=next", false),
            ("parameterstore:/app/", false),
        ] {
            assert_eq!(parameter_label.names(&reference(text), None, HOME), concerned, "{text}");
        }
    }

    #[test]
    fn a_parameter_is_known_by_name_by_arn_and_below_a_path() {
        let path = |path: &str, recursive| Reference::Path(PathRef { path: path.to_owned(), recursive });
        let arn = "arn:aws:ssm:eu-west-1:123456789012:parameter/prod/app/level";
        let change = parameter("/prod/app/level", None);
        for (reference, concerned) in [
            (reference("parameterstore:/prod/app/level"), true),
            (reference("parameterstore:/prod/app/level?label=live"), true),
            (reference(arn), true),
            (reference("parameterstore:/prod/app/levels"), false),
            (reference(&format!("{arn}s")), false),
            (reference("secretsmanager:prod/app/level"), false),
            (path("/prod/app", false), true),
            (path("/prod", true), true),
            (path("/prod", false), false),
            (path("/prod/app/level", true), false),
            (path("/prod/ap", true), false),
            (path("/", true), true),
            (path("/", false), false),
        ] {
            assert_eq!(change.names(&reference, None, HOME), concerned, "{reference}");
            assert!(!change.names(&reference, None, "us-east-1") || reference.region().is_some(), "{reference}");
        }
        let root = parameter("level", None);
        assert!(root.names(&path("/", false), None, HOME));
        assert!(root.names(&reference("parameterstore:level"), None, HOME));
    }

    #[test]
    fn a_secret_read_as_a_parameter_is_known_too() {
        let change = secret(Some("prod/db"), Some(ARN), Some("AWSCURRENT"));
        assert!(change.names(&reference("parameterstore:/aws/reference/secretsmanager/prod/db"), None, HOME));
        assert!(!change.names(&reference("parameterstore:/aws/reference/secretsmanager/prod/other"), None, HOME));
    }
}
