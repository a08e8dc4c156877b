//! The AWS Encryption Provider, the plugin that `coffer-kms` replaces; or what stands in for it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tokio::sync::OnceCell;

/// Names a built `aws-encryption-provider`, to be used instead of the stand-in.
const BINARY: &str = "AEP_BINARY";

/// The stand-in's Go module.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conformance/aep");

const BEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/testbed");

/// What makes a small program that is the same wherever it is built.
const FLAGS: [&str; 5] = ["-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", "-s -w"];

/// Where an AWS Encryption Provider is: the one that `AEP_BINARY` names, else a stand-in with the same
/// flags, formats and answers (`tests/conformance/aep`), which is built at the first call on this machine.
///
/// # Errors
/// When `AEP_BINARY` names no file; without it when there is no Go, or no way to its modules.
pub async fn aws_encryption_provider() -> Result<PathBuf> {
    static PATH: OnceCell<PathBuf> = OnceCell::const_new();
    let find = async || match std::env::var_os(BINARY) {
        Some(path) => given(PathBuf::from(path)),
        None => tokio::task::spawn_blocking(|| built(Path::new(BEDS), Command::new("go"))).await?,
    };
    PATH.get_or_try_init(find).await.cloned()
}

fn given(path: PathBuf) -> Result<PathBuf> {
    // Cargo starts tests in a folder of its own, where a relative path would lead astray.
    ensure!(
        path.is_absolute() && path.is_file(),
        "{BINARY} must be the full path of a built aws-encryption-provider, not {path:?}; without it a stand-in is used"
    );
    Ok(path)
}

/// The stand-in's path; it is made now unless it is there.
fn built(beds: &Path, go: Command) -> Result<PathBuf> {
    let folder = beds.join(format!("aep-{:016x}", fingerprint()?));
    let program = folder.join("aep");
    if program.exists() {
        return Ok(program);
    }

    fs::create_dir_all(&folder)?;
    let lock = File::create(beds.join("aep.lock"))?;
    lock.lock().context("cannot lock aep.lock")?;
    if program.exists() {
        return Ok(program);
    }
    // Past the test harness, which shows nothing of a test that passes.
    writeln!(std::io::stderr(), "building a stand-in for the AWS Encryption Provider (once, about a minute)…")?;
    let unfinished = folder.join("unfinished");
    compile_to(&unfinished, go)?;
    // A program under its own name is a whole one.
    fs::rename(unfinished, &program)?;
    Ok(program)
}

/// Of all that decides what is built. Another release of Rust may count otherwise: then it is built again.
fn fingerprint() -> Result<u64> {
    let sources = fs::read_dir(SOURCES).with_context(|| format!("cannot read {SOURCES}"))?;
    let sources = sources
        .map(|source| {
            let source = source?;
            Ok((source.file_name(), fs::read(source.path())?))
        })
        .collect::<Result<BTreeMap<_, _>>>()?;
    let mut hasher = DefaultHasher::new();
    (FLAGS, sources).hash(&mut hasher);
    Ok(hasher.finish())
}

fn compile_to(program: &Path, mut go: Command) -> Result<()> {
    let output = go
        .arg("build")
        .args(FLAGS)
        .arg("-o")
        .arg(program)
        .arg(".")
        .current_dir(SOURCES)
        // Go's settings of the caller hold, but for what decides what is built.
        .envs([("CGO_ENABLED", "0"), ("GO111MODULE", "on"), ("GOWORK", "off"), ("GOOS", "linux")])
        .env_remove("GOARCH")
        .stdin(Stdio::null())
        .output()
        .context("cannot run go: install Go 1.26 or newer (https://go.dev/dl) and put it in PATH")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "cannot build the AWS Encryption Provider's stand-in in {SOURCES}:\n{}\nfix: Go 1.26 or newer is needed, and a \
         Go module proxy that can be reached (`go env GOPROXY` tells which; behind a mirror set GOPROXY)",
        said.lines().filter(|line| !line.starts_with("go: downloading")).collect::<Vec<_>>().join("\n"),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let program = built(folder.path(), compiler).unwrap();
        assert_eq!(fs::read_to_string(&program).unwrap(), "built\n");
        assert_eq!(built(folder.path(), Command::new("no-such-go")).unwrap(), program);
    }

    #[test]
    fn says_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let error = built(folder.path(), Command::new("no-such-go")).unwrap_err();
        assert!(error.to_string().contains("install Go 1.26 or newer"), "{error}");

        let script = "echo 'go: downloading this' >&2; echo 'no route to the proxy' >&2; exit 1";
        let error = built(folder.path(), compiler(script)).unwrap_err().to_string();
        assert!(error.contains("\nno route to the proxy\nfix: Go 1.26 or newer is needed"), "{error}");
        // What failed leaves nothing that would pass for a program.
        assert!(built(folder.path(), compiler(script)).is_err());
    }

    #[test]
    fn takes_only_what_is_there() {
        let own = std::env::current_exe().unwrap();
        assert_eq!(given(own.clone()).unwrap(), own);
        for wrong in ["", "/no/such/provider", "aep"] {
            let error = given(wrong.into()).unwrap_err().to_string();
            assert!(error.contains("AEP_BINARY must be the full path"), "{error}");
        }
    }
}
