//! A long life in short: what a thousand swaps leave behind.

use std::time::Duration;

use anyhow::{Result, ensure};
use bed::Program;

/// The smaller sister of `tests/soak`, which tells the figures.
#[tokio::test]
async fn a_thousand_swaps_leave_nothing_behind() -> Result<()> {
    let folder = std::env::var_os("COFFER_TEST_BIN_DIR").map(|folder| ("COFFER_TEST_BIN_DIR", folder));
    let soak = Program::new("soak").arg("1000").envs(folder).start()?;
    let status = soak.wait(Duration::from_secs(300)).await?;
    ensure!(status.success(), "{status}\n{}\n{}", soak.stdout(), soak.stderr());
    Ok(())
}
