//! What `coffer exec` puts into an environment, as the config file has it.

use super::super::yaml::Node;
use super::super::{EnvName, EnvSpec, Place, Reference};
use super::fields::{Fields, Problems, list, text};
use super::inherited::{EXTERNAL_ID_KEY, Inherited, inherited, region_key, role_arn_key};
use super::table::{Demands, Mapping, REFERENCE, Setting, Takes, Without};
use super::volume::{SELECT_KEY, wanted};
use crate::render::{Format, Selector};

pub(super) static VARIABLE: Mapping = Mapping {
    id: "variable",
    what: "a variable",
    meaning: "A variable of the environment of what `coffer exec` runs",
    keys: &[
        Setting {
            name: "name",
            takes: Takes::Text("a text without `=`"),
            without: Without::Refused,
            meaning: "What the variable is called",
        },
        Setting { name: "from", takes: REFERENCE, without: Without::Refused, meaning: "The secret or the parameter" },
        SELECT_KEY,
        Setting {
            name: "format",
            takes: Takes::Word(|| Format::ALL.iter().map(ToString::to_string).collect()),
            without: Without::Text("raw"),
            meaning: "How the value is written",
        },
        region_key("that of the top"),
        role_arn_key("that of the top"),
        EXTERNAL_ID_KEY,
    ],
    demands: Demands::Nothing,
};

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
    let mut fields = Fields::of(node, &VARIABLE, problems)?;
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
