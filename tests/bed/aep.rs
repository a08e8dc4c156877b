//! The AWS Encryption Provider, the plugin that `coffer-kms` replaces; or what stands in for it.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use tokio::sync::OnceCell;

use crate::go_program::GoProgram;

/// Names a built `aws-encryption-provider`, to be used instead of the stand-in.
const BINARY: &str = "AEP_BINARY";

static STAND_IN: GoProgram = GoProgram {
    name: "aep",
    what: "a stand-in for the AWS Encryption Provider",
    sources: concat!(env!("CARGO_MANIFEST_DIR"), "/conformance/aep"),
    package: ".",
};

/// Where an AWS Encryption Provider is: the one that `AEP_BINARY` names, else a stand-in with the same
/// flags, formats and answers (`tests/conformance/aep`), which is built at the first call on this machine.
///
/// # Errors
/// When `AEP_BINARY` names no file; without it when there is no Go, or no way to its modules.
pub async fn aws_encryption_provider() -> Result<PathBuf> {
    static PATH: OnceCell<PathBuf> = OnceCell::const_new();
    let find = async || match std::env::var_os(BINARY) {
        Some(path) => given(PathBuf::from(path)),
        None => STAND_IN.path().await,
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

#[cfg(test)]
mod tests {
    use super::*;

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
