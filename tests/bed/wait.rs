//! Waiting for what comes about by itself.

use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep, timeout_at};

/// Time between two attempts: short enough to go unnoticed, long enough to leave the
/// processor to the program under test.
const PAUSE: Duration = Duration::from_millis(10);

/// Tries until an attempt succeeds, and gives its value.
///
/// # Errors
/// When `timeout` has passed: with the last attempt's failure as the cause.
pub async fn eventually<T>(timeout: Duration, mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    let mut last_failure = anyhow!("the first attempt did not end in time");
    loop {
        match timeout_at(deadline, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(failure)) => last_failure = failure,
            Err(_) => break,
        }
        if Instant::now() + PAUSE >= deadline {
            break;
        }
        sleep(PAUSE).await;
    }
    Err(last_failure.context(format!("not so within {timeout:?}")))
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[tokio::test]
    async fn gives_the_first_success() {
        let mut attempts = 0;
        let value = eventually(Duration::from_secs(5), async || {
            attempts += 1;
            if attempts < 3 {
                bail!("only {attempts}");
            }
            Ok(attempts)
        });
        assert_eq!(value.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn tells_the_last_failure() {
        let mut attempts = 0;
        let error = eventually::<()>(Duration::from_millis(100), async || {
            attempts += 1;
            bail!("failure {attempts}")
        })
        .await
        .unwrap_err();
        assert_eq!(format!("{error:#}"), format!("not so within 100ms: failure {attempts}"));
    }

    #[tokio::test]
    async fn does_not_wait_for_an_attempt_that_hangs() {
        let hang = eventually::<()>(Duration::from_millis(50), async || std::future::pending().await);
        assert!(format!("{:#}", hang.await.unwrap_err()).contains("did not end in time"));
    }
}
