//! What an object means at AWS.

use coffer::spec::{ParameterRef, ParameterVersion, Reference, SecretRef, SecretVersion};

use super::shown;

/// Where an object is to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    /// Secrets Manager.
    Secrets,
    /// Parameter Store.
    Parameters,
}

/// The reference for a name or ARN with a version and a label, either empty. The error is what is wrong, and the fix.
pub(super) fn reference(store: Store, name: &str, version: &str, label: &str) -> Result<Reference, String> {
    // What would end the name in the text form of a reference.
    if let Some(bad) = name.chars().find(|c| "?#".contains(*c)) {
        return Err(format!("`objectName` may not hold {bad:?}"));
    }
    match store {
        Store::Secrets => secret(name, version, label),
        Store::Parameters => parameter(name, version, label),
    }
}

fn secret(name: &str, version: &str, label: &str) -> Result<Reference, String> {
    if name.starts_with("arn:") && name.split(':').count() > 7 {
        return Err("an ARN ends with the secret's name; choose a field of JSON by `jmesPath`".to_owned());
    }
    let Reference::Secret(secret) = parsed("secretsmanager", name)? else { return Err(odd(name)) };
    let version = if !version.is_empty() {
        let is_id =
            (32..=64).contains(&version.len()) && version.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !is_id {
            let version = shown(version);
            return Err(format!(
                "`objectVersion: {version}` is no VersionId of Secrets Manager, which has 32 to 64 letters, digits and `-`; write \
                 a staging label as `objectVersionLabel`"
            ));
        }
        SecretVersion::Id(version.to_owned())
    } else if label.is_empty() || label == "AWSCURRENT" {
        SecretVersion::Current
    } else {
        check_label(label, 256, "?#&")?;
        SecretVersion::Stage(label.to_owned())
    };
    Ok(Reference::Secret(SecretRef { version, ..secret }))
}

/// A parameter's version and label go into one place at AWS, `NAME:VERSION-OR-LABEL`, and so does the provider put
/// them: which of the two it is, the text itself tells.
fn parameter(name: &str, version: &str, label: &str) -> Result<Reference, String> {
    let plain = name.strip_prefix("arn:").map_or(name, |arn| arn.splitn(5, ':').nth(4).unwrap_or(arn));
    if let Some((_, version)) = plain.split_once(':') {
        let version = shown(version);
        return Err(format!("write the version beside the name: `objectVersion: \"{version}\"`"));
    }
    if plain.ends_with('/') {
        return Err("a name that ends in `/` is a path of parameters; name one parameter".to_owned());
    }
    let Reference::Parameter(parameter) = parsed("parameterstore", name)? else { return Err(odd(name)) };
    let selector = if version.is_empty() { label } else { version };
    let version = if selector.is_empty() {
        ParameterVersion::Latest
    } else if selector.bytes().all(|b| b.is_ascii_digit()) {
        let number = selector.parse().ok().filter(|number| *number > 0);
        ParameterVersion::Number(number.ok_or_else(|| {
            format!("`objectVersion: {}` is no version of a parameter, which is a number from 1", shown(selector))
        })?)
    } else {
        check_label(selector, 100, "?#&:/")?;
        ParameterVersion::Label(selector.to_owned())
    };
    Ok(Reference::Parameter(ParameterRef { version, ..parameter }))
}

fn parsed(scheme: &str, name: &str) -> Result<Reference, String> {
    format!("{scheme}:{name}").parse().map_err(|error| format!("{error}"))
}

fn check_label(label: &str, most: usize, forbidden: &str) -> Result<(), String> {
    let bad = label.chars().find(|c| c.is_control() || c.is_whitespace() || forbidden.contains(*c));
    match bad {
        Some(bad) => Err(format!("the label `{}` may not hold {bad:?}", shown(label))),
        None if label.len() > most => Err(format!("a label has at most {most} characters")),
        None => Ok(()),
    }
}

fn odd(name: &str) -> String {
    format!("`{}` names more than one value", shown(name))
}
