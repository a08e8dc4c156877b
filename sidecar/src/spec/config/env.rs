//! What `coffer exec` puts into an environment, as the config file has it.

use super::super::yaml::Node;
use super::super::{EnvName, EnvSpec, Place, Reference};
use super::fields::{Fields, Problems, list, text};
use super::inherited::{Inherited, inherited};
use super::volume::wanted;
use crate::render::Selector;

const KEYS: &[&str] = &["name", "from", "select", "format", "region", "role_arn", "external_id"];

/// The list below `env:`.
pub(super) fn env(node: Node, above: &Inherited, problems: &mut Problems) -> Option<Vec<EnvSpec>> {
    let mut read: Vec<(Place, EnvSpec)> = Vec::new();
    for node in list(node, "env", problems)? {
        let place = node.place;
        let Some(spec) = one(node, above, problems) else { continue };
        if let Some((other, _)) = read.iter().find(|(_, other)| other.name == spec.name) {
            problems
                .add(place, format!("the variable `{}` stands already in line {}; remove one", spec.name, other.line));
        }
        read.push((place, spec));
    }
    Some(read.into_iter().map(|(_, spec)| spec).collect())
}

fn one(node: Node, above: &Inherited, problems: &mut Problems) -> Option<EnvSpec> {
    let place = node.place;
    let mut fields = Fields::of(node, "a variable", KEYS, problems)?;
    let region_here = fields.place_of("region");
    let inherited = inherited(&mut fields, above, problems);
    let select = fields.take("select").and_then(|node| {
        let text = text(&node, "select", problems)?;
        problems.parsed(node.place, "select", Selector::new(&text))
    });
    let format = fields.take("format").and_then(|node| {
        let text = text(&node, "format", problems)?;
        problems.parsed(node.place, "format", text.parse())
    });
    let (name, from) = (fields.take("name"), fields.take("from"));
    for (key, node, example) in [("name", &name, "DB_PASSWORD"), ("from", &from, "secretsmanager:prod/db")] {
        if node.is_none() {
            problems.add(place, format!("this variable has no `{key}`; add one, such as `{example}`"));
        }
    }
    let (name, from) = (name?, from?);
    let name_text = text(&name, "name", problems)?;
    let name = problems.parsed(name.place, "name", EnvName::new(name_text));
    let from_text = text(&from, "from", problems)?;
    let reference = problems.parsed(from.place, "from", from_text.parse::<Reference>())?;
    if matches!(reference, Reference::Path(_)) {
        let fix = "name one parameter, without the slash at the end";
        problems.add(from.place, format!("`{from_text}` gives many values, and a variable holds one; {fix}"));
        return None;
    }
    let wanted = wanted(reference, inherited, region_here, problems);
    Some(EnvSpec { name: name?, wanted, select, format: format.unwrap_or_default() })
}
