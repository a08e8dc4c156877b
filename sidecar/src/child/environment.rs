//! What a program is given beside the environment it inherits.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use coffer_runtime::Secret;

use crate::spec::EnvName;

/// Longest `NAME=value` that Linux hands on, in bytes: MAX_ARG_STRLEN, which is 32 pages of 4 KiB,
/// less the NUL at its end (include/uapi/linux/binfmts.h).
const LONGEST_VARIABLE: usize = 131_071;

/// Variables to set on top of an inherited environment. Each value is known to fit into one: any
/// bytes do, newlines and those that are not UTF-8 too, but NUL. The values are wiped when dropped.
#[derive(Debug, Default)]
pub struct Environment(Vec<(EnvName, Secret)>);

/// Values that no environment can hold; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentErrors(pub Vec<VariableError>);

/// Why a value cannot be that of an environment variable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    /// It holds a NUL, which ends a variable.
    #[error(
        "the environment variable {name} cannot hold its value: it has a NUL in it; store text, or publish it as a file"
    )]
    Nul {
        /// The variable.
        name: EnvName,
    },
    /// With its name it is longer than Linux hands on.
    #[error(
        "the environment variable {name} cannot hold its value: with the name it has {length} bytes, and Linux hands on at most {LONGEST_VARIABLE}; select a part of it, or publish it as a file"
    )]
    TooLong {
        /// The variable.
        name: EnvName,
        /// Bytes of `NAME=value`.
        length: usize,
    },
}

impl fmt::Display for EnvironmentErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            let newline = if at == 0 { "" } else { "\n" };
            write!(f, "{newline}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for EnvironmentErrors {}

impl Environment {
    /// Takes the variables, or tells all that cannot be. Of two with the same name the later counts.
    pub fn new(variables: impl IntoIterator<Item = (EnvName, Secret)>) -> Result<Self, EnvironmentErrors> {
        let variables: Vec<_> = variables.into_iter().collect();
        let errors: Vec<_> = variables.iter().filter_map(|(name, value)| unfit(name, value)).collect();
        if errors.is_empty() { Ok(Self(variables)) } else { Err(EnvironmentErrors(errors)) }
    }

    /// Whether nothing is set on top of what is inherited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Hands the variables to `command`, which does not wipe its copies: drop it as soon as may be.
    pub(super) fn set(&self, command: &mut std::process::Command) {
        command.envs(self.0.iter().map(|(name, value)| (name.as_os_str(), OsStr::from_bytes(value.expose()))));
    }
}

fn unfit(name: &EnvName, value: &Secret) -> Option<VariableError> {
    if value.expose().contains(&0) {
        return Some(VariableError::Nul { name: name.clone() });
    }
    let length = name.as_os_str().len() + "=".len() + value.len();
    (length > LONGEST_VARIABLE).then(|| VariableError::TooLong { name: name.clone(), length })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, value: Vec<u8>) -> (EnvName, Secret) {
        (EnvName::new(name).unwrap(), Secret::new(value))
    }

    #[test]
    fn takes_what_an_environment_can_hold() {
        let longest = vec![b'x'; LONGEST_VARIABLE - "NAME=".len()];
        for value in [b"".to_vec(), b"a\n\xff=\r ".to_vec(), longest] {
            assert!(!Environment::new([variable("NAME", value)]).unwrap().is_empty());
        }
    }

    #[test]
    fn tells_every_value_that_does_not_fit_and_shows_none() {
        let errors = Environment::new([
            variable("A", b"hunter2\0".to_vec()),
            variable("B", b"hunter2".to_vec()),
            variable("C", vec![b'x'; LONGEST_VARIABLE - 1]),
        ])
        .unwrap_err();
        assert_eq!(
            errors.to_string(),
            "the environment variable A cannot hold its value: it has a NUL in it; store text, or publish it as a file\n\
             the environment variable C cannot hold its value: with the name it has 131072 bytes, and Linux hands on at most 131071; select a part of it, or publish it as a file"
        );
    }
}
