//! A call to AWS, with what every call is due: credentials that AWS accepts, and a second try.

use std::future::Future;
use std::time::{Duration, Instant};

use super::{AwsError, CallObserver, Class, Credentials};

/// A cut connection or a 5xx is tried once more at once, after up to this long: most are over by
/// then. Everything slower is the business of whoever calls.
const SECOND_TRY: Duration = Duration::from_millis(150);

impl Credentials {
    /// Makes a call, with new credentials if the present ones are rejected, and once more if it
    /// breaks on the way.
    ///
    /// Each try waits for `admit` first, and holds what that gives until it is over. `ask` makes the
    /// call, signed with these credentials; beside the answer it gives AWS's request id. `calls` is told
    /// of every try.
    pub async fn call<T, Seat, Admitted, Asked>(
        &self,
        action: &'static str,
        calls: &dyn CallObserver,
        admit: impl Fn() -> Admitted,
        ask: impl Fn() -> Asked,
    ) -> Result<T, AwsError>
    where
        Admitted: Future<Output = Seat>,
        Asked: Future<Output = Result<(T, Option<String>), AwsError>>,
    {
        let mut renewed = false;
        let mut again = false;
        loop {
            let keys = self.get().await?;
            let seat = admit().await;
            let started = Instant::now();
            let result = ask().await;
            let outcome = result.as_ref().map(|(_, request_id)| request_id.as_deref());
            calls.called(action, outcome, started.elapsed());
            drop(seat);
            match result {
                Ok((answer, _)) => return Ok(answer),
                Err(error) if error.class == Class::CredentialsRejected && !renewed => {
                    tracing::info!(identity = self.label(), %error, "credentials not accepted; fetching new ones");
                    self.reject(keys.access_key_id());
                    renewed = true;
                }
                Err(error) if error.class == Class::Transient && error.code != "Timeout" && !again => {
                    again = true;
                    tokio::time::sleep(SECOND_TRY.mul_f64(fastrand::f64())).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
