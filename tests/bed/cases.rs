//! The cases of a table, run side by side.

use std::{future::Future, pin::Pin};

use anyhow::{Result, ensure};
use tokio::task::LocalSet;

/// A case of a table, by name.
pub type Case = (String, Pin<Box<dyn Future<Output = Result<()>>>>);

/// Runs cases side by side, for they mostly wait, and fails with all that failed.
pub async fn side_by_side(cases: Vec<Case>) -> Result<()> {
    let local = LocalSet::new();
    let failures = local.run_until(async {
        let running: Vec<_> = cases.into_iter().map(|(name, case)| (name, tokio::task::spawn_local(case))).collect();
        let mut failures = Vec::new();
        for (name, case) in running {
            match case.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failures.push(format!("{name}: {error:#}")),
                Err(panic) => failures.push(format!("{name}: {panic}")),
            }
        }
        failures
    });
    let failures = failures.await;
    ensure!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n\n"));
    Ok(())
}
