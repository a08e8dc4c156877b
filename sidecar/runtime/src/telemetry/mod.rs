//! What a Coffer process tells the outside: logs on standard error; health, readiness and metrics
//! over HTTP; metrics for CloudWatch among the output.

mod emf;
mod logs;
mod metrics;
mod ops;
mod output;

pub use emf::{EmfNamespace, EmfOutput, EmfReport};
pub use logs::{LogFormat, LogLevel, init_logs};
pub use metrics::{Calls, Gauges, unix};
pub use ops::{Readiness, metrics_router, ops_router, serve};
pub use output::Unblocking;
