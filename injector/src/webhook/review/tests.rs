//! Reviews as they come, and as they should not.
