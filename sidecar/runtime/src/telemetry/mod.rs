//! What a Coffer process tells the outside: logs on standard error; health, readiness and metrics
//! over HTTP; metrics for CloudWatch among the output.

mod described;
mod emf;
mod logs;
mod metrics;
mod ops;
mod output;

pub use described::{Described, Kind, Listed, Readings, listed};
pub(crate) use described::{metrics_as_json, metrics_in_words};
pub use emf::{EmfNamespace, EmfOutput, EmfReport};
pub use logs::{LogFormat, LogLevel, init_logs};
pub use metrics::{Calls, unix};
pub use ops::{Readiness, metrics_router, ops_router, serve};
pub use output::Unblocking;
