//! Classes in manifests, checked without a cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use super::{ClassError, ClassFiles, Lint, Parameters, shown};
use crate::yaml::{self, Fault, Kind, Node};

/// Longest text that is read, in bytes: what Kubernetes can store of a dozen classes.
const TEXT_MAX: usize = 16 << 20;

/// A SecretProviderClass of a manifest, and what came of checking it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedClass {
    /// Its namespace and name as `NAMESPACE/NAME`; the name alone where the manifest leaves the namespace open.
    pub name: String,
    /// Its files by name and its warnings, or why it is refused.
    pub outcome: Result<Outcome, ManifestError>,
}

/// What is right with a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is of another provider, and not looked at.
    Foreign {
        /// The provider.
        provider: String,
    },
    /// It gives files.
    Fine {
        /// How many.
        files: usize,
        /// Warnings.
        lints: Vec<Lint>,
    },
}

/// Why the manifest of a class is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// There is no `spec.provider`.
    #[error("there is no `spec.provider`; write `provider: aws`")]
    NoProvider,
    /// There is no `spec.parameters`.
    #[error("there is no `spec.parameters`; write at least `objects: |` and under it the list of objects")]
    NoParameters,
    /// `objects` is YAML of the manifest, and has to be a text of its own.
    #[error(
        "`spec.parameters.objects` is {found}, and Kubernetes takes a text there; write `objects: |`, and the list below it"
    )]
    Objects {
        /// What it is.
        found: &'static str,
    },
    /// A parameter is no text.
    #[error("`spec.parameters.{key}` is {found}, and Kubernetes takes a text there; write it in quotes")]
    NoText {
        /// The parameter.
        key: String,
        /// What it is.
        found: &'static str,
    },
    /// The parameters are refused.
    #[error(transparent)]
    Class(#[from] ClassError),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign { provider } => write!(f, "not checked: its provider is `{provider}`, not `aws`"),
            Self::Fine { files: 1, .. } => f.write_str("ok, 1 file"),
            Self::Fine { files, .. } => write!(f, "ok, {files} files"),
        }
    }
}

/// Checks every class among the manifests of a text: YAML or JSON, one document or several, or lists of them.
pub fn check(text: &str) -> Result<Vec<CheckedClass>, Fault> {
    if text.len() > TEXT_MAX {
        let text = format!("this has {} bytes, and at most {TEXT_MAX} are read", text.len());
        return Err(Fault { place: yaml::Place::default(), text });
    }
    let mut classes = Vec::new();
    for document in yaml::all(text)? {
        collect(&document, &mut classes);
    }
    Ok(classes)
}

fn collect(manifest: &Rc<Node>, classes: &mut Vec<CheckedClass>) {
    let kind = manifest.get("kind").and_then(|kind| kind.text()).unwrap_or_default();
    if kind == "SecretProviderClass" {
        classes.push(CheckedClass { name: name(manifest), outcome: outcome(manifest) });
    } else if kind.ends_with("List")
        && let Some(Kind::List(items)) = manifest.get("items").map(|items| &items.kind)
    {
        for item in items {
            collect(item, classes);
        }
    }
}

fn name(manifest: &Node) -> String {
    let of_metadata = |key| manifest.get("metadata")?.get(key)?.text().map(|text| shown(&text));
    let name = of_metadata("name").unwrap_or_else(|| "(without a name)".to_owned());
    match of_metadata("namespace") {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name,
    }
}

fn outcome(manifest: &Node) -> Result<Outcome, ManifestError> {
    let spec = manifest.get("spec").ok_or(ManifestError::NoProvider)?;
    let provider = spec.get("provider").and_then(|provider| provider.text()).ok_or(ManifestError::NoProvider)?;
    if provider != "aws" {
        return Ok(Outcome::Foreign { provider: shown(&provider) });
    }
    let ClassFiles { files, mut lints } = Parameters::read(&parameters(spec)?)?.files_anywhere()?;
    let names: Vec<String> = files.iter().map(|file| file.naming.to_string()).collect();
    tell_of_missing_files(spec, &names, &mut lints);
    Ok(Outcome::Fine { files: names.len(), lints })
}

fn parameters(spec: &Node) -> Result<BTreeMap<String, String>, ManifestError> {
    let Some(Kind::Map(entries)) = spec.get("parameters").map(|parameters| &parameters.kind) else {
        return Err(ManifestError::NoParameters);
    };
    let mut parameters = BTreeMap::new();
    for (key, value) in entries {
        match &value.kind {
            _ if value.is_null() => {}
            Kind::Scalar(scalar) if value.noun() == "a text" => {
                parameters.insert(key.name.to_string(), scalar.text.clone());
            }
            _ if &*key.name == "objects" => return Err(ManifestError::Objects { found: value.noun() }),
            _ => return Err(ManifestError::NoText { key: shown(&key.name), found: value.noun() }),
        }
    }
    Ok(parameters)
}

/// Kubernetes Secrets are made of files by name; one that does not exist stops the whole Secret.
fn tell_of_missing_files(spec: &Node, files: &[String], lints: &mut Vec<Lint>) {
    let items = |node: Option<&Rc<Node>>| match node.map(|node| &node.kind) {
        Some(Kind::List(items)) => items.clone(),
        _ => Vec::new(),
    };
    for secret in items(spec.get("secretObjects")) {
        for entry in items(secret.get("data")) {
            let Some(name) = entry.get("objectName").and_then(|name| name.text()) else { continue };
            if files.contains(&name) {
                continue;
            }
            let files: Vec<&str> = files.iter().map(String::as_str).collect();
            let fix = match super::nearest(&name, &files) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "write a file's name, which is the `objectAlias` of an object, or its name".to_owned(),
            };
            let secret = secret.get("secretName").and_then(|name| name.text()).unwrap_or_default();
            let place = format!("secretObjects (`{}`)", shown(&secret));
            let text = format!("no file of this class is called `{}`: {fix}", shown(&name));
            lints.push(Lint { place, text });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<String> {
        let classes = check(text).unwrap();
        let mut told = Vec::new();
        for CheckedClass { name, outcome } in classes {
            match outcome {
                Ok(outcome) => {
                    if let Outcome::Fine { lints, .. } = &outcome {
                        told.extend(lints.iter().map(|lint| format!("{name}: {lint}")));
                    }
                    told.push(format!("{name}: {outcome}"));
                }
                Err(error) => told.push(format!("{name}: {error}")),
            }
        }
        told
    }

    #[test]
    fn classes_are_found_among_other_manifests() {
        let class = |name: &str, provider: &str| {
            format!(
                "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {{name: {name}, namespace: shop}}\n\
                 spec:\n  provider: {provider}\n  parameters:\n    objects: |\n      - objectName: prod/db\n        objectType: \
                 secretsmanager\n"
            )
        };
        let text = format!("{}---\nkind: Pod\n---\n# nothing\n---\n{}", class("one", "aws"), class("two", "gcp"));
        let expected = ["shop/one: ok, 1 file", "shop/two: not checked: its provider is `gcp`, not `aws`"];
        assert_eq!(told(&text), expected);
        let list = r#"{"kind": "List", "apiVersion": "v1", "items": [{"kind": "Pod"}, {"kind": "SecretProviderClass",
            "metadata": {"name": "three"}, "spec": {"provider": "aws", "parameters":
            {"objects": "- objectName: \"a\"\n  objectType: \"ssmparameter\"\n- objectName: b\n  objectType: ssmparameter\n"}}}]}"#;
        assert_eq!(told(list), ["three: ok, 2 files"]);
    }

    #[test]
    fn what_kubernetes_would_refuse_is_refused() {
        for (spec, expected) in [
            ("{}", "there is no `spec.provider`; write `provider: aws`"),
            (
                "{provider: aws}",
                "there is no `spec.parameters`; write at least `objects: |` and under it the list of objects",
            ),
            (
                "{provider: aws, parameters: {objects: [{objectName: a}]}}",
                "`spec.parameters.objects` is a list, and Kubernetes takes a text there; write `objects: |`, and the list below it",
            ),
            (
                "{provider: aws, parameters: {usePodIdentity: true}}",
                "`spec.parameters.usePodIdentity` is true or false, and Kubernetes takes a text there; write it in quotes",
            ),
            (
                "{provider: aws, parameters: {region: eu-west-1}}",
                "missing object versions; `objects` names no secret and no parameter: write a list, each entry with `objectName`",
            ),
        ] {
            let text = format!("kind: SecretProviderClass\nmetadata: {{name: c}}\nspec: {spec}\n");
            assert_eq!(told(&text), [format!("c: {expected}")], "{spec}");
        }
    }

    #[test]
    fn a_kubernetes_secret_of_a_file_that_is_not_there_is_told() {
        let text = "kind: SecretProviderClass\nmetadata: {name: c}\nspec:\n  provider: aws\n  parameters:\n    objects: |\n      \
                    - {objectName: prod/db, objectType: secretsmanager}\n  secretObjects:\n    - secretName: db\n      data: \
                    [{objectName: prod-db, key: a}, {objectName: prod_db, key: b}]\n";
        let expected = "c: secretObjects (`db`): no file of this class is called `prod-db`: did you mean `prod_db`?";
        assert_eq!(told(text), [expected, "c: ok, 1 file"]);
    }

    #[test]
    fn arns_say_the_region_where_the_class_does_not() {
        let text = "kind: SecretProviderClass\nmetadata: {name: c}\nspec: {provider: aws, parameters: {objects: \"[{objectName: \
                    'arn:aws:secretsmanager:eu-north-1:123456789012:secret:a-AbCdEf'}]\"}}\n";
        assert_eq!(told(text), ["c: ok, 1 file"]);
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_place() {
        let fault = check("kind: SecretProviderClass\nspec: {").unwrap_err().to_string();
        assert!(fault.starts_with("line "), "{fault}");
    }
}
