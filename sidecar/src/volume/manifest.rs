//! What a generation says of itself, so that a process that starts anew knows what is in place
//! even while AWS cannot be asked. It holds no value and nothing derived from one.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::inspect;
use crate::file::{FileName, Mode};
use crate::render::{Origin, RenderedFile, RenderedSet};

/// The manifest's name in a generation: one that no [`FileName`] can have.
pub(super) const NAME: &str = "..coffer.json";

/// Raised when a reader of the former format would misread the new one.
const FORMAT: u32 = 1;

/// A whole set, as its manifest tells it.
pub(super) struct Manifest {
    pub(super) published_at: SystemTime,
    pub(super) files: BTreeMap<FileName, PublishedAs>,
}

/// How a file was published.
pub(super) struct PublishedAs {
    pub(super) mode: Mode,
    pub(super) origin: Origin,
}

impl Manifest {
    /// Reads the manifest of the generation `dir`; `None` when there is none that this process
    /// wrote whole and understands.
    pub(super) fn read(dir: BorrowedFd<'_>) -> Option<Self> {
        let (bytes, stat) = inspect::read_entry(dir, NAME).ok()?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return None;
        }
        let text: Text = serde_json::from_slice(bytes.expose()).ok()?;
        if text.format != FORMAT {
            return None;
        }
        let published_at = humantime::parse_rfc3339(&text.published_at).ok()?;
        let file = |(name, file): (String, FileText)| {
            let mode = Mode::new(u32::from_str_radix(&file.mode, 8).ok()?).ok()?;
            let origin = Origin { recipe: file.recipe, version: file.version };
            Some((FileName::new(&name).ok()?, PublishedAs { mode, origin }))
        };
        Some(Self { published_at, files: text.files.into_iter().map(file).collect::<Option<_>>()? })
    }

    /// The manifest of `set`, as it is written.
    pub(super) fn text(set: &RenderedSet, published_at: SystemTime) -> Vec<u8> {
        let file = |file: &RenderedFile| FileText {
            recipe: file.origin.recipe.clone(),
            version: file.origin.version.clone(),
            mode: file.mode.to_string(),
        };
        let text = Text {
            format: FORMAT,
            published_at: humantime::format_rfc3339_nanos(representable(published_at)).to_string(),
            files: set.iter().map(|(name, rendered)| (name.to_string(), file(rendered))).collect(),
        };
        serde_json::to_vec(&text).expect("strings and numbers always serialise")
    }
}

/// `wall`, or the nearest time that RFC 3339 can write: years 1970 to 9999. A clock that is off
/// must not keep a secret from its application.
pub(super) fn representable(wall: SystemTime) -> SystemTime {
    /// 9999-12-31T23:59:59Z.
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    wall.clamp(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + LAST)
}

#[derive(Serialize, Deserialize)]
struct Text {
    format: u32,
    published_at: String,
    files: BTreeMap<String, FileText>,
}

#[derive(Serialize, Deserialize)]
struct FileText {
    recipe: String,
    version: String,
    /// Octal, as `chmod` takes it.
    mode: String,
}
