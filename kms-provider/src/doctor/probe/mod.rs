//! Asks the plugin behind each socket of a config, as an API server would: how it is, then a real Encrypt and
//! Decrypt. What IAM allows is found out by doing it.

mod advice;
mod connection;
mod plugin;
#[cfg(test)]
mod tests;

use self::connection::{connect, look};
use self::plugin::{ask_v1, ask_v2};
use super::Finding;
use super::config::Stanza;
use super::config::endpoint::is_same;
use crate::etcd::KmsApi;

/// What the plugins behind `stanzas` answer. Two stanzas over one socket and API are asked once.
pub async fn probe(stanzas: &[Stanza]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut asked: Vec<(&Stanza, Option<String>)> = Vec::new();
    for stanza in stanzas {
        let same_socket = asked.iter().filter(|(other, _)| is_same(&other.socket, &stanza.socket));
        if same_socket.clone().any(|(other, _)| other.api == stanza.api) {
            continue;
        }
        if let (0, Some(path)) = (same_socket.count(), stanza.socket.path()) {
            findings.extend(look(path).into_iter().map(|finding| finding.at(stanza.place)));
        }
        let (found, key_id) = ask(stanza).await;
        findings.extend(found.into_iter().map(|finding| finding.at(stanza.place)));
        asked.push((stanza, key_id));
    }
    findings.extend(same_keys(&asked));
    findings
}

async fn ask(stanza: &Stanza) -> (Vec<Finding>, Option<String>) {
    let channel = match connect(stanza).await {
        Ok(channel) => channel,
        Err(finding) => return (vec![finding], None),
    };
    match stanza.api {
        KmsApi::V1 => (ask_v1(stanza, channel).await, None),
        KmsApi::V2 => ask_v2(stanza, channel).await,
    }
}

/// An API server writes a value anew when its key id is another than today's: with the same one behind two
/// providers, the way from the one to the other is never seen as finished, or begun.
fn same_keys(asked: &[(&Stanza, Option<String>)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (nth, (later, key_id)) in asked.iter().enumerate() {
        let Some(key_id) = key_id else { continue };
        let same = |other: &&(&Stanza, Option<String>)| {
            other.0.group == later.group && other.1.as_ref() == Some(key_id) && !is_same(&other.0.socket, &later.socket)
        };
        if let Some((earlier, _)) = asked[..nth].iter().find(same) {
            let what = format!(
                "`{}` and `{}` both answer with the key_id `{key_id}`: to go from the one to the other rotates nothing",
                earlier.name, later.name
            );
            findings.push(Finding::warn(what, "give each plugin a --key of its own").at(later.place));
        }
    }
    findings
}
