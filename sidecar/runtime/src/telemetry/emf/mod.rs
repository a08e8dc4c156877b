//! Metrics for those without Prometheus: lines of JSON among a container's output, out of which CloudWatch Logs makes
//! metrics (the embedded metric format, EMF).

mod document;
mod exposition;
mod histogram;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use self::document::Encoder;
use super::Unblocking;

/// How often metrics are told. It is the resolution of CloudWatch's metrics: more would cost, and show nothing.
const INTERVAL: Duration = Duration::from_secs(60);

/// Under which name CloudWatch keeps the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmfNamespace(String);

impl FromStr for EmfNamespace {
    type Err = String;

    /// What CloudWatch takes (API `PutMetricData`, `Namespace`).
    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | '#' | ':' | ' ');
        let fix = "use a name such as `Coffer`";
        match text {
            "" => Err(format!("it is empty; {fix}, or leave it out")),
            _ if text.trim() != text => Err(format!("it begins or ends with a space; {fix}")),
            _ if text.len() > 255 => Err(format!("it is longer than 255 characters; {fix}")),
            _ if text.starts_with("AWS/") => Err(format!("names that begin with `AWS/` are AWS's own; {fix}")),
            _ if text.starts_with(':') => Err(format!("it begins with a colon; {fix}")),
            _ if !text.chars().all(plain) => Err(format!("it takes letters, digits, space and `.-_/#:`; {fix}")),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

/// Where lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmfOutput {
    /// Standard output, where nothing stands but lines of JSON.
    Stdout,
    /// Standard error, where standard output is another program's.
    Stderr,
}

/// Tells a process's metrics each minute, and once more when it is dropped: the last minute is told too.
#[must_use = "it ends when it is dropped"]
pub struct EmfReport {
    told: Arc<Mutex<Told>>,
    task: JoinHandle<()>,
}

impl EmfReport {
    /// Begins, within a tokio runtime; the first lines come after a minute. `program` is the command as it is typed.
    pub fn start(namespace: EmfNamespace, program: &'static str, registry: Arc<Registry>, output: EmfOutput) -> Self {
        let instance = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let encoder = Encoder::new(namespace.0, program, instance);
        let line = move |line: &str| output.write(line);
        Self::every(INTERVAL, Told { encoder, registry, line: Box::new(line) })
    }

    fn every(interval: Duration, told: Told) -> Self {
        let told = Arc::new(Mutex::new(told));
        let again = Arc::clone(&told);
        let mut ticks = interval_at(Instant::now() + interval, interval);
        // After a time asleep one line says it all.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let task = tokio::spawn(async move {
            loop {
                ticks.tick().await;
                again.lock().unwrap_or_else(PoisonError::into_inner).tell(SystemTime::now());
            }
        });
        Self { told, task }
    }

    /// Tells now what has come since the last time: before that goes whose end is the end of its counters.
    pub fn tell(&self) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).tell(SystemTime::now());
    }
}

impl Drop for EmfReport {
    fn drop(&mut self) {
        self.task.abort();
        self.tell();
    }
}

impl fmt::Debug for EmfReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EmfReport")
    }
}

/// What is told, and how far.
struct Told {
    encoder: Encoder,
    registry: Arc<Registry>,
    line: Box<dyn Fn(&str) + Send>,
}

impl Told {
    fn tell(&mut self, now: SystemTime) {
        let mut text = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            tracing::warn!("metrics were not told: {error}");
            return;
        }
        self.encoder.lines(&text, now).iter().for_each(|line| (self.line)(line));
    }
}

impl EmfOutput {
    fn write(self, line: &str) {
        let line = format!("{line}\n");
        // A reader that is stuck or gone must neither hold up nor end the process. Under the lock, for audit lines
        // come here too, from other threads.
        let written = match self {
            Self::Stdout => Unblocking(std::io::stdout().lock()).write_all(line.as_bytes()),
            Self::Stderr => Unblocking(std::io::stderr().lock()).write_all(line.as_bytes()),
        };
        if let Err(error) = written {
            tracing::warn!("a line of metrics was dropped: {error}");
        }
    }
}
