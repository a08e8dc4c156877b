//! `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).

use std::path::PathBuf;

use anyhow::{Context, Result};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its number; the kernel may use it again after its end.
    pub id: u64,
    /// Where it is.
    pub point: PathBuf,
    /// The mount's own options, such as `nosuid`.
    pub options: Vec<String>,
    /// The kind of file system.
    pub kind: String,
    /// The file system's options, such as `size=1024k`.
    pub super_options: Vec<String>,
}

impl Mount {
    /// The value of a file system's option `NAME=VALUE`.
    pub fn super_option(&self, name: &str) -> Option<&str> {
        self.super_options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }
}

/// The mounts of a mountinfo file.
pub(crate) fn parse(text: &str) -> Result<Vec<Mount>> {
    text.lines().map(|line| mount(line).with_context(|| format!("not a line of mountinfo: {line}"))).collect()
}

fn mount(line: &str) -> Option<Mount> {
    let (own, rest) = line.split_once(" - ")?;
    let mut own = own.split(' ');
    let id = own.next()?.parse().ok()?;
    // Its parent's number, the device and the root in it.
    let point = unescape(own.nth(3)?);
    let options = list(own.next()?);
    let mut rest = rest.split(' ');
    let kind = rest.next()?.to_owned();
    Some(Mount { id, point: point.into(), options, kind, super_options: list(rest.nth(1)?) })
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

/// Blanks, tabs, line ends and backslashes are in octal.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let mounts = parse(concat!(
            "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n",
            "90 36 0:51 / /a rw,nosuid,nodev,noexec,relatime shared:7 - tmpfs tmpfs rw,size=1024k,mode=750,noswap\n",
        ))
        .unwrap();
        assert_eq!((mounts[0].id, mounts[0].point.to_str()), (36, Some("/mnt 2")));
        assert_eq!(mounts[1].kind, "tmpfs");
        assert!(mounts[1].options.contains(&"noexec".to_owned()));
        assert_eq!(mounts[1].super_option("size"), Some("1024k"));
        assert_eq!(mounts[1].super_option("noswap"), None);
        assert!(parse("no mount").is_err());
        assert!(!parse(&std::fs::read_to_string("/proc/self/mountinfo").unwrap()).unwrap().is_empty());
    }
}
