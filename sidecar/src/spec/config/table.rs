//! What stands where in a config file: a table for each mapping, by which it is read and from which its schema is made.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::file::Mode;

/// A mapping, and the keys that it may have.
pub(super) struct Mapping {
    /// What the schema calls it.
    pub(super) id: &'static str,
    /// What messages call it.
    pub(super) what: &'static str,
    /// What it is there for.
    pub(super) meaning: &'static str,
    /// Its keys, in the order in which messages list them.
    pub(super) keys: &'static [Setting],
    /// What must be there beside the keys that are [`Without::Refused`].
    pub(super) demands: Demands,
}

/// Keys of which some have to be there.
#[derive(Clone, Copy)]
pub(super) enum Demands {
    /// No more than those without which nothing goes.
    Nothing,
    /// One of these, or several.
    Some(&'static [&'static str]),
    /// One of these, and no other of them.
    One(&'static [&'static str]),
}

/// A key of a mapping.
pub(super) struct Setting {
    /// The key.
    pub(super) name: &'static str,
    /// What may stand there.
    pub(super) takes: Takes,
    /// What holds where it does not stand.
    pub(super) without: Without,
    /// What it means.
    pub(super) meaning: &'static str,
}

/// What may stand at a key.
pub(super) enum Takes {
    /// Any text that the words tell of.
    Text(&'static str),
    /// A text of a form: what it is, a regular expression that every such text has, and one of them.
    Form(&'static str, &'static str, &'static str),
    /// One of these texts.
    Word(fn() -> Vec<String>),
    /// `true` or `false`.
    Boolean,
    /// A time with a unit.
    Time(RangeInclusive<Duration>),
    /// A whole number.
    Count(RangeInclusive<u64>),
    /// A number.
    Rate(RangeInclusive<f64>),
    /// Permission bits.
    Mode,
    /// An address and a port.
    Address,
    /// An absolute path, of what.
    Path(&'static str),
    /// A program and its arguments.
    Command,
    /// Names, each with one text or one mapping.
    Named(&'static Mapping),
    /// A mapping.
    Mapping(&'static Mapping),
    /// A list of mappings.
    List(&'static Mapping),
}

/// What holds where a key does not stand.
pub(super) enum Without {
    /// The mapping cannot be read.
    Refused,
    /// Nothing more is done, or nothing is there.
    Nothing,
    /// What the words say.
    Says(&'static str),
    /// This time.
    Time(Duration),
    /// This whole number.
    Count(usize),
    /// This number.
    Rate(f64),
    /// This text.
    Text(&'static str),
    /// These permission bits.
    Mode(Mode),
    /// `false`.
    No,
}

impl Mapping {
    /// The names of the keys.
    pub(super) fn names(&self) -> Vec<&'static str> {
        self.keys.iter().map(|key| key.name).collect()
    }
}

/// A reference in a file's `from`, as [`super::super::Reference`] reads it.
pub(super) const REFERENCE: Takes = Takes::Form(
    "a reference: `secretsmanager:NAME`, `parameterstore:NAME` or an ARN, with `?stage=`, `?label=` or `?version=`",
    "^(secretsmanager|parameterstore|arn):[^\\s#]+$",
    "secretsmanager:prod/db",
);
