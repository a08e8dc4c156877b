//! As whom and where to ask, and with which mode: settings that go down from the top to volumes and
//! from there to files.

use coffer_runtime::aws::{check_region, is_role_arn};

use super::super::RoleStep;
use super::super::yaml::{Kind, Node};
use super::fields::{Fields, Problems, text};
use super::table::{Setting, Takes, Without};
use crate::file::Mode;

pub(super) const fn region_key(without: &'static str) -> Setting {
    let form = "^[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}$";
    Setting {
        name: "region",
        takes: Takes::Form("the name of an AWS region", form, "eu-west-1"),
        without: Without::Says(without),
        meaning: "Where AWS is asked",
    }
}

pub(super) const fn role_arn_key(without: &'static str) -> Setting {
    let form = "^arn:[A-Za-z0-9_-]+:iam::[0-9]{12}:role/.+$";
    Setting {
        name: "role_arn",
        takes: Takes::Form("the ARN of a role", form, "arn:aws:iam::123456789012:role/app"),
        without: Without::Says(without),
        meaning: "The role that is assumed before AWS is asked",
    }
}

pub(super) const EXTERNAL_ID_KEY: Setting = Setting {
    name: "external_id",
    takes: Takes::Text("a text, beside `role_arn`"),
    without: Without::Nothing,
    meaning: "What the role's trust policy asks for as `sts:ExternalId`",
};

pub(super) const fn mode_key(without: Without) -> Setting {
    let meaning = "The permission bits of files; with a leading zero, for YAML takes 440 for a decimal number";
    Setting { name: "mode", takes: Takes::Mode, without, meaning }
}

/// Settings that a volume takes from the top, and a file from its volume, unless it has its own.
#[derive(Clone, Default)]
pub(super) struct Inherited {
    pub(super) region: Option<String>,
    pub(super) role: Option<RoleStep>,
    pub(super) mode: Option<Mode>,
}

pub(super) fn inherited(fields: &mut Fields, above: &Inherited, problems: &mut Problems) -> Inherited {
    let region = fields.take("region").and_then(|node| region(&node, problems));
    let external_id = fields.take("external_id");
    let role = match fields.take("role_arn") {
        Some(node) => role_arn(&node, problems).map(|role_arn| RoleStep {
            role_arn,
            external_id: external_id.and_then(|node| text(&node, "external_id", problems)),
        }),
        None => {
            if let Some(node) = external_id {
                problems.add(node.place, "`external_id` belongs to a role; put `role_arn` beside it");
            }
            None
        }
    };
    let mode = fields.take("mode").and_then(|node| mode(&node, problems));
    Inherited {
        region: region.or_else(|| above.region.clone()),
        role: role.or_else(|| above.role.clone()),
        mode: mode.or(above.mode),
    }
}

pub(super) fn region(node: &Node, problems: &mut Problems) -> Option<String> {
    let name = text(node, "region", problems)?;
    if let Err(error) = check_region(&name) {
        problems.add(node.place, format!("`region: {}` {error}", name.escape_debug()));
        return None;
    }
    Some(name)
}

pub(super) fn role_arn(node: &Node, problems: &mut Problems) -> Option<String> {
    let arn = text(node, "role_arn", problems)?;
    if !is_role_arn(&arn) {
        let fix = "write it as `arn:aws:iam::123456789012:role/NAME`";
        problems.add(node.place, format!("`{}` is no role's ARN; {fix}", arn.escape_debug()));
        return None;
    }
    Some(arn)
}

fn mode(node: &Node, problems: &mut Problems) -> Option<Mode> {
    let octal = match &node.kind {
        Kind::Text(text) => {
            let digits = text.strip_prefix("0o").or_else(|| text.strip_prefix('0'));
            digits.filter(|digits| digits.len() >= 3).and_then(|digits| u32::from_str_radix(digits, 8).ok())
        }
        _ => None,
    };
    let Some(bits) = octal else {
        let shown = match &node.kind {
            Kind::Integer(number) => format!("`mode: {number}` reads as a decimal number"),
            Kind::Text(text) => format!("`mode: {text}` is no octal number"),
            other => format!("`mode` is {}", other.noun()),
        };
        problems.add(node.place, format!("{shown}; write permission bits with a leading zero, such as `0440`"));
        return None;
    };
    problems.parsed(node.place, "mode", Mode::new(bits))
}
