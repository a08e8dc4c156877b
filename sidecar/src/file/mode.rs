//! Who may read a published file.

use std::fmt;

/// Permission bits of a file: at most `0777`; no set-id and no sticky bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mode(u16);

/// Bits above `0777` were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("mode {0:o} is over 0777: a secret file takes permission bits only")]
pub struct ModeError(u32);

impl Mode {
    /// Readable by the owner and the group, so that an application under another user id reads
    /// its files through the pod's `fsGroup`, and by nobody else.
    pub const DEFAULT: Self = Self(0o440);

    /// Takes `bits` when they are permission bits only.
    pub fn new(bits: u32) -> Result<Self, ModeError> {
        match u16::try_from(bits) {
            Ok(small) if small <= 0o777 => Ok(Self(small)),
            _ => Err(ModeError(bits)),
        }
    }

    /// The bits as `chmod(2)` takes them.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0.into()
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// Whom the files of a volume belong to; `None` leaves what the kernel gives a new file: the
/// process's user, and its group or the folder's where the folder is set-gid (`fsGroup`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    /// User id.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::Mode;

    #[test]
    fn takes_permission_bits_only() {
        assert_eq!(Mode::new(0o777).unwrap().bits(), 0o777);
        assert_eq!(
            Mode::new(0o1000).unwrap_err().to_string(),
            "mode 1000 is over 0777: a secret file takes permission bits only"
        );
        assert!(Mode::new(u32::MAX).is_err());
        assert_eq!(Mode::new(0o44).unwrap().to_string(), "0044");
    }
}
