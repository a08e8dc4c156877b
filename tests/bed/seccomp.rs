//! Seccomp profiles in the form of Docker, Kubernetes and containerd, without a container runtime.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use seccompiler::{BpfProgram, TargetArch, apply_filter, compile_from_json};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Program;

/// Where the profile is that goes with one of our programs.
pub fn shipped(program: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/seccomp").join(program).with_extension("json")
}

/// The command that runs another one under the profile of one of our programs, for [`Program::under`]: and becomes it.
///
/// # Errors
/// When the tests' own programs are not built.
pub fn confined(program: &str) -> Result<[PathBuf; 2]> {
    Ok([Program::new("confined").path()?, shipped(program)])
}

/// A profile: what a process under it may ask of the kernel, and what it is told for the rest.
///
/// Only what our own profiles use of the form; anything else in a file is an error.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    default_action: Action,
    #[serde(default = "eperm")]
    default_errno_ret: u32,
    architectures: Vec<String>,
    syscalls: Vec<Group>,
}

/// Syscalls that are treated alike.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Group {
    names: Vec<String>,
    action: Action,
    #[serde(default = "eperm")]
    errno_ret: u32,
    /// All must hold for the group to apply.
    #[serde(default)]
    args: Vec<Argument>,
    /// For people.
    #[serde(rename = "comment")]
    _comment: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Action {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Argument {
    index: u8,
    value: u64,
    /// What is left of the argument under the mask `value`.
    #[serde(default)]
    value_two: u64,
    op: Comparison,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Comparison {
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

/// What a container runtime answers when a profile names no error: EPERM.
fn eperm() -> u32 {
    1
}

impl Profile {
    /// Reads a profile.
    pub fn load(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        Self::parse(&text).with_context(|| format!("{shown} is no seccomp profile"))
    }

    fn parse(text: &str) -> Result<Self> {
        let profile: Self = serde_json::from_str(text)?;
        ensure!(profile.default_action == Action::Errno, "what is not named is not refused");
        Ok(profile)
    }

    /// The architectures it is for, as libseccomp names them.
    pub fn architectures(&self) -> &[String] {
        &self.architectures
    }

    /// Every syscall it names.
    pub fn names(&self) -> BTreeSet<&str> {
        self.syscalls.iter().flat_map(|group| &group.names).map(String::as_str).collect()
    }

    /// Whether an architecture has a syscall of that name; no runtime minds one that it has not.
    pub fn is_syscall(name: &str, arch: TargetArch) -> bool {
        let filter = json!({"one": {
            "mismatch_action": "allow", "match_action": {"errno": 1}, "filter": [{"syscall": name}],
        }});
        compile_from_json(filter.to_string().as_bytes(), arch).is_ok()
    }

    /// Puts the calling thread, and all that it will start, under the profile for good; and under
    /// `no_new_privs`, without which that takes privileges.
    pub fn apply(&self) -> Result<()> {
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        self.filters(arch)?.iter().try_for_each(|filter| Ok(apply_filter(filter)?))
    }

    /// The programs for the kernel. Of the answers of several it takes the most severe, so one that
    /// lets all that is named pass goes with one for each error that a group has of its own.
    fn filters(&self, arch: TargetArch) -> Result<Vec<BpfProgram>> {
        let mut filters = Vec::new();
        for group in self.syscalls.iter().filter(|group| group.action == Action::Errno) {
            ensure!(group.args.is_empty(), "{:?} is refused for some arguments only", group.names);
            filters.push(filter(&json!("allow"), &json!({"errno": group.errno_ret}), &group.rules(arch), arch)?);
        }
        let rules: Vec<_> = self.syscalls.iter().flat_map(|group| group.rules(arch)).collect();
        // The last one: it may refuse what it takes to install another.
        filters.push(filter(&json!({"errno": self.default_errno_ret}), &json!("allow"), &rules, arch)?);
        Ok(filters)
    }
}

impl Group {
    /// As seccompiler's own JSON.
    fn rules(&self, arch: TargetArch) -> Vec<Value> {
        let args: Vec<_> = self.args.iter().map(Argument::condition).collect();
        let known = self.names.iter().filter(|name| Profile::is_syscall(name, arch));
        known
            .map(|name| if args.is_empty() { json!({"syscall": name}) } else { json!({"syscall": name, "args": args}) })
            .collect()
    }
}

impl Argument {
    fn condition(&self) -> Value {
        let (op, value) = match self.op {
            Comparison::Equal => (json!("eq"), self.value),
            Comparison::MaskedEqual => (json!({"masked_eq": self.value}), self.value_two),
        };
        json!({"index": self.index, "type": "qword", "op": op, "val": value})
    }
}

fn filter(otherwise: &Value, matched: &Value, rules: &[Value], arch: TargetArch) -> Result<BpfProgram> {
    let text = json!({"one": {"mismatch_action": otherwise, "match_action": matched, "filter": rules}}).to_string();
    let Some(program) = compile_from_json(text.as_bytes(), arch)?.remove("one") else {
        bail!("seccompiler gave no program for {text}");
    };
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            {"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW", "comment": ""},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "comment": "",
             "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "comment": ""}
        ]
    }"#;

    #[test]
    fn compiles_for_both_architectures() {
        let profile = Profile::parse(PROFILE).unwrap();
        assert_eq!(profile.names().into_iter().collect::<Vec<_>>(), ["clone3", "no_such_call", "read", "socket"]);
        for arch in [TargetArch::x86_64, TargetArch::aarch64] {
            assert_eq!(profile.filters(arch).unwrap().len(), 2);
            assert!(Profile::is_syscall("read", arch) && !Profile::is_syscall("no_such_call", arch));
        }
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        let with = |from: &str, to: &str| Profile::parse(&PROFILE.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(with("SCMP_CMP_EQ", "SCMP_CMP_GT").contains("SCMP_CMP_GT"));
        assert!(with("\"names\"", "\"name\"").contains("unknown field `name`"));
        assert!(with("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW").contains("not refused"));
    }
}
