//! References in an environment: the variables whose values name a secret to put in their place.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use super::{Access, Reference, Wanted};
use crate::render::{Format, Selector};

/// What a value starts with that is a reference.
const PREFIX: &str = "coffer:";

/// A variable of an environment, and what is to be its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvSpec {
    /// The variable.
    pub name: EnvName,
    /// What to fetch, and where; never a path, which is many values.
    pub wanted: Wanted,
    /// Which part of the value.
    pub select: Option<Selector>,
    /// How the value is written.
    pub format: Format,
}

/// The name of an environment variable: not empty, and free of `=` and NUL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnvName(OsString);

/// Why a text cannot be the name of an environment variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvNameError {
    /// It is empty.
    #[error("the name of an environment variable may not be empty")]
    Empty,
    /// It holds `=` or NUL, which end a name.
    #[error("the name of an environment variable may not hold `=` or NUL")]
    Character,
}

impl EnvName {
    /// Checks `name`. Bytes that are not UTF-8 are allowed, as the kernel allows them.
    pub fn new(name: impl Into<OsString>) -> Result<Self, EnvNameError> {
        let name = name.into();
        match name.as_bytes() {
            [] => Err(EnvNameError::Empty),
            bytes if bytes.iter().any(|byte| matches!(byte, b'=' | 0)) => Err(EnvNameError::Character),
            _ => Ok(Self(name)),
        }
    }

    /// The name.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        &self.0
    }
}

impl fmt::Display for EnvName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.to_string_lossy().escape_debug())
    }
}

/// Everything that is wrong with the references of an environment; at least one problem, in the
/// order of the variables' names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentError {
    /// What is wrong.
    pub problems: Vec<EnvProblem>,
}

/// A variable whose value was meant as a reference and is none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EnvProblem {
    /// The variable's name, fit to be shown.
    pub name: String,
    /// What is wrong, and the fix.
    pub text: String,
}

impl fmt::Display for EnvironmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, EnvProblem { name, text }) in self.problems.iter().enumerate() {
            let newline = if at == 0 { "" } else { "\n" };
            write!(f, "{newline}the environment variable {name}: {text}")?;
        }
        Ok(())
    }
}

impl std::error::Error for EnvironmentError {}

/// Finds the references among `vars`, in their order; on error tells every mistake.
///
/// A value `coffer:REFERENCE` or `coffer:REFERENCE#JMESPATH` is one; what starts with `coffer:` and
/// is none is an error, for a program must not be given it as a value. With `resolve_arns`, so is a
/// value that is the ARN of a secret or parameter and nothing else. The ARN of a secret may, in
/// either form, go on as it does in a task definition of ECS:
/// `arn:…:secret:NAME-xxxxxx:JSON-KEY:VERSION-STAGE:VERSION-ID`, where parts may be empty (Amazon
/// ECS Developer Guide, "Pass Secrets Manager secrets through Amazon ECS environment variables").
///
/// All other values are none of ours: they are neither kept nor shown.
pub fn from_environment(
    vars: impl Iterator<Item = (OsString, OsString)>,
    resolve_arns: bool,
) -> Result<Vec<EnvSpec>, EnvironmentError> {
    let mut specs = Vec::new();
    let mut problems = Vec::new();
    for (name, value) in vars {
        let Some(target) = target(&value, resolve_arns) else { continue };
        let shown = name.to_string_lossy().escape_debug().to_string();
        let spec = target.and_then(|target| {
            let name = EnvName::new(name).map_err(|error| error.to_string())?;
            let Target { reference, select } = target;
            let access = Access { region: reference.region().map(str::to_owned), role: None };
            Ok(EnvSpec { name, wanted: Wanted { reference, access, failover: None }, select, format: Format::Raw })
        });
        match spec {
            Ok(spec) => specs.push(spec),
            Err(text) => problems.push(EnvProblem { name: shown, text }),
        }
    }
    if problems.is_empty() {
        return Ok(specs);
    }
    problems.sort();
    Err(EnvironmentError { problems })
}

/// What a value points at.
struct Target {
    reference: Reference,
    select: Option<Selector>,
}

/// What `value` points at, or why it cannot, or `None` where it was not meant to.
fn target(value: &OsStr, resolve_arns: bool) -> Option<Result<Target, String>> {
    if let Some(rest) = value.as_bytes().strip_prefix(PREFIX.as_bytes()) {
        let parsed = match str::from_utf8(rest) {
            Ok(rest) => prefixed(rest),
            Err(_) => Err("it is not UTF-8; a reference is plain ASCII".to_owned()),
        };
        return Some(parsed.map_err(|problem| format!("after `{PREFIX}`, {problem}")));
    }
    if resolve_arns { bare(value.to_str()?) } else { None }
}

/// `REFERENCE[#JMESPATH]`.
fn prefixed(text: &str) -> Result<Target, String> {
    let (reference, select) = match text.split_once('#') {
        Some((_, "")) => return Err("no selector follows `#`; remove the `#` to take the whole value".to_owned()),
        Some((reference, select)) => (reference, Some(Selector::new(select).map_err(|error| error.to_string())?)),
        None => (text, None),
    };
    if reference.is_empty() {
        return Err(format!("there is no reference; write one such as `{PREFIX}secretsmanager:prod/db`"));
    }
    let plain = reference.strip_prefix("secretsmanager:").unwrap_or(reference);
    if let Some(parts) = EcsParts::of(plain) {
        let target = parts.target()?;
        if target.select.is_some() && select.is_some() {
            return Err("the ARN names a JSON key and `#` selects; keep one of them".to_owned());
        }
        return Ok(Target { select: target.select.or(select), ..target });
    }
    Ok(Target { reference: one_value(reference)?, select })
}

/// The ARN of a secret or parameter, and nothing else.
fn bare(text: &str) -> Option<Result<Target, String>> {
    let arn = text.trim();
    let resource = resource(arn)?;
    let (name, punctuation) = match resource {
        Resource::Secret(name) => (name, "/_+=.@-!"),
        Resource::Parameter(name) => (name, "/_.-"),
    };
    let end = name.find(|c: char| !c.is_ascii_alphanumeric() && !punctuation.contains(c)).unwrap_or(name.len());
    // A pattern of a policy or a sentence that starts with an ARN is a value of its own.
    match name[end..].chars().next() {
        None => {}
        Some(':') if end > 0 => {}
        Some('?' | '#') if end > 0 => {
            let fix = format!("write `{PREFIX}` before it");
            return Some(Err(format!("it is an ARN with `?` or `#` after it, which only a reference may have; {fix}")));
        }
        Some(_) => return None,
    }
    if arn.len() != text.len() {
        return Some(Err("it is an ARN with white space around it; remove the white space".to_owned()));
    }
    Some(match EcsParts::of(arn) {
        Some(parts) => parts.target(),
        None => one_value(arn).map(|reference| Target { reference, select: None }),
    })
}

/// A reference to a single value.
fn one_value(text: &str) -> Result<Reference, String> {
    let reference = text.parse::<Reference>().map_err(|error| error.to_string())?;
    if let Reference::Path(path) = &reference {
        let name = path.path.trim_end_matches('/');
        let fix = format!("name one, such as `parameterstore:{name}/NAME`, or publish them as files");
        return Err(format!("`{text}` is a path with many parameters, and a variable holds one; {fix}"));
    }
    Ok(reference)
}

enum Resource<'a> {
    Secret(&'a str),
    Parameter(&'a str),
}

/// What an ARN of Secrets Manager or Parameter Store names; `None` for all else.
fn resource(arn: &str) -> Option<Resource<'_>> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    match parts[..] {
        ["arn", _partition, "secretsmanager", _region, _account, resource] => {
            resource.strip_prefix("secret:").map(Resource::Secret)
        }
        ["arn", _partition, "ssm", _region, _account, resource] => {
            resource.strip_prefix("parameter/").map(Resource::Parameter)
        }
        _ => None,
    }
}

/// A secret's ARN that goes on after the name, as ECS writes it.
struct EcsParts<'a> {
    arn: &'a str,
    rest: Vec<&'a str>,
}

impl<'a> EcsParts<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let Resource::Secret(name) = resource(text)? else { return None };
        let end = text.len() - name.len() + name.find(':')?;
        Some(Self { arn: &text[..end], rest: text[end + 1..].split(':').collect() })
    }

    fn target(&self) -> Result<Target, String> {
        let [key, stage, version] = self.rest[..] else {
            let form = "`arn:…:secret:NAME-xxxxxx:JSON-KEY:VERSION-STAGE:VERSION-ID`, where parts may be empty";
            let key = self.rest.iter().find(|part| !part.is_empty()).unwrap_or(&"KEY");
            let fix = format!("write `{}:{key}::` for the key `{key}`", self.arn);
            let count = self.rest.len();
            return Err(format!("the ARN has {count} of the 3 parts that may follow the name in {form}; {fix}"));
        };
        let query = match (stage, version) {
            ("", "") => String::new(),
            (stage, "") => format!("?stage={stage}"),
            ("", version) => format!("?version={version}"),
            _ => return Err("the ARN names a version stage and a version id; keep one of them".to_owned()),
        };
        let select = match key {
            "" => None,
            // ECS takes the key as it is; in JMESPath it may need quotes.
            key => Some(Selector::new(&quoted(key)).map_err(|error| error.to_string())?),
        };
        Ok(Target { reference: one_value(&format!("{}{query}", self.arn))?, select })
    }
}

/// The selector of one key: bare, or as a JSON string (JMESPath, `quoted-string`).
fn quoted(key: &str) -> String {
    let bare = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if bare { key.to_owned() } else { serde_json::Value::from(key).to_string() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db-AbCdEf";
    const PARAMETER: &str = "arn:aws:ssm:eu-central-1:123456789012:parameter/prod/level";

    fn read(value: &str, resolve_arns: bool) -> Result<Vec<EnvSpec>, String> {
        from_environment([("VAR".into(), value.into())].into_iter(), resolve_arns).map_err(|error| error.to_string())
    }

    /// Reference, selector and region, as one text.
    fn shown(value: &str, resolve_arns: bool) -> Option<String> {
        let specs = read(value, resolve_arns).unwrap();
        let [EnvSpec { name, wanted, select, format: Format::Raw }] = &specs[..] else {
            assert_eq!(specs, []);
            return None;
        };
        assert_eq!(name.as_os_str(), "VAR");
        let select = select.as_ref().map_or("", Selector::as_str);
        let region = wanted.access.region.as_deref().unwrap_or("");
        Some(
            format!("{} {select} {region}", wanted.reference).replace(SECRET, "SECRET").replace(PARAMETER, "PARAMETER"),
        )
    }

    #[test]
    fn reads_every_form() {
        for (value, expected) in [
            ("coffer:secretsmanager:prod/db", "secretsmanager:prod/db  "),
            ("coffer:secretsmanager:prod/db#password", "secretsmanager:prod/db password "),
            ("coffer:secretsmanager:prod/db?stage=AWSPREVIOUS#a.b", "secretsmanager:prod/db?stage=AWSPREVIOUS a.b "),
            ("coffer:secretsmanager:prod/db#\"a#b\"", "secretsmanager:prod/db \"a#b\" "),
            ("coffer:parameterstore:/prod/level?version=3", "parameterstore:/prod/level?version=3  "),
            (&format!("coffer:{SECRET}?stage=S#k"), "secretsmanager:SECRET?stage=S k eu-west-1"),
            (&format!("coffer:{SECRET}:k::"), "secretsmanager:SECRET k eu-west-1"),
            (&format!("coffer:secretsmanager:{SECRET}:k::"), "secretsmanager:SECRET k eu-west-1"),
            (&format!("coffer:{SECRET}::S:#k"), "secretsmanager:SECRET?stage=S k eu-west-1"),
            (&format!("coffer:{PARAMETER}"), "parameterstore:PARAMETER  eu-central-1"),
        ] {
            assert_eq!(shown(value, false).as_deref(), Some(expected), "{value}");
            assert_eq!(shown(value, true).as_deref(), Some(expected), "{value}");
        }
    }

    #[test]
    fn reads_arns_where_asked_to() {
        let id = "01234567-89ab-cdef-0123-456789abcdef";
        for (value, expected) in [
            (SECRET.to_owned(), "secretsmanager:SECRET  eu-west-1".to_owned()),
            (format!("{SECRET}:::"), "secretsmanager:SECRET  eu-west-1".to_owned()),
            (format!("{SECRET}:password::"), "secretsmanager:SECRET password eu-west-1".to_owned()),
            (format!("{SECRET}:db.user::"), "secretsmanager:SECRET \"db.user\" eu-west-1".to_owned()),
            (format!("{SECRET}::AWSPREVIOUS:"), "secretsmanager:SECRET?stage=AWSPREVIOUS  eu-west-1".to_owned()),
            (format!("{SECRET}:k::{id}"), format!("secretsmanager:SECRET?version={id} k eu-west-1")),
            (PARAMETER.to_owned(), "parameterstore:PARAMETER  eu-central-1".to_owned()),
        ] {
            assert_eq!(shown(&value, true), Some(expected), "{value}");
            assert_eq!(shown(&value, false), None, "{value}");
        }
    }

    #[test]
    fn leaves_everything_else_alone() {
        for value in [
            "",
            "coffer",
            " coffer:secretsmanager:a",
            "Coffer:x",
            "secretsmanager:prod/db",
            "arn:aws:s3:::bucket",
            "arn:aws:iam::123456789012:role/app",
            "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/*",
            "arn:aws:secretsmanager:eu-west-1:123456789012:secret:a and more",
            "arn:aws:ssm:eu-west-1:123456789012:parameter/*",
            "arn:aws:ssm:eu-west-1:123456789012:document/x",
        ] {
            assert_eq!(shown(value, true), None, "{value}");
        }
    }

    #[test]
    fn says_what_is_wrong_and_the_fix() {
        for (value, expected) in [
            (
                "coffer:secretmanager:x",
                "after `coffer:`, `secretmanager:` is no store; did you mean `secretsmanager:`?",
            ),
            (
                "coffer:latest",
                "after `coffer:`, `latest` does not say where to look; write `secretsmanager:latest`, `parameterstore:latest` or an ARN",
            ),
            ("coffer:", "after `coffer:`, there is no reference; write one such as `coffer:secretsmanager:prod/db`"),
            (
                "coffer:secretsmanager:a#",
                "after `coffer:`, no selector follows `#`; remove the `#` to take the whole value",
            ),
            (
                "coffer:secretsmanager:a#$.b",
                "after `coffer:`, `$.b` is not JMESPath: it cannot go on with '$' at column 1; JMESPath has no `$` for the whole value: start with the key",
            ),
            ("coffer:secretsmanager:a?stagee=x", "after `coffer:`, `?stagee=` is not known; did you mean `?stage=`?"),
            (
                "coffer:parameterstore:/prod/app/",
                "after `coffer:`, `parameterstore:/prod/app/` is a path with many parameters, and a variable holds one; name one, such as `parameterstore:/prod/app/NAME`, or publish them as files",
            ),
            (
                &format!("coffer:{SECRET}:k::#k"),
                "after `coffer:`, the ARN names a JSON key and `#` selects; keep one of them",
            ),
            (
                &format!("{SECRET}:k"),
                &format!(
                    "the ARN has 1 of the 3 parts that may follow the name in `arn:…:secret:NAME-xxxxxx:JSON-KEY:VERSION-STAGE:VERSION-ID`, where parts may be empty; write `{SECRET}:k::` for the key `k`"
                ),
            ),
            (
                &format!("{SECRET}::S:01234567-89ab-cdef-0123-456789abcdef"),
                "the ARN names a version stage and a version id; keep one of them",
            ),
            (
                &format!("{SECRET}?stage=x"),
                "it is an ARN with `?` or `#` after it, which only a reference may have; write `coffer:` before it",
            ),
            (&format!("{SECRET}\n"), "it is an ARN with white space around it; remove the white space"),
            (&format!("{PARAMETER}:3"), "write a parameter's version as `/prod/level?version=3`, not `/prod/level:3`"),
            (
                "arn:aws:secretsmanager::1:secret:x",
                "`arn:aws:secretsmanager::1:secret:x`: an ARN names a region and a 12-digit account",
            ),
        ] {
            assert_eq!(read(value, true).unwrap_err(), format!("the environment variable VAR: {expected}"), "{value}");
        }
    }

    #[test]
    fn tells_all_mistakes_at_once_and_no_other_value() {
        let vars = [
            ("Z", OsString::from("coffer:ssm:/a")),
            ("PASSWORD", "hunter2".into()),
            ("GOOD", "coffer:secretsmanager:hunter2".into()),
            ("A", OsStr::from_bytes(b"coffer:secretsmanager:\xff").to_owned()),
        ];
        let error = from_environment(vars.into_iter().map(|(name, value)| (name.into(), value)), false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the environment variable A: after `coffer:`, it is not UTF-8; a reference is plain ASCII\n\
             the environment variable Z: after `coffer:`, `ssm:` is no store; did you mean `parameterstore:`?"
        );
    }

    #[test]
    fn a_name_that_is_none_is_refused_only_with_a_reference() {
        let vars = |value: &str| [("A=B".into(), value.into())].into_iter();
        assert_eq!(from_environment(vars("x"), true), Ok(Vec::new()));
        let error = from_environment(vars("coffer:secretsmanager:a"), true).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the environment variable A=B: the name of an environment variable may not hold `=` or NUL"
        );
        assert_eq!(EnvName::new(""), Err(EnvNameError::Empty));
        assert_eq!(EnvName::new("A\0"), Err(EnvNameError::Character));
    }

    proptest! {
        #[test]
        fn never_panics_on_any_bytes(
            start in prop_oneof![Just(""), Just("coffer:"), Just("coffer:secretsmanager:"), Just(SECRET), Just(PARAMETER)],
            rest in proptest::collection::vec(any::<u8>(), 0..40),
            name in proptest::collection::vec(any::<u8>(), 0..8),
            resolve_arns: bool,
        ) {
            let value = [start.as_bytes(), &rest].concat();
            let vars = [(OsStr::from_bytes(&name).to_owned(), OsStr::from_bytes(&value).to_owned())];
            if let Err(error) = from_environment(vars.into_iter(), resolve_arns) {
                prop_assert!(!error.to_string().is_empty());
            }
        }

        #[test]
        fn never_panics_on_arn_like_text(
            value in "(coffer:)?arn:aws:(secretsmanager|ssm):[a-z0-9-]{0,3}:[0-9]{0,12}:(secret:|parameter/)?[a-zA-Zé:?#&=/*. -]{0,20}",
            resolve_arns: bool,
        ) {
            let _ = read(&value, resolve_arns);
        }

        #[test]
        fn a_value_without_the_prefix_is_never_touched(value in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assume!(!value.starts_with(b"coffer:"));
            let vars = [("VAR".into(), OsStr::from_bytes(&value).to_owned())];
            prop_assert_eq!(from_environment(vars.into_iter(), false), Ok(Vec::new()));
        }
    }
}
