//! Whether the cluster knows init containers that go on running: Kubernetes has them since 1.29.

use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// The first minor version of Kubernetes 1 that has them switched on (KEP-753).
const SINCE: u32 = 29;
/// How often the API server is asked: an upgrade takes longer.
const EVERY: Duration = Duration::from_secs(300);
/// After how long without an answer it is asked again.
const AGAIN: Duration = Duration::from_secs(2);
/// How long it may take for an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Follows the API server's version, for good; `None` until it has said it once.
pub fn follow(client: Client) -> watch::Receiver<Option<bool>> {
    let (known, following) = watch::channel(None);
    tokio::spawn(async move {
        let mut told = false;
        loop {
            let pause = match timeout(ANSWER, client.apiserver_version()).await {
                Ok(Ok(version)) => {
                    let has = has_them(&version.major, &version.minor);
                    if known.send_replace(Some(has)) != Some(has) {
                        tracing::info!(version = version.git_version, native_sidecars = has, "the API server answers");
                    }
                    EVERY
                }
                failed => {
                    let why = failed.map_or_else(
                        |_| "no answer".to_owned(),
                        |answer| answer.err().map(|error| error.to_string()).unwrap_or_default(),
                    );
                    if !told && known.borrow().is_none() {
                        tracing::warn!("the API server's version is not known yet: {why}");
                        told = true;
                    }
                    AGAIN
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = known.closed() => return,
            }
        }
    });
    following
}

/// Providers put something after the number, such as `29+`.
fn has_them(major: &str, minor: &str) -> bool {
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    match (major.parse(), digits.parse()) {
        (Ok(1u32), Ok(minor)) => u32::ge(&minor, &SINCE),
        // What cannot be read is rather newer than older.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_them_from_1_29_on() {
        for (major, minor, has) in [
            ("1", "28", false),
            ("1", "28+", false),
            ("1", "29", true),
            ("1", "29+", true),
            ("1", "36", true),
            ("2", "0", true),
            ("", "", true),
        ] {
            assert_eq!(has_them(major, minor), has, "{major}.{minor}");
        }
    }
}
