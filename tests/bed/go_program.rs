//! Programs in Go that stand on the other side, built once on a machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

const BEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/testbed");

/// What makes a small program that is the same wherever it is built.
const FLAGS: [&str; 5] = ["-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", "-s -w"];

/// A program of a Go module below `tests/conformance`.
pub(crate) struct GoProgram {
    /// What its file is called.
    pub(crate) name: &'static str,
    /// What it is, as a sentence says it.
    pub(crate) what: &'static str,
    /// The module's folder.
    pub(crate) sources: &'static str,
    /// The package, as the module knows it.
    pub(crate) package: &'static str,
}

impl GoProgram {
    /// Its path; it is made at the first call on this machine.
    ///
    /// # Errors
    /// When there is no Go, or no way to its modules.
    pub(crate) async fn path(&'static self) -> Result<PathBuf> {
        tokio::task::spawn_blocking(|| self.built(Path::new(BEDS), Command::new("go"))).await?
    }

    fn built(&self, beds: &Path, go: Command) -> Result<PathBuf> {
        let Self { name, what, .. } = self;
        let folder = beds.join(format!("{name}-{:016x}", self.fingerprint()?));
        let program = folder.join(name);
        if program.exists() {
            return Ok(program);
        }

        fs::create_dir_all(&folder)?;
        let lock = File::create(beds.join(format!("{name}.lock")))?;
        lock.lock().with_context(|| format!("cannot lock {name}.lock"))?;
        if program.exists() {
            return Ok(program);
        }
        // Past the test harness, which shows nothing of a test that passes.
        writeln!(std::io::stderr(), "building {what} (once, a minute or some)…")?;
        let unfinished = folder.join("unfinished");
        self.compile_to(&unfinished, go)?;
        // A program under its own name is a whole one.
        fs::rename(unfinished, &program)?;
        Ok(program)
    }

    /// Of all that decides what is built. Another release of Rust may count otherwise: then it is built again.
    fn fingerprint(&self) -> Result<u64> {
        let mut sources = BTreeMap::new();
        read_all(Path::new(self.sources), &mut sources)?;
        let mut hasher = DefaultHasher::new();
        (FLAGS, self.package, sources).hash(&mut hasher);
        Ok(hasher.finish())
    }

    fn compile_to(&self, program: &Path, mut go: Command) -> Result<()> {
        let Self { what, sources, package, .. } = self;
        let output = go
            .arg("build")
            .args(FLAGS)
            .arg("-o")
            .arg(program)
            .arg(package)
            .current_dir(sources)
            // Go's settings of the caller hold, but for what decides what is built.
            .envs([("CGO_ENABLED", "0"), ("GO111MODULE", "on"), ("GOWORK", "off"), ("GOOS", "linux")])
            .env_remove("GOARCH")
            .stdin(Stdio::null())
            .output()
            .context("cannot run go: install Go 1.26 or newer (https://go.dev/dl) and put it in PATH")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "cannot build {what} in {sources}:\n{}\nfix: Go 1.26 or newer is needed, and a Go module proxy that can be \
             reached (`go env GOPROXY` tells which; behind a mirror set GOPROXY)",
            said.lines().filter(|line| !line.starts_with("go: downloading")).collect::<Vec<_>>().join("\n"),
        );
        Ok(())
    }
}

fn read_all(folder: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            read_all(&path, into)?;
        } else {
            let content = fs::read(&path)?;
            into.insert(path, content);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: GoProgram = GoProgram {
        name: "aep",
        what: "a program",
        sources: concat!(env!("CARGO_MANIFEST_DIR"), "/conformance/aep"),
        package: ".",
    };

    /// A compiler that is a shell script.
    fn compiler(script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "go"]);
        shell
    }

    #[test]
    fn is_built_once() {
        let folder = tempfile::tempdir().unwrap();
        let compiler = compiler(r#"while [ "$1" != -o ]; do shift; done; echo built > "$2""#);
        let program = PROGRAM.built(folder.path(), compiler).unwrap();
        assert_eq!(fs::read_to_string(&program).unwrap(), "built\n");
        assert_eq!(PROGRAM.built(folder.path(), Command::new("no-such-go")).unwrap(), program);
    }

    #[test]
    fn says_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let error = PROGRAM.built(folder.path(), Command::new("no-such-go")).unwrap_err();
        assert!(error.to_string().contains("install Go 1.26 or newer"), "{error}");

        let script = "echo 'go: downloading this' >&2; echo 'no route to the proxy' >&2; exit 1";
        let error = PROGRAM.built(folder.path(), compiler(script)).unwrap_err().to_string();
        assert!(error.contains("\nno route to the proxy\nfix: Go 1.26 or newer is needed"), "{error}");
        // What failed leaves nothing that would pass for a program.
        assert!(PROGRAM.built(folder.path(), compiler(script)).is_err());
    }
}
