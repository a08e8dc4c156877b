//! News of changes: EventBridge puts events of secrets and parameters into an SQS queue, and a look
//! follows within a second or so, not only when the schedule says.
//!
//! An event is a hint and never a value: what it names is asked for under the reference's own
//! identity. So a forged, doubled, late or lost message costs a call or a wait, and no more; the
//! schedule goes on as if there were no queue.
//!
//! [`parse`] reads a message and [`Change::names`] tells whose news it is, both pure; [`listen`]
//! reads the queue and hands changes on; [`PushHandle`] is what is known of the queue.

mod change;
mod event;
mod explain;
mod listener;
mod queue;
mod status;

pub use change::{Change, Subject};
pub use event::{Rejected, parse};
pub use listener::{NotKept, listen};
pub use status::{PushHandle, PushState, PushStatus};
