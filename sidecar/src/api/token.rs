//! The token that a request must carry: it keeps a program that can only be made to fetch a URL
//! (SSRF) from fetching a secret.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use coffer_runtime::Secret;
use zeroize::Zeroizing;

use super::ApiError;
use crate::digest::{Digest, Key};

/// Where AWS's agent looks for the token, in its order.
const VARIABLES: [&str; 3] = ["AWS_TOKEN", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN"];
/// Far above any token (those of AWS have about a thousand bytes), and a bound on what is read.
const LENGTH_MAX: u64 = 64 * 1024;

/// The token. Only a keyed digest of it stays in memory, and only digests are compared: how long
/// that takes tells nothing of the token, not even its length.
pub(super) struct Token {
    key: Key,
    place: Place,
    held: Mutex<Held>,
}

/// Where the token comes from.
enum Place {
    /// The value itself, in a variable of the environment; it cannot change.
    Variable,
    File(PathBuf),
}

struct Held {
    digest: Digest,
    /// Of the file, when the token was read.
    stamp: Option<Stamp>,
    /// Whether the log knows that the file is of no use now.
    complained: bool,
}

/// Tells a file from what it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Token {
    /// The token in `file`, else that of the environment: the value of the first variable that is
    /// set to something, or what is in the file that it names as `file://PATH`.
    pub(super) fn find(file: Option<&Path>, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ApiError> {
        if let Some(path) = file {
            return Self::in_file("token_file", path);
        }
        let set = VARIABLES.into_iter().find_map(|name| Some((name, env(name).filter(|value| !value.is_empty())?)));
        let (name, value) = set.map(|(name, value)| (name, Zeroizing::new(value))).ok_or(ApiError::NoToken)?;
        match value.strip_prefix("file://") {
            Some(path) => Self::in_file(name, Path::new(path)),
            None => {
                let key = key()?;
                let token = checked(value.as_bytes()).map_err(|reason| ApiError::TokenInVariable { name, reason })?;
                let held = Held { digest: key.digest([token]), stamp: None, complained: false };
                Ok(Self { key, place: Place::Variable, held: Mutex::new(held) })
            }
        }
    }

    fn in_file(name: &'static str, path: &Path) -> Result<Self, ApiError> {
        let key = key()?;
        let (digest, stamp) = read(path, &key).map_err(|reason| {
            let path = path.to_owned();
            ApiError::TokenInFile { name, path, reason }
        })?;
        let held = Held { digest, stamp: Some(stamp), complained: false };
        Ok(Self { key, place: Place::File(path.to_owned()), held: Mutex::new(held) })
    }

    /// Whether one of `presented` is the token. A file is read anew when it has changed, and when
    /// nothing fits, for a change within a tick of the file system's clock does not show.
    pub(super) fn accepts<'a>(&self, presented: impl IntoIterator<Item = &'a [u8]>) -> bool {
        let presented: Vec<Digest> = presented.into_iter().map(|token| self.key.digest([token])).collect();
        if presented.is_empty() {
            return false;
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Place::File(path) = &self.place else { return presented.contains(&held.digest) };
        let changed = stamp(path).ok() != held.stamp;
        if !changed && presented.contains(&held.digest) {
            return true;
        }
        match read(path, &self.key) {
            Ok((digest, stamp)) => *held = Held { digest, stamp: Some(stamp), complained: false },
            // A file that is being replaced may be gone or empty for a moment: the last token holds.
            Err(reason) if !held.complained => {
                held.complained = true;
                tracing::warn!(path = %path.display(), "the API's token file cannot be used, the last token still holds: {reason}");
            }
            Err(_) => {}
        }
        presented.contains(&held.digest)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Why there is no token in its place.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// Nothing is in it, or white space only.
    #[error("it is empty")]
    Empty,
    /// It is no token, but something long.
    #[error("it is longer than 64 KiB")]
    TooLong,
    /// No request can carry it.
    #[error("it holds a line break or another character that no HTTP header can carry")]
    NotAHeader,
}

fn key() -> Result<Key, ApiError> {
    Key::random().map_err(|error| ApiError::NoRandomness(error.into()))
}

fn read(path: &Path, key: &Key) -> Result<(Digest, Stamp), TokenError> {
    let file = File::open(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    // Of this size from the start: a buffer that grows would leave copies behind.
    let mut bytes = Vec::with_capacity(usize::try_from(stamp.size.min(LENGTH_MAX)).unwrap_or_default() + 1);
    let end = file.take(LENGTH_MAX + 1).read_to_end(&mut bytes);
    let bytes = Secret::new(bytes);
    end?;
    if bytes.len() as u64 > LENGTH_MAX {
        return Err(TokenError::TooLong);
    }
    let token = checked(bytes.expose().trim_ascii())?;
    Ok((key.digest([token]), stamp))
}

fn checked(token: &[u8]) -> Result<&[u8], TokenError> {
    if token.is_empty() {
        return Err(TokenError::Empty);
    }
    // RFC 9110, 5.5: a field's value has no control characters but the tab.
    if token.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(TokenError::NotAHeader);
    }
    Ok(token)
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    path.metadata().map(|metadata| Stamp::of(&metadata))
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(file: Option<&Path>, variables: &[(&str, &str)]) -> Result<Token, String> {
        let env = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Token::find(file, &env).map_err(|error| error.to_string())
    }

    fn accepts(token: &Token, presented: &str) -> bool {
        token.accepts([presented.as_bytes()])
    }

    #[test]
    fn the_first_variable_that_is_set_counts() {
        let token = find(
            None,
            &[("AWS_CONTAINER_AUTHORIZATION_TOKEN", "third"), ("AWS_SESSION_TOKEN", "second"), ("AWS_TOKEN", "")],
        )
        .unwrap();
        assert!(accepts(&token, "second"));
        for other in ["third", "", "secon", "second ", "Second"] {
            assert!(!accepts(&token, other), "{other:?}");
        }
        assert!(!token.accepts([]));
        assert!(token.accepts([b"wrong".as_slice(), b"second"]));
    }

    #[test]
    fn a_variable_may_name_a_file_and_its_white_space_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "  t0ken\n").unwrap();
        let token = find(None, &[("AWS_TOKEN", &format!("file://{}", path.display()))]).unwrap();
        assert!(accepts(&token, "t0ken"));
    }

    #[test]
    fn a_file_that_changes_is_read_again_and_one_that_vanishes_is_not_missed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "one").unwrap();
        let token = find(Some(&path), &[("AWS_TOKEN", "unused")]).unwrap();
        assert!(accepts(&token, "one") && !accepts(&token, "unused"));
        // Of the same size, and maybe within the same tick.
        std::fs::write(&path, "two").unwrap();
        assert!(accepts(&token, "two"));
        std::fs::write(&path, "").unwrap();
        assert!(accepts(&token, "two"));
        std::fs::remove_file(&path).unwrap();
        assert!(accepts(&token, "two"));
        std::fs::write(&path, "three").unwrap();
        assert!(!accepts(&token, "two") && accepts(&token, "three"));
    }

    #[test]
    fn without_a_token_the_error_says_where_to_put_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let shown = path.display();
        assert_eq!(
            find(None, &[("AWS_TOKEN", "")]).unwrap_err(),
            "`api` has no token to ask of its clients: set `token_file`, or AWS_TOKEN, AWS_SESSION_TOKEN or \
             AWS_CONTAINER_AUTHORIZATION_TOKEN to the token or to file://PATH"
        );
        assert_eq!(
            find(Some(&path), &[]).unwrap_err(),
            format!(
                "`api` has no token: token_file: {shown}: it cannot be read: No such file or directory (os error 2); \
                 put the token there before Coffer starts"
            )
        );
        std::fs::write(&path, " \n").unwrap();
        assert_eq!(
            find(None, &[("AWS_SESSION_TOKEN", &format!("file://{shown}"))]).unwrap_err(),
            format!(
                "`api` has no token: AWS_SESSION_TOKEN: {shown}: it is empty; put the token there before Coffer starts"
            )
        );
        let unusable = find(None, &[("AWS_TOKEN", "hunter2\nhunter3")]).unwrap_err();
        assert_eq!(
            unusable,
            "`api` has no token: AWS_TOKEN: it holds a line break or another character that no HTTP header can carry"
        );
        std::fs::write(&path, vec![b'a'; 70_000]).unwrap();
        assert!(find(Some(&path), &[]).unwrap_err().contains("it is longer than 64 KiB"));
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", find(None, &[("AWS_TOKEN", "hunter2")]).unwrap()), "Token(…)");
    }
}
