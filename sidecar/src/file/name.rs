//! Names of files inside a volume.

use std::fmt;
use std::path::Path;

/// Longest path component Linux takes, in bytes (`NAME_MAX`, limits.h).
const NAME_MAX: usize = 255;
/// Longest whole name, in bytes: leaves room for the volume's own path and a generation's name
/// below Linux's `PATH_MAX` of 4096.
const LENGTH_MAX: usize = 1024;

/// The name of a file in a volume: a relative path that cannot leave the volume.
///
/// Components are separated by single slashes; none is empty, `.`, or starts with `..`: such
/// names belong to the publisher (`..data`), as in the kubelet's atomic writer
/// (pkg/volume/util/atomic_writer.go, `validatePath`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(Box<str>);

/// Why a text is not a [`FileName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileNameError {
    /// The text is empty, or has an empty component (`a//b`, `a/`).
    #[error("a file name may not be empty or have an empty part")]
    Empty,
    /// The text starts with a slash.
    #[error("a file name is relative to the volume; remove the leading `/`")]
    Absolute,
    /// A component is `.`, `..`, or starts with `..`.
    #[error(
        "`{0}` may not be part of a file name: names starting with `..` are the publisher's own, and `.` names no file"
    )]
    Dots(String),
    /// The text holds a NUL or another control character.
    #[error("a file name may not hold control characters")]
    Control,
    /// A component is longer than 255 bytes, or the whole is longer than 1024.
    #[error("a file name may have at most 255 bytes in each part and 1024 in all")]
    TooLong,
}

impl FileName {
    /// Checks `text` and takes it as a name.
    pub fn new(text: &str) -> Result<Self, FileNameError> {
        if text.is_empty() {
            return Err(FileNameError::Empty);
        }
        if text.starts_with('/') {
            return Err(FileNameError::Absolute);
        }
        if text.chars().any(char::is_control) {
            return Err(FileNameError::Control);
        }
        for part in text.split('/') {
            if part.is_empty() {
                return Err(FileNameError::Empty);
            }
            if part == "." || part.starts_with("..") {
                return Err(FileNameError::Dots(part.to_owned()));
            }
            if part.len() > NAME_MAX {
                return Err(FileNameError::TooLong);
            }
        }
        if text.len() > LENGTH_MAX {
            return Err(FileNameError::TooLong);
        }
        Ok(Self(text.into()))
    }

    /// Checks `text` as a name in `folder`, or in the volume itself.
    pub fn below(folder: Option<&Self>, text: &str) -> Result<Self, FileNameError> {
        match folder {
            Some(folder) => Self::new(&format!("{folder}/{text}")),
            None => Self::new(text),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a relative path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(&*self.0)
    }

    /// The first component: what a reader sees at the volume's top.
    #[must_use]
    pub fn top(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(top, _)| top)
    }

    /// Whether both cannot exist in one volume: the same file, or one would have to be a folder
    /// that holds the other.
    #[must_use]
    pub fn collides_with(&self, other: &Self) -> bool {
        let (short, long) = if self.0.len() <= other.0.len() { (self, other) } else { (other, self) };
        long.0.strip_prefix(&*short.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_could_leave_the_volume() {
        for (text, why) in [
            ("", FileNameError::Empty),
            ("a//b", FileNameError::Empty),
            ("a/", FileNameError::Empty),
            ("/etc/passwd", FileNameError::Absolute),
            ("..", FileNameError::Dots("..".into())),
            ("a/../b", FileNameError::Dots("..".into())),
            ("..data", FileNameError::Dots("..data".into())),
            ("./a", FileNameError::Dots(".".into())),
            ("a\0b", FileNameError::Control),
            ("a\nb", FileNameError::Control),
        ] {
            assert_eq!(FileName::new(text), Err(why), "{text:?}");
        }
        assert_eq!(FileName::new(&"x".repeat(256)), Err(FileNameError::TooLong));
        assert_eq!(FileName::new("x/".repeat(600).trim_end_matches('/')), Err(FileNameError::TooLong));
    }

    #[test]
    fn takes_ordinary_names() {
        for text in ["db.json", ".env", "certs/tls.crt", "a..b", "ключ", "with space"] {
            assert_eq!(FileName::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_file_collides_with_itself_and_with_a_folder_of_its_name() {
        let name = |text| FileName::new(text).unwrap();
        assert!(name("a").collides_with(&name("a")));
        assert!(name("a").collides_with(&name("a/b")));
        assert!(name("a/b").collides_with(&name("a")));
        assert!(!name("a").collides_with(&name("ab")));
        assert!(!name("a/b").collides_with(&name("a/c")));
    }

    proptest! {
        #[test]
        fn an_accepted_name_stays_below_its_volume(text in "[./a-z]{0,24}") {
            if let Ok(name) = FileName::new(&text) {
                let mut depth = 0;
                for part in name.as_path().components() {
                    prop_assert!(matches!(part, std::path::Component::Normal(_)));
                    depth += 1;
                }
                prop_assert!(depth > 0);
            }
        }
    }
}
