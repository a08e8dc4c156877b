//! What stands in the object. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use coffer::push::{Change, Subject};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::error::Category;

/// The keys of the object's data.
const CHANGES: &str = "changes";
const SEQ: &str = "seq";

/// The most changes that stand there; the oldest fall off.
const CHANGES_MAX: usize = 200;
/// Longest text of them all, in bytes: each node gets it at each change, and a ConfigMap holds 1 MiB
/// (Kubernetes' documentation, "ConfigMaps").
const BYTES_MAX: usize = 128 << 10;
/// Longest text of one, in bytes. AWS's names and ARNs have at most 2048 characters each.
const CHANGE_MAX: usize = 8 << 10;
/// How long a change stands there: far longer than a node is without a connection.
const KEPT_FOR: Duration = Duration::from_secs(600);
/// The largest whole number that every reader of JSON keeps as it is (RFC 8259, section 6).
const SEQ_MAX: u64 = (1 << 53) - 1;

/// The changes of the last minutes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotations {
    /// Of the last change that was announced, even if it has fallen off.
    seq: u64,
    /// By age; the newest last.
    changes: Vec<Announced>,
}

/// A change that was announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Larger than that of every change before it.
    pub seq: u64,
    /// When, by the notifier's clock, in whole milliseconds.
    pub at: Timestamp,
    /// What.
    pub change: Change,
}

/// Why the object's data is not what a notifier writes. Repeats nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// `changes` is no list in JSON.
    #[error(
        "`changes` is no list in JSON ({problem}, line {line}, column {column}); delete the object, the notifier makes it again"
    )]
    Changes {
        /// What is wrong.
        problem: &'static str,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// `seq` is no number, or one that no notifier writes.
    #[error("`seq` is no whole number from 0 to 2^53 - 1; delete the object, the notifier makes it again")]
    Seq,
}

impl Rotations {
    /// Reads the data of the object. A change that is not understood is left out, as a newer notifier may
    /// tell of more; of one that is, fields that are not known are.
    ///
    /// # Errors
    /// When it is nothing that a notifier wrote. Data without any of it is no error: nothing was announced.
    pub fn read(data: &BTreeMap<String, String>) -> Result<Self, Unreadable> {
        let changes = match data.get(CHANGES) {
            Some(text) => serde_json::from_str::<Vec<Value>>(text).map_err(|error| Unreadable::changes(&error))?,
            None => Vec::new(),
        };
        // Not more than a notifier writes, whoever wrote this.
        let surplus = changes.len().saturating_sub(CHANGES_MAX);
        let mut changes: Vec<Announced> = changes.into_iter().skip(surplus).filter_map(Announced::read).collect();
        // Stable: those of the same number stay as they were.
        changes.sort_by_key(|announced| announced.seq);
        let seq = match data.get(SEQ) {
            Some(text) => text.parse().ok().filter(|seq| *seq <= SEQ_MAX).ok_or(Unreadable::Seq)?,
            None => 0,
        };
        let seq = changes.last().map_or(seq, |last| seq.max(last.seq));
        Ok(Self { seq, changes })
    }

    /// The data to be written: the object's two keys.
    #[must_use]
    pub fn data(&self) -> [(String, String); 2] {
        let lines: Vec<String> = self.changes.iter().map(Announced::line).collect();
        // A line each, for those who look at it with kubectl.
        [(CHANGES.to_owned(), format!("[{}]", lines.join(",\n"))), (SEQ.to_owned(), self.seq.to_string())]
    }

    /// Adds changes, the newest last, and lets go what is too old or too much. One that equals an earlier
    /// one takes its place, for it says the same of a later moment.
    ///
    /// How many were not added, as no secret and no parameter has so long a name.
    pub fn announce(&mut self, changes: Vec<Change>, now: Timestamp) -> usize {
        let at = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
        let mut refused = 0;
        for change in changes {
            if self.seq >= SEQ_MAX {
                // Written by no notifier. Numbers that start anew are taken by time.
                *self = Self::default();
            }
            // Never lower than the time: so an object that was deleted and made again goes on counting up.
            let seq = (self.seq + 1).max(u64::try_from(at.as_millisecond()).unwrap_or(0)).min(SEQ_MAX);
            let announced = Announced { seq, at, change };
            if announced.line().len() > CHANGE_MAX {
                refused += 1;
                continue;
            }
            self.seq = seq;
            self.changes.retain(|earlier| earlier.change != announced.change);
            self.changes.push(announced);
        }
        self.changes.retain(|announced| age(announced.at, at) <= KEPT_FOR);
        let mut bytes = "[]".len();
        let room = self.changes.iter().rev().take(CHANGES_MAX).take_while(|announced| {
            bytes += announced.line().len() + ",\n".len();
            bytes <= BYTES_MAX
        });
        let surplus = self.changes.len() - room.count();
        self.changes.drain(..surplus);
        refused
    }

    /// The number of the last change that was announced; 0 if none was.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The changes that stand there, the newest last.
    #[must_use]
    pub fn changes(&self) -> &[Announced] {
        &self.changes
    }
}

/// How long ago that was; nothing for what another's clock puts into the future.
pub(super) fn age(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(at)).unwrap_or(Duration::ZERO)
}

/// A change as it stands in the list.
#[derive(Serialize, Deserialize)]
struct Line {
    seq: u64,
    at: Timestamp,
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    arn: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    label: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Secret,
    Parameter,
}

impl Announced {
    fn read(value: Value) -> Option<Self> {
        let Line { seq, at, kind, name, arn, region, account, version, label } = serde_json::from_value(value).ok()?;
        let subject = match kind {
            Kind::Secret if name.is_none() && arn.is_none() => return None,
            Kind::Secret => Subject::Secret { name, arn },
            Kind::Parameter => Subject::Parameter { name: name?, arn },
        };
        let change = Change { subject, region, account, version, label };
        (seq <= SEQ_MAX).then_some(Self { seq, at, change })
    }

    fn line(&self) -> String {
        let Change { subject, region, account, version, label } = self.change.clone();
        let (kind, name, arn) = match subject {
            Subject::Secret { name, arn } => (Kind::Secret, name, arn),
            Subject::Parameter { name, arn } => (Kind::Parameter, Some(name), arn),
        };
        let line = Line { seq: self.seq, at: self.at, kind, name, arn, region, account, version, label };
        // Texts and numbers: nothing of it can fail.
        serde_json::to_string(&line).unwrap_or_default()
    }
}

impl Unreadable {
    fn changes(error: &serde_json::Error) -> Self {
        let problem = match error.classify() {
            Category::Eof => "it breaks off",
            Category::Data => "it is something else",
            Category::Syntax | Category::Io => "it is no JSON",
        };
        Self::Changes { problem, line: error.line(), column: error.column() }
    }
}

#[cfg(test)]
mod tests;
