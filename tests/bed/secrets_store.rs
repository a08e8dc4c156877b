//! The Secrets Store CSI driver itself, which asks providers.

use std::path::PathBuf;

use anyhow::Result;
use tokio::sync::OnceCell;

use crate::go_program::GoProgram;

static DRIVER: GoProgram = GoProgram {
    name: "secrets-store-csi-driver",
    what: "the Secrets Store CSI driver",
    sources: concat!(env!("CARGO_MANIFEST_DIR"), "/conformance/secrets-store"),
    package: "sigs.k8s.io/secrets-store-csi-driver/cmd/secrets-store-csi-driver",
};

/// Where the Secrets Store CSI driver is; built at the first call on this machine.
///
/// # Errors
/// When there is no Go, or no way to its modules.
pub async fn secrets_store_driver() -> Result<PathBuf> {
    static PATH: OnceCell<PathBuf> = OnceCell::const_new();
    PATH.get_or_try_init(|| DRIVER.path()).await.cloned()
}
