//! Logs, on standard error.

use std::io::IsTerminal;
use std::str::FromStr;

use super::Unblocking;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How much Coffer's own code logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLevel(LevelFilter);

impl LogLevel {
    /// What helps to find a fault.
    pub const DEBUG: Self = Self(LevelFilter::DEBUG);
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(LevelFilter::OFF)),
            "error" => Ok(Self(LevelFilter::ERROR)),
            "warn" => Ok(Self(LevelFilter::WARN)),
            "info" => Ok(Self(LevelFilter::INFO)),
            "debug" => Ok(Self(LevelFilter::DEBUG)),
            "trace" => Ok(Self(LevelFilter::TRACE)),
            _ => Err("use off, error, warn, info, debug or trace".to_owned()),
        }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: time, level, text, `key=value`.
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("use text or json".to_owned()),
        }
    }
}

/// Starts logging; call it once.
///
/// `level` is for Coffer's own code. The libraries below it never log above `warn`, whatever the
/// level: the SDK's and the HTTP client's debug output holds requests and answers, and so secrets.
pub fn init_logs(level: LogLevel, format: LogFormat) {
    let LogLevel(level) = level;
    let filter = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        // An error for each attempt at an API server that is away; what matters of it is told once, by us.
        .with_target("kube_client", LevelFilter::OFF)
        .with_target("coffer", level);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| Unblocking(std::io::stderr()))
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
    };
    // A second call keeps the first subscriber: there is nothing better to do than to go on.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}
