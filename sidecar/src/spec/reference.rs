//! References: which secret or parameter, and which version of it.

use std::fmt;
use std::str::FromStr;

/// Longest secret name (Secrets Manager API reference, CreateSecret, `Name`).
const SECRET_NAME_MAX: usize = 512;
/// Longest parameter name, the leading path included (Systems Manager, PutParameter, `Name`: 1011
/// without the ARN's prefix).
const PARAMETER_NAME_MAX: usize = 1011;

/// What to fetch: a secret, a parameter, or all parameters under a path.
///
/// The text form is `secretsmanager:NAME`, `parameterstore:NAME`, either with an ARN as the name, or
/// the bare ARN; a version is chosen by `?stage=`, `?version=` (both kinds) or `?label=`. The
/// [`Display`](fmt::Display) form is canonical: equal references have equal texts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// A secret of Secrets Manager.
    Secret(SecretRef),
    /// A parameter of Parameter Store.
    Parameter(ParameterRef),
    /// Every parameter under a path of Parameter Store.
    Path(PathRef),
}

/// A secret of Secrets Manager.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretRef {
    /// Name or ARN, as AWS's `SecretId` takes it.
    pub id: String,
    /// Which version.
    pub version: SecretVersion,
}

/// Which version of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SecretVersion {
    /// The one labelled `AWSCURRENT`.
    Current,
    /// The one that now carries this staging label.
    Stage(String),
    /// The one with this VersionId; it never changes.
    Id(String),
}

/// A parameter of Parameter Store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterRef {
    /// Name or ARN.
    pub name: String,
    /// Which version.
    pub version: ParameterVersion,
}

/// Which version of a parameter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ParameterVersion {
    /// The newest.
    Latest,
    /// The one with this number; it never changes.
    Number(u64),
    /// The one that now carries this label.
    Label(String),
}

/// All parameters under a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathRef {
    /// The path, with a leading and without a trailing slash; `/` alone is the root.
    pub path: String,
    /// Whether parameters in deeper levels are meant too.
    pub recursive: bool,
}

/// Why a text is not a reference. The message says the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReferenceError(String);

impl Reference {
    /// The region that the reference itself names, as ARNs do.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        let name = match self {
            Self::Secret(secret) => &secret.id,
            Self::Parameter(parameter) => &parameter.name,
            Self::Path(_) => return None,
        };
        Arn::parse(name).map(|arn| arn.region)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (whole, query) = match text.split_once('?') {
            Some((whole, query)) => (whole, Some(query)),
            None => (text, None),
        };
        if let Some(bad) = text.chars().find(|c| c.is_control() || c.is_whitespace()) {
            return Err(ReferenceError(format!("`{}` may not hold {bad:?}", text.escape_debug())));
        }
        if let Some((reference, field)) = text.split_once('#') {
            return Err(ReferenceError(format!(
                "`{text}` may not hold '#'; the field `{field}` of `{reference}` is chosen with `select`"
            )));
        }
        let (store, name) = split_store(whole)?;
        match store {
            Store::Secrets => secret(name, &Selectors::parse(query, &["stage", "version"], store)?).map(Self::Secret),
            Store::Parameters => parameter(name, &Selectors::parse(query, &["label", "version"], store)?),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(SecretRef { id, version }) => {
                write!(f, "{}:{id}", Store::Secrets.scheme())?;
                match version {
                    SecretVersion::Current => Ok(()),
                    SecretVersion::Stage(stage) => write!(f, "?stage={stage}"),
                    SecretVersion::Id(id) => write!(f, "?version={id}"),
                }
            }
            Self::Parameter(ParameterRef { name, version }) => {
                write!(f, "{}:{name}", Store::Parameters.scheme())?;
                match version {
                    ParameterVersion::Latest => Ok(()),
                    ParameterVersion::Number(number) => write!(f, "?version={number}"),
                    ParameterVersion::Label(label) => write!(f, "?label={label}"),
                }
            }
            Self::Path(PathRef { path, recursive }) => {
                let slash = if path.ends_with('/') { "" } else { "/" };
                let depth = if *recursive { "**" } else { "*" };
                write!(f, "{}:{path}{slash}{depth}", Store::Parameters.scheme())
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Store {
    Secrets,
    Parameters,
}

impl Store {
    fn scheme(self) -> &'static str {
        match self {
            Self::Secrets => "secretsmanager",
            Self::Parameters => "parameterstore",
        }
    }
}

/// `arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE`.
struct Arn<'a> {
    service: &'a str,
    region: &'a str,
    account: &'a str,
    resource: &'a str,
}

impl<'a> Arn<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(6, ':');
        let (Some("arn"), Some(_partition)) = (parts.next(), parts.next()) else { return None };
        Some(Self { service: parts.next()?, region: parts.next()?, account: parts.next()?, resource: parts.next()? })
    }
}

fn split_store(text: &str) -> Result<(Store, &str), ReferenceError> {
    if text.starts_with("arn:") {
        return arn_store(text).map(|store| (store, text));
    }
    let Some((scheme, name)) = text.split_once(':') else {
        return Err(ReferenceError(format!(
            "`{text}` does not say where to look; write `secretsmanager:{text}`, `parameterstore:{text}` or an ARN"
        )));
    };
    let store = match scheme {
        "secretsmanager" => Store::Secrets,
        "parameterstore" => Store::Parameters,
        _ => {
            let hint = super::nearest(scheme, ["secretsmanager", "parameterstore"])
                .or(match scheme {
                    "sm" | "secret" | "secrets" => Some("secretsmanager"),
                    "ssm" | "parameter" | "ps" => Some("parameterstore"),
                    _ => None,
                })
                .map_or_else(
                    || "use `secretsmanager:` or `parameterstore:`".to_owned(),
                    |near| format!("did you mean `{near}:`?"),
                );
            return Err(ReferenceError(format!("`{scheme}:` is no store; {hint}")));
        }
    };
    if name.starts_with("arn:") && arn_store(name)? != store {
        return Err(ReferenceError(format!(
            "`{text}` names one store and holds an ARN of another; write the ARN alone"
        )));
    }
    Ok((store, name))
}

fn arn_store(arn: &str) -> Result<Store, ReferenceError> {
    let parsed = Arn::parse(arn).ok_or_else(|| ReferenceError(format!("`{arn}` is not a whole ARN")))?;
    let account_ok = parsed.account.len() == 12 && parsed.account.bytes().all(|b| b.is_ascii_digit());
    if parsed.region.is_empty() || !account_ok {
        return Err(ReferenceError(format!("`{arn}`: an ARN names a region and a 12-digit account")));
    }
    match (parsed.service, parsed.resource) {
        ("secretsmanager", resource) if resource.strip_prefix("secret:").is_some_and(|name| !name.is_empty()) => {
            Ok(Store::Secrets)
        }
        ("ssm", resource) if resource.strip_prefix("parameter/").is_some_and(|name| !name.is_empty()) => {
            Ok(Store::Parameters)
        }
        _ => Err(ReferenceError(format!(
            "`{arn}` is the ARN of something else; use that of a secret (…:secret:NAME-xxxxxx) or of a parameter (…:parameter/NAME)"
        ))),
    }
}

fn secret(id: &str, selectors: &Selectors<'_>) -> Result<SecretRef, ReferenceError> {
    if id.is_empty() {
        return Err(ReferenceError("the secret's name is missing after `secretsmanager:`".to_owned()));
    }
    if let Some(rest) = id.strip_prefix("arn:").and_then(|arn| arn.splitn(7, ':').nth(6)) {
        return Err(ReferenceError(format!(
            "`:{rest}` after the ARN of a secret, as ECS has it, is not known; write `select` for a field of JSON, and \
             `?stage=` or `?version=` for a version"
        )));
    }
    if !id.starts_with("arn:") {
        check_characters(id, "/_+=.@-!", "a secret's name")?;
        if id.len() > SECRET_NAME_MAX {
            return Err(ReferenceError(format!("a secret's name has at most {SECRET_NAME_MAX} characters")));
        }
    }
    let version = match (selectors.get("stage"), selectors.get("version")) {
        (None, None) | (Some("AWSCURRENT"), None) => SecretVersion::Current,
        (Some(stage), None) => SecretVersion::Stage(stage.to_owned()),
        (None, Some(version)) => {
            check_characters(version, "-", "a VersionId")?;
            if !(32..=64).contains(&version.len()) {
                return Err(ReferenceError(format!(
                    "`?version={version}`: a VersionId of Secrets Manager has 32 to 64 characters; for a label write `?stage={version}`"
                )));
            }
            SecretVersion::Id(version.to_owned())
        }
        (Some(_), Some(_)) => {
            return Err(ReferenceError("`?stage=` and `?version=` each choose a version; keep one".to_owned()));
        }
    };
    Ok(SecretRef { id: id.to_owned(), version })
}

fn parameter(name: &str, selectors: &Selectors<'_>) -> Result<Reference, ReferenceError> {
    if name.is_empty() {
        return Err(ReferenceError("the parameter's name is missing after `parameterstore:`".to_owned()));
    }
    let is_arn = name.starts_with("arn:");
    let plain = if is_arn { name.split_once(":parameter").map_or(name, |(_, plain)| plain) } else { name };
    if let Some((name, version)) = plain.split_once(':') {
        let key = if version.bytes().all(|b| b.is_ascii_digit()) { "version" } else { "label" };
        return Err(ReferenceError(format!("write a parameter's version as `{name}?{key}={version}`, not `{plain}`")));
    }
    check_characters(plain, "/_.-", "a parameter's name")?;
    if plain.len() > PARAMETER_NAME_MAX {
        return Err(ReferenceError(format!("a parameter's name has at most {PARAMETER_NAME_MAX} characters")));
    }
    if plain.contains('/') && !plain.starts_with('/') {
        return Err(ReferenceError(format!("a parameter's name with `/` in it starts with one: `/{plain}`")));
    }
    if plain.contains("//") {
        return Err(ReferenceError(format!("`{plain}` has an empty part between two slashes")));
    }
    if plain.ends_with('/') {
        if is_arn {
            return Err(ReferenceError("a path is given by its name, not by an ARN".to_owned()));
        }
        if let Some((key, _)) = selectors.0.first() {
            return Err(ReferenceError(format!(
                "`{plain}` names every parameter under a path, and `?{key}=` one version of one parameter; keep one of them"
            )));
        }
        let path = if plain == "/" { plain } else { plain.trim_end_matches('/') };
        return Ok(Reference::Path(PathRef { path: path.to_owned(), recursive: false }));
    }
    let version = match (selectors.get("label"), selectors.get("version")) {
        (None, None) => ParameterVersion::Latest,
        (Some(label), None) => {
            check_characters(label, "_.-", "a label")?;
            if label.starts_with(|c: char| c.is_ascii_digit()) {
                return Err(ReferenceError(format!(
                    "`?label={label}`: a label starts with no digit; for a version write `?version={label}`"
                )));
            }
            ParameterVersion::Label(label.to_owned())
        }
        (None, Some(version)) => match version.parse() {
            Ok(number) if number > 0 => ParameterVersion::Number(number),
            _ => {
                return Err(ReferenceError(format!(
                    "`?version={version}`: a parameter's version is a number from 1; for a label write `?label={version}`"
                )));
            }
        },
        (Some(_), Some(_)) => {
            return Err(ReferenceError("`?label=` and `?version=` each choose a version; keep one".to_owned()));
        }
    };
    Ok(Reference::Parameter(ParameterRef { name: name.to_owned(), version }))
}

fn check_characters(text: &str, punctuation: &str, what: &str) -> Result<(), ReferenceError> {
    match text.chars().find(|c| !c.is_ascii_alphanumeric() && !punctuation.contains(*c)) {
        Some(bad) => Err(ReferenceError(format!("`{text}`: {what} may not hold {bad:?}"))),
        None => Ok(()),
    }
}

struct Selectors<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Selectors<'a> {
    fn parse(query: Option<&'a str>, known: &[&'static str], store: Store) -> Result<Self, ReferenceError> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for part in query.into_iter().flat_map(|query| query.split('&')) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            if !known.contains(&key) {
                return Err(ReferenceError(unknown_selector(key, known, store)));
            }
            if value.is_empty() {
                return Err(ReferenceError(format!("`?{key}=` needs a value")));
            }
            if pairs.iter().any(|(other, _)| *other == key) {
                return Err(ReferenceError(format!("`?{key}=` stands twice")));
            }
            pairs.push((key, value));
        }
        Ok(Self(pairs))
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(other, _)| *other == key).map(|(_, value)| *value)
    }
}

fn unknown_selector(key: &str, known: &[&'static str], store: Store) -> String {
    let takes = format!("`?{}=` and `?{}=`", known[0], known[1]);
    match (key, store) {
        ("label", Store::Secrets) => "a secret has staging labels: write `?stage=`, not `?label=`".to_owned(),
        ("stage", Store::Parameters) => "a parameter has labels: write `?label=`, not `?stage=`".to_owned(),
        _ => match super::nearest(key, known.iter().copied()) {
            Some(near) => format!("`?{key}=` is not known; did you mean `?{near}=`?"),
            None => format!("`?{key}=` is not known; a {} reference takes {takes}", store.scheme()),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Reference, String> {
        text.parse().map_err(|error: ReferenceError| error.to_string())
    }

    #[test]
    fn reads_every_form() {
        for (text, canonical) in [
            ("secretsmanager:prod/db", "secretsmanager:prod/db"),
            ("secretsmanager:prod/db?stage=AWSCURRENT", "secretsmanager:prod/db"),
            // As AWS names the secrets that RDS and others manage.
            ("secretsmanager:rds!db-1234", "secretsmanager:rds!db-1234"),
            ("secretsmanager:prod/db?stage=AWSPREVIOUS", "secretsmanager:prod/db?stage=AWSPREVIOUS"),
            (
                "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db-AbCdEf?stage=S",
                "secretsmanager:arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db-AbCdEf?stage=S",
            ),
            ("parameterstore:/prod/level", "parameterstore:/prod/level"),
            ("parameterstore:level?version=3", "parameterstore:level?version=3"),
            ("parameterstore:/prod/level?label=blue", "parameterstore:/prod/level?label=blue"),
            (
                "arn:aws-cn:ssm:cn-north-1:123456789012:parameter/prod/level",
                "parameterstore:arn:aws-cn:ssm:cn-north-1:123456789012:parameter/prod/level",
            ),
            ("parameterstore:/prod/", "parameterstore:/prod/*"),
            ("parameterstore:/", "parameterstore:/*"),
        ] {
            assert_eq!(parse(text).map(|reference| reference.to_string()).as_deref(), Ok(canonical), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong_and_the_fix() {
        for (text, expected) in [
            (
                "prod/db",
                "`prod/db` does not say where to look; write `secretsmanager:prod/db`, `parameterstore:prod/db` or an ARN",
            ),
            ("secretmanager:prod/db", "`secretmanager:` is no store; did you mean `secretsmanager:`?"),
            ("ssm:/a", "`ssm:` is no store; did you mean `parameterstore:`?"),
            ("vault:a", "`vault:` is no store; use `secretsmanager:` or `parameterstore:`"),
            ("secretsmanager:", "the secret's name is missing after `secretsmanager:`"),
            ("secretsmanager:a?label=x", "a secret has staging labels: write `?stage=`, not `?label=`"),
            ("parameterstore:/a?stage=x", "a parameter has labels: write `?label=`, not `?stage=`"),
            ("secretsmanager:a?stagee=x", "`?stagee=` is not known; did you mean `?stage=`?"),
            ("secretsmanager:a?stage=", "`?stage=` needs a value"),
            ("secretsmanager:a?stage=x&stage=y", "`?stage=` stands twice"),
            (
                "secretsmanager:a?version=7",
                "`?version=7`: a VersionId of Secrets Manager has 32 to 64 characters; for a label write `?stage=7`",
            ),
            (
                "parameterstore:/a?version=blue",
                "`?version=blue`: a parameter's version is a number from 1; for a label write `?label=blue`",
            ),
            (
                "parameterstore:/a?version=0",
                "`?version=0`: a parameter's version is a number from 1; for a label write `?label=0`",
            ),
            ("parameterstore:/a:3", "write a parameter's version as `/a?version=3`, not `/a:3`"),
            ("parameterstore:a/b", "a parameter's name with `/` in it starts with one: `/a/b`"),
            ("parameterstore:/a//b", "`/a//b` has an empty part between two slashes"),
            (
                "parameterstore:/a/?version=1",
                "`/a/` names every parameter under a path, and `?version=` one version of one parameter; keep one of them",
            ),
            ("secretsmanager:a b", "`secretsmanager:a b` may not hold ' '"),
            (
                "secretsmanager:a#user",
                "`secretsmanager:a#user` may not hold '#'; the field `user` of `secretsmanager:a` is chosen with `select`",
            ),
            (
                "arn:aws:secretsmanager:eu-west-1:123456789012:secret:a-AbCdEf:user::",
                "`:user::` after the ARN of a secret, as ECS has it, is not known; write `select` for a field of JSON, and \
                 `?stage=` or `?version=` for a version",
            ),
            ("secretsmanager:a*", "`a*`: a secret's name may not hold '*'"),
            ("arn:aws:s3:::bucket", "`arn:aws:s3:::bucket`: an ARN names a region and a 12-digit account"),
            (
                "parameterstore:arn:aws:secretsmanager:eu-west-1:123456789012:secret:a-AbCdEf",
                "`parameterstore:arn:aws:secretsmanager:eu-west-1:123456789012:secret:a-AbCdEf` names one store and holds an ARN of another; write the ARN alone",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn an_arn_tells_its_region() {
        let arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db-AbCdEf";
        assert_eq!(parse(arn).unwrap().region(), Some("eu-west-1"));
        assert_eq!(parse("secretsmanager:prod/db").unwrap().region(), None);
    }

    proptest! {
        #[test]
        fn the_canonical_form_reads_back_as_itself(
            name in "[A-Za-z0-9_.-]{1,12}",
            query in prop_oneof![Just(String::new()), "[?](stage|version|label)=[A-Za-z0-9]{1,40}"],
            store in prop_oneof![Just("secretsmanager"), Just("parameterstore")],
        ) {
            if let Ok(reference) = parse(&format!("{store}:{name}{query}")) {
                prop_assert_eq!(parse(&reference.to_string()), Ok(reference));
            }
        }

        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
