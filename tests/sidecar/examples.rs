//! What stands under `deploy/` to be copied is right.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use bed::{Program, tmpfs_dir};
use coffer::{render::Selector, spec::Reference};
use serde_json::Value;

use crate::fixture::{SOON, walk};

/// The files under `deploy/` whose names end so.
fn files(suffix: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy"), &mut |path, metadata| {
        if metadata.is_file() && path.to_string_lossy().ends_with(suffix) {
            found.push(path.to_owned());
        }
        Ok(())
    })?;
    found.sort();
    Ok(found)
}

/// The configs in a file: all of a `coffer.yaml`, and each `coffer.yaml: |` of a ConfigMap. Prometheus rules are
/// named after the program that they watch, so one of theirs is called `coffer.yaml` too.
fn configs(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file)?;
    let own = file.ends_with("coffer.yaml") && !file.ends_with("rules/coffer.yaml");
    let mut configs = if own { vec![text.clone()] } else { Vec::new() };
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() == "coffer.yaml: |" {
            let block = lines.clone().take_while(|inner| inner.trim().is_empty() || indent(inner) > indent(line));
            configs.push(block.map(|inner| format!("{inner}\n")).collect());
        }
    }
    Ok(configs)
}

#[tokio::test]
async fn every_config_passes_the_check() -> Result<()> {
    let folder = tmpfs_dir()?;
    let mut checked = 0;
    for file in files(".yaml")? {
        for config in configs(&file)? {
            let copy = folder.path().join("coffer.yaml");
            fs::write(&copy, config)?;
            let check = Program::new("coffer").args(["check", "--config"]).arg(&copy).start()?;
            let status = check.wait(SOON).await?;
            ensure!(status.success(), "{}: {}", file.display(), check.stderr());
            checked += 1;
        }
    }
    ensure!(checked >= 5, "only {checked} configs were found");
    Ok(())
}

#[test]
fn every_policy_allows_named_actions_only() -> Result<()> {
    let mut policies = 0;
    for file in files(".json")? {
        let shown = file.display().to_string();
        let value: Value = serde_json::from_str(&fs::read_to_string(&file)?).with_context(|| shown.clone())?;
        let Some(statements) = value["Statement"].as_array() else { continue };
        policies += 1;
        ensure!(value["Version"] == "2012-10-17", "{shown} has no version, or an old one");
        for statement in statements {
            let place = format!("{shown}: {statement}");
            ensure!(statement["Effect"] == "Allow" && statement["Sid"].is_string(), "{place}");
            let actions = statement["Action"].as_array().with_context(|| place.clone())?;
            let named = |action: &Value| action.as_str().is_some_and(|action| !action.contains('*'));
            ensure!(actions.iter().all(named), "not only named actions in {place}");
            // The actions of theirs that know no resources; whoever acts by the first is told in a condition.
            let knows_none = ["secretsmanager:BatchGetSecretValue", "kms:ListAliases"];
            // In a key's own policy, which names who as well, everything is that key.
            let boundless = statement["Resource"] == "*" && statement["Principal"].is_null();
            ensure!(
                !boundless || actions.iter().all(|action| knows_none.iter().any(|known| action == known)),
                "{place}"
            );
            ensure!(statement["Principal"] != "*" && statement["Principal"]["AWS"] != "*", "everybody in {place}");
        }
    }
    ensure!(policies >= 4, "only {policies} policies were found");
    Ok(())
}

#[test]
fn every_reference_in_a_task_definition_is_one() -> Result<()> {
    let mut references = 0;
    for file in files(".json")? {
        let value: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
        let containers = value["containerDefinitions"].as_array().into_iter().flatten();
        for variable in containers.filter_map(|container| container["environment"].as_array()).flatten() {
            let Some(text) = variable["value"].as_str().and_then(|value| value.strip_prefix("coffer:")) else {
                continue;
            };
            let (reference, select) =
                text.split_once('#').map_or((text, None), |(reference, rest)| (reference, Some(rest)));
            let place = || format!("{}: {variable}", file.display());
            ensure!(!matches!(reference.parse().with_context(place)?, Reference::Path(_)), "{}", place());
            select.map(Selector::new).transpose().with_context(place)?;
            references += 1;
        }
    }
    ensure!(references >= 3, "only {references} references were found");
    Ok(())
}
