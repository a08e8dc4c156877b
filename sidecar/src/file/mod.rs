//! What a file of a volume is, to everything that names, renders or writes one: its name and who
//! may read it.

mod mode;
mod name;

pub use mode::{Mode, ModeError, Owner};
pub use name::{FileName, FileNameError};
