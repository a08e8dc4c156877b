//! Our volumes.

use serde_json::{Value, json};

use crate::webhook::annotations::{Content, Mode, Wish};

use super::Settings;
use super::identity::Identity;
use super::names::{CONFIG, CONFIG_KEY, INJECTED_CONFIG, PROGRAM, SECRETS};
use super::quantity::bytes;

/// The most that the program may take: some 10 MiB today.
const PROGRAM_SIZE: &str = "64Mi";

/// A volume, and why it is there.
pub(super) struct Wanted {
    pub(super) volume: Value,
    pub(super) why: String,
}

/// Those that the pod needs, in their order.
pub(super) fn wanted(
    wish: &Wish,
    identity: &Identity,
    needs_token: bool,
    size: &(u64, String),
    settings: &Settings,
) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    if wish.content != Content::Nothing {
        let (size, why) = size;
        let empty = json!({ "medium": "Memory", "sizeLimit": bytes(*size) });
        let why = format!("the secrets: in memory, gone with the pod; its limit: {why}");
        wanted.push(Wanted { volume: json!({ "name": SECRETS, "emptyDir": empty }), why });
    }
    match &wish.content {
        Content::Nothing => {}
        Content::ConfigMap { name, key } => {
            let map = json!({ "name": name, "items": [{ "key": key, "path": CONFIG_KEY }] });
            let why = format!(
                "the config file that `coffer.dev/config` names; `volumes[].path` in it is to be {}; a change of it takes \
                 effect in the running pod",
                wish.path
            );
            wanted.push(Wanted { volume: json!({ "name": CONFIG, "configMap": map }), why });
        }
        Content::Inline(_) => {
            let field = json!({ "fieldPath": format!("metadata.annotations['{INJECTED_CONFIG}']") });
            let items = json!({ "items": [{ "path": CONFIG_KEY, "fieldRef": field }] });
            let why = format!("the config file, from the annotation `{INJECTED_CONFIG}`: references only, no secrets");
            wanted.push(Wanted { volume: json!({ "name": CONFIG, "downwardAPI": items }), why });
        }
    }
    if let Some(volume) = identity.volume(settings).filter(|_| needs_token) {
        let why = "the service account's token for AWS".to_owned();
        wanted.push(Wanted { volume, why });
    }
    if matches!(wish.mode, Mode::Exec { .. }) {
        let volume = json!({ "name": PROGRAM, "emptyDir": { "sizeLimit": PROGRAM_SIZE } });
        let why = "the program that runs the application with its secrets".to_owned();
        wanted.push(Wanted { volume, why });
    }
    wanted
}
