//! Orphans: processes whose parent is gone, and whom the kernel gives to PID 1 of a container.

use std::io;
use std::panic::resume_unwind;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};

use rustix::process::{WaitId, WaitIdOptions, getpid, waitid};
use rustix::thread::gettid;

/// Only children of the thread that asks: `__WNOTHREAD` (include/uapi/linux/wait.h).
const NOTHREAD: WaitIdOptions = WaitIdOptions::from_bits_retain(0x2000_0000);

/// As deep as the stack of a first thread; memory is taken only where it is used.
const STACK: usize = 8 * 1024 * 1024;

/// The thread that buries orphans, once there is one.
static UNDERTAKER: OnceLock<Thread> = OnceLock::new();

/// Runs `work` on a thread of its own, and on this one buries orphans meanwhile. Call it in `main`,
/// and start the runtime in `work`. Fails where no thread can be had.
///
/// The kernel gives orphans to the first thread of their new parent (kernel/exit.c,
/// `find_new_reaper`), and what `work` starts are children of its own thread. So the two never meet:
/// no child's end is taken from those who wait for it, as `waitpid(-1)` would, and no orphan waits.
pub fn bury_orphans_during<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    if gettid() != getpid() {
        return Ok(work());
    }
    let undertaker = UNDERTAKER.get_or_init(thread::current).clone();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("coffer".to_owned()).stack_size(STACK).spawn_scoped(scope, || {
            // On a panic too.
            let _done = Done(&done, undertaker);
            work()
        })?;
        while !done.load(Ordering::Acquire) {
            bury();
            thread::park();
        }
        worker.join().map_err(|panic| resume_unwind(panic))
    })
}

/// A child has ended, and it may be an orphan.
pub(super) fn look() {
    if let Some(undertaker) = UNDERTAKER.get() {
        undertaker.unpark();
    }
}

fn bury() {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | NOTHREAD;
    while let Ok(Some(_)) = waitid(WaitId::All, options) {}
}

struct Done<'a>(&'a AtomicBool, Thread);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
        self.1.unpark();
    }
}
