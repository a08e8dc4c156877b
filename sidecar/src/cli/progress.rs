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
