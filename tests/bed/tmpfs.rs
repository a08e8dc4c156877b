//! Folders in memory.

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A folder on tmpfs that goes when the value is dropped.
pub fn tmpfs_dir() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("coffer-test-")
        .tempdir_in("/dev/shm")
        .context("cannot make a folder on /dev/shm, where the test bed expects a tmpfs")
}
