//! The `:authority` of a request that came over a unix socket, made acceptable to `h2`.
//!
//! gRPC clients that dial a path send that path as `:authority`: Go's send it percent-encoded
//! (`%2Frun%2Fkms.sock`) or plain in older releases, and C-core's (Python, C++) do the same. `h2` takes
//! the value for the authority of a URI, in which neither `/` nor `%` may stand, and answers
//! PROTOCOL_ERROR before any code of a server is asked. Both the API server's client of KMS v1, that of
//! KMS v2 before Kubernetes 1.32, and the kubelet's client of plugin registration dial so.
//!
//! [`Repaired`] stands between the socket and `h2`, and turns each `/` and `%` of that one value into
//! `-`. In HPACK's Huffman code all three have six bits (`011000`, `010101`, `010110`), so nothing
//! changes its length, coded or decoded: frames, indices and the sizes of entries in the dynamic table
//! stay in step with the client's encoder, and a later reference to the entry finds the repaired value
//! within `h2`. What is not understood passes as it is, and `h2` answers as it would have.
//!
//! A name taken from the dynamic table is not recognised, only `:authority` from the static one or
//! spelled out; no encoder prefers the dynamic table for it.

mod field;
#[cfg(test)]
mod tests;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a client of HTTP/2 says first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length, type, flags and stream of a frame (RFC 9113, 4.1).
const FRAME_HEADER: usize = 9;
/// Type of the frame that opens a request.
const HEADERS: u8 = 1;
/// The largest HEADERS that is looked into: that of the frames `h2` takes unless told otherwise.
const HEADERS_MAX: usize = 16_384;

/// The server's end of a connection, which reads `:authority` repaired.
#[derive(Debug)]
pub struct Repaired<S> {
    stream: S,
    at: At,
    held: Held,
}

impl<S> Repaired<S> {
    /// Repairs what is read from `stream`, which is at its beginning.
    pub fn new(stream: S) -> Self {
        Self { stream, at: At::Preface { seen: 0 }, held: Held::default() }
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Whether the client has said what every client of HTTP/2 says first, or something else in its place.
    pub fn is_greeted(&self) -> bool {
        !matches!(self.at, At::Preface { .. })
    }
}

/// The place in the client's stream.
#[derive(Debug)]
enum At {
    /// Within the preface, of which so many bytes were right.
    Preface { seen: usize },
    /// Within the header of a frame.
    Header { bytes: [u8; FRAME_HEADER], seen: usize },
    /// Within a payload that passes, with so many bytes to go.
    Payload { left: usize },
    /// Before or within the payload of a HEADERS frame, with so many bytes to go that are not held yet.
    Headers { flags: u8, left: usize },
    /// In something that is not HTTP/2; all of it passes.
    Foreign,
}

/// The payload of a HEADERS frame whose end has not come yet, or that is being handed out.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    /// How many of `bytes` came.
    filled: usize,
    /// How many of `bytes` were handed out.
    given: usize,
    /// Nothing more will come in: what is there is handed out.
    complete: bool,
}

impl Held {
    /// Starts a payload of `length` bytes with its first ones.
    fn start(&mut self, first: &[u8], length: usize) {
        self.bytes.clear();
        self.bytes.extend_from_slice(first);
        self.bytes.resize(length, 0);
        (self.filled, self.given, self.complete) = (first.len(), 0, false);
    }

    fn is_collecting(&self) -> bool {
        !self.complete && !self.bytes.is_empty()
    }

    fn has_more(&self) -> bool {
        self.complete && self.given < self.filled
    }

    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let end = self.filled.min(self.given + buffer.remaining());
        buffer.put_slice(&self.bytes[self.given..end]);
        self.given = end;
        if self.given == self.filled {
            // Few requests come in pieces: an idle connection keeps no buffer.
            *self = Self::default();
        }
    }
}

impl At {
    /// Follows `bytes`, which have just been read, and repairs the HEADERS that are whole within them.
    /// Where the payload of one only begins there, tells where; the place is then `Headers`.
    fn follow(&mut self, bytes: &mut [u8]) -> Option<usize> {
        let mut position = 0;
        loop {
            // Frames may be empty: the next state can be due with no byte left.
            match self {
                Self::Payload { left: 0 } | Self::Headers { left: 0, .. } => *self = Self::frame(),
                _ => {}
            }
            let rest = &mut bytes[position..];
            if rest.is_empty() {
                return None;
            }
            match self {
                Self::Preface { seen } => {
                    let length = rest.len().min(PREFACE.len() - *seen);
                    let right = rest[..length] == PREFACE[*seen..*seen + length];
                    *seen += length;
                    position += length;
                    if !right {
                        *self = Self::Foreign;
                    } else if *seen == PREFACE.len() {
                        *self = Self::frame();
                    }
                }
                Self::Header { bytes: header, seen } => {
                    let length = rest.len().min(FRAME_HEADER - *seen);
                    header[*seen..*seen + length].copy_from_slice(&rest[..length]);
                    *seen += length;
                    position += length;
                    if *seen == FRAME_HEADER {
                        *self = Self::payload(*header);
                    }
                }
                Self::Payload { left } => {
                    let length = rest.len().min(*left);
                    *left -= length;
                    position += length;
                }
                Self::Headers { flags, left } if rest.len() >= *left => {
                    field::repair(*flags, &mut rest[..*left]);
                    position += *left;
                    *left = 0;
                }
                Self::Headers { .. } => return Some(position),
                Self::Foreign => return None,
            }
        }
    }

    fn frame() -> Self {
        Self::Header { bytes: [0; FRAME_HEADER], seen: 0 }
    }

    fn payload(header: [u8; FRAME_HEADER]) -> Self {
        let [high, middle, low, kind, flags, ..] = header;
        let left = u32::from_be_bytes([0, high, middle, low]) as usize;
        if kind == HEADERS && left <= HEADERS_MAX { Self::Headers { flags, left } } else { Self::Payload { left } }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Repaired<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, at, held } = self.get_mut();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if held.has_more() {
                held.give(buffer);
                return Poll::Ready(Ok(()));
            }
            if held.is_collecting() {
                // No further than the frame's end: what follows is read into the caller's own buffer.
                let mut room = ReadBuf::new(&mut held.bytes[held.filled..]);
                ready!(Pin::new(&mut *stream).poll_read(context, &mut room))?;
                let length = room.filled().len();
                held.filled += length;
                if let At::Headers { flags, left } = at {
                    *left -= length;
                    if *left == 0 {
                        field::repair(*flags, &mut held.bytes);
                    }
                    // A frame that was cut off is handed out as far as it came.
                    held.complete = *left == 0 || length == 0;
                }
                continue;
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut *stream).poll_read(context, buffer))?;
            let fresh = &mut buffer.filled_mut()[before..];
            if fresh.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let Some(start) = at.follow(fresh) else { return Poll::Ready(Ok(())) };
            if let At::Headers { left, .. } = at {
                held.start(&fresh[start..], *left);
                *left -= held.filled;
            }
            buffer.set_filled(before + start);
            if start > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Repaired<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
