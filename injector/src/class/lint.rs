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

/// The warnings about one class; a text can be made to deserve more than anyone would read.
#[derive(Debug, Default)]
pub(super) struct Lints {
    told: Vec<Lint>,
    untold: usize,
}

impl Lints {
    const MOST: usize = 50;

    pub(super) fn add(&mut self, place: impl fmt::Display, text: impl Into<String>) {
        self.add_with(place, || text.into());
    }

    /// Finds the words only where there is room for them.
    pub(super) fn add_with(&mut self, place: impl fmt::Display, text: impl FnOnce() -> String) {
        match self.told.len() < Self::MOST {
            true => self.told.push(Lint { place: place.to_string(), text: text() }),
            false => self.untold += 1,
        }
    }

    pub(super) fn into_told(mut self) -> Vec<Lint> {
        if self.untold > 0 {
            let text = format!("{} more warnings are not told: mend those above first", self.untold);
            self.told.push(Lint { place: "objects".to_owned(), text });
        }
        self.told
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
