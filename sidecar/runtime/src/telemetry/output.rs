//! Writing to a stream whose reader may have stopped reading.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A pipe that poll(2) calls writable takes this much without blocking (pipe(7), `PIPE_BUF`).
const PIECE: usize = 4096;
/// How long a reader may be behind before a line is given up.
const PATIENCE: Duration = Duration::from_millis(20);

/// A stream that never holds the process up: what nobody takes in time is dropped. A process that
/// waits for the reader of its log cannot be ended by SIGTERM.
#[derive(Debug)]
pub struct Unblocking<T>(pub T);

impl<T: AsFd> Write for Unblocking<T> {
    /// Writes all of `bytes`, or fails with [`io::ErrorKind::WouldBlock`] when the reader is stuck.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fd = self.0.as_fd();
        for piece in bytes.chunks(PIECE) {
            let mut rest = piece;
            while !rest.is_empty() {
                wait_until_writable(fd)?;
                rest = &rest[rustix::io::write(fd, rest)?..];
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn wait_until_writable(fd: BorrowedFd<'_>) -> io::Result<()> {
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(PATIENCE.subsec_nanos()) };
    match poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&timeout))? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_stuck_reader_costs_lines_and_not_time() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut output = Unblocking(&writer);
        let line = vec![b'x'; 10_000];
        let started = Instant::now();
        let written = (0..50).filter(|_| output.write_all(&line).is_ok()).count();
        assert!((1..50).contains(&written), "{written}");
        assert!(started.elapsed() < Duration::from_secs(10));
        drop(writer);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert!(read.len() >= written * line.len());
    }

    #[test]
    fn a_reader_gets_every_byte() {
        let (mut reader, writer) = io::pipe().unwrap();
        let reading = std::thread::spawn(move || {
            let mut read = Vec::new();
            reader.read_to_end(&mut read).map(|_| read.len())
        });
        Unblocking(&writer).write_all(&vec![b'x'; 300_000]).unwrap();
        drop(writer);
        assert_eq!(reading.join().unwrap().unwrap(), 300_000);
    }
}
