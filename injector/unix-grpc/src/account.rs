//! Users and groups, as numbers or by the names that the machine knows.

use std::fs;
use std::io;
use std::str::FromStr;

use rustix::fs::{Gid, Uid};

const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";

/// A user: parsed from its number, or from its name in `/etc/passwd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct User(u32);

/// A group: parsed from its number, or from its name in `/etc/group`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group(u32);

/// Why a user or group is not known.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// No text, which is mostly a variable that is not set.
    #[error("the name of a {kind} is empty")]
    Empty {
        /// `user` or `group`.
        kind: &'static str,
    },
    /// The list has no such name. Images of programs alone mostly have no list, or a short one.
    #[error("there is no {kind} \"{name}\" in {file}: give the number")]
    Unknown {
        /// `user` or `group`.
        kind: &'static str,
        /// As it was given.
        name: String,
        /// The list that was looked into.
        file: &'static str,
    },
    /// The list cannot be read.
    #[error("cannot look up the {kind} \"{name}\": {file}: {source}; give the number")]
    Unreadable {
        /// `user` or `group`.
        kind: &'static str,
        /// As it was given.
        name: String,
        /// The list that was to be looked into.
        file: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// 4294967295 means "nobody in particular" to the kernel, and there are no higher ones.
    #[error("{number} is not the number of a {kind}: the highest is 4294967294")]
    TooHigh {
        /// `user` or `group`.
        kind: &'static str,
        /// As it was given.
        number: String,
    },
}

impl User {
    /// The user's number.
    pub fn uid(self) -> u32 {
        self.0
    }

    /// Whom this process acts as.
    pub fn own() -> Self {
        Self(rustix::process::geteuid().as_raw())
    }

    pub(crate) fn raw(self) -> Uid {
        Uid::from_raw(self.0)
    }
}

impl From<User> for u32 {
    fn from(user: User) -> Self {
        user.0
    }
}

impl Group {
    /// The group's number.
    pub fn gid(self) -> u32 {
        self.0
    }

    pub(crate) fn raw(self) -> Gid {
        Gid::from_raw(self.0)
    }
}

impl FromStr for User {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        number_of("user", text, USERS).map(Self)
    }
}

impl FromStr for Group {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        number_of("group", text, GROUPS).map(Self)
    }
}

fn number_of(kind: &'static str, text: &str, file: &'static str) -> Result<u32, AccountError> {
    if text.is_empty() {
        return Err(AccountError::Empty { kind });
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = text.parse().ok().filter(|number| *number != u32::MAX);
        return number.ok_or_else(|| AccountError::TooHigh { kind, number: text.to_owned() });
    }
    let unknown = || AccountError::Unknown { kind, name: text.to_owned(), file };
    match fs::read(file) {
        Ok(list) => find(&list, text).ok_or_else(unknown),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(unknown()),
        Err(source) => Err(AccountError::Unreadable { kind, name: text.to_owned(), file, source }),
    }
}

/// Both lists have `name:password:number` at the beginning of a line, see passwd(5) and group(5).
fn find(list: &[u8], name: &str) -> Option<u32> {
    list.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        if fields.next()? != name.as_bytes() {
            return None;
        }
        let number = std::str::from_utf8(fields.nth(1)?).ok()?;
        number.parse().ok().filter(|number| *number != u32::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_need_no_list() {
        assert_eq!("65532".parse::<User>().unwrap().uid(), 65532);
        assert_eq!("0".parse::<Group>().unwrap().gid(), 0);
        let error = "4294967295".parse::<User>().unwrap_err();
        assert_eq!(error.to_string(), "4294967295 is not the number of a user: the highest is 4294967294");
        assert!("99999999999".parse::<Group>().is_err());
    }

    #[test]
    fn names_are_looked_up() {
        assert_eq!("root".parse::<User>().unwrap().uid(), 0);
        assert_eq!("root".parse::<Group>().unwrap().gid(), 0);
        let error = "no-such-user".parse::<User>().unwrap_err();
        assert_eq!(error.to_string(), "there is no user \"no-such-user\" in /etc/passwd: give the number");
        let error = "-1".parse::<Group>().unwrap_err();
        assert_eq!(error.to_string(), "there is no group \"-1\" in /etc/group: give the number");
        assert_eq!("".parse::<User>().unwrap_err().to_string(), "the name of a user is empty");
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        let list = b"# comment\nkms\nkms:x\nkms:x:many:\n\xff:x:7\nkms:x:41:g::/:\nkms:x:42:\n";
        assert_eq!(find(list, "kms"), Some(41));
        assert_eq!(find(list, "k"), None);
        assert_eq!(find(b"last:x:9", "last"), Some(9));
    }
}
