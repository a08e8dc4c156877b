//! Generations that were in place and are not any more.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::generation::{self, Generation, GenerationName};

/// How long a replaced generation stays for readers who have resolved `..data` already.
const GRACE: Duration = Duration::from_secs(2);
/// When to try again what could not be removed.
const RETRY: Duration = Duration::from_secs(60);
/// Most generations kept for their grace.
const MAX_COUNT: usize = 256;
/// Most memory kept for them, in bytes. The latest stays whatever its size: without it a reader
/// of a large set would lose its files in the middle.
const MAX_BYTES: u64 = 8 << 20;

/// Retired generations, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Retired(VecDeque<Entry>);

#[derive(Debug)]
struct Entry {
    name: GenerationName,
    bytes: u64,
    due: Instant,
}

impl Retired {
    /// Keeps `generation` for its grace from `now`, and removes the oldest beyond the bounds.
    pub(super) fn push(&mut self, volume: BorrowedFd<'_>, generation: &Generation, now: Instant) {
        if self.0.iter().any(|entry| entry.name == *generation.name()) {
            return;
        }
        self.0.push_back(Entry { name: generation.name().clone(), bytes: generation.measure(), due: now + GRACE });
        while self.0.len() > MAX_COUNT || (self.0.len() > 1 && self.bytes() > MAX_BYTES) {
            let Some(oldest) = self.0.pop_front() else { break };
            // One that cannot be removed is found again at the next start.
            let _ = generation::remove(volume, &oldest.name);
        }
    }

    /// Removes those whose grace is over at `now`; tells when the next one's is.
    pub(super) fn sweep(&mut self, volume: BorrowedFd<'_>, now: Instant) -> Option<Instant> {
        self.0.retain_mut(|entry| {
            if entry.due <= now {
                if generation::remove(volume, &entry.name).is_ok() {
                    return false;
                }
                entry.due = now + RETRY;
            }
            true
        });
        self.0.iter().map(|entry| entry.due).min()
    }

    /// Removes all of them; tells whether there was any.
    pub(super) fn remove_all(&mut self, volume: BorrowedFd<'_>) -> bool {
        let before = self.0.len();
        self.0.retain(|entry| generation::remove(volume, &entry.name).is_err());
        self.0.len() < before
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(|entry| entry.bytes).sum()
    }
}
