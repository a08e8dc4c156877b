//! Warnings about a class.

use std::fmt;

/// Something that a class's author should know; no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lint {
    /// Where: the object by number and name, or the parameters.
    pub place: String,
    /// What, and the fix.
    pub text: String,
}

impl Lint {
    pub(super) fn new(place: impl fmt::Display, text: impl Into<String>) -> Self {
        Self { place: place.to_string(), text: text.into() }
    }
}

impl fmt::Display for Lint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// The known word that `word` was probably meant to be: no more than a third of it differs, its case aside.
pub(super) fn nearest<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    // What is much longer than any of them is none of them, and slow to compare.
    let lower = Some(word).filter(|word| word.len() <= 64)?.to_lowercase();
    known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&lower, &known.to_lowercase()), *known))
        .filter(|(distance, known)| *distance <= known.len() / 3)
        .min()
        .map(|(_, known)| known)
}
