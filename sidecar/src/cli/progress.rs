//! A line on a terminal that says what a start waits for, when it takes long.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use coffer::status::{State, Status};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, sleep};

/// A start is mostly over before anyone would read a word of it.
const LONG: Duration = Duration::from_secs(1);
const PERIOD: Duration = Duration::from_millis(250);

/// Shown until dropped.
pub(super) struct Progress(Option<JoinHandle<()>>);

impl Progress {
    /// Shows nothing where standard error is no terminal.
    pub(super) fn start(status: Status) -> Self {
        Self(stderr().is_terminal().then(|| tokio::spawn(show(status))))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
            let _ = write!(stderr(), "\r\x1b[2K");
        }
    }
}

async fn show(status: Status) {
    let started = Instant::now();
    sleep(LONG).await;
    let mut period = interval(PERIOD);
    loop {
        period.tick().await;
        let text = line(&status, started.elapsed());
        // Cut by the terminal where it is narrow; nobody can act on a failure to write.
        let _ = write!(stderr(), "\r\x1b[2K{text}");
        let _ = stderr().flush();
    }
}

fn line(status: &Status, elapsed: Duration) -> String {
    let volumes = status.volumes();
    let references = || volumes.iter().flat_map(|volume| &volume.references);
    let waiting = references().find_map(|reference| match &reference.state {
        State::Missing { code, .. } => Some((reference.reference.as_str(), code.as_str())),
        _ => None,
    });
    let fetched = references().filter(|reference| reference.state == State::Fresh).count();
    let mut text = format!("{fetched} of {} fetched after {} s", references().count(), elapsed.as_secs());
    match waiting {
        Some((reference, "NotFetched")) => text.push_str(&format!("; waiting for {reference}")),
        Some((reference, code)) => text.push_str(&format!("; {reference}: {code}, trying again")),
        None => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use coffer::status::{ReferenceStatus, VolumeStatus};

    use super::*;

    #[test]
    fn the_line_says_how_far_it_is_and_what_is_waited_for() {
        let reference = |name: &str, state| ReferenceStatus {
            reference: format!("secretsmanager:{name}"),
            region: None,
            role: None,
            state,
            version: None,
            last_success: None,
            next_look: None,
        };
        let missing = |code: &str| State::Missing { code: code.into(), why: "why".into() };
        let status = Status::default();
        let shown = |references| {
            status.set(VolumeStatus {
                path: PathBuf::from("/v"),
                published: false,
                published_at: None,
                publishes: 0,
                obstacle: None,
                next_look: None,
                references,
                on_change: Vec::new(),
            });
            line(&status, Duration::from_secs(7))
        };
        assert_eq!(
            shown(vec![reference("a", State::Fresh), reference("b", missing("NotFetched"))]),
            "1 of 2 fetched after 7 s; waiting for secretsmanager:b"
        );
        assert_eq!(
            shown(vec![reference("b", missing("ThrottlingException"))]),
            "0 of 1 fetched after 7 s; secretsmanager:b: ThrottlingException, trying again"
        );
    }
}
