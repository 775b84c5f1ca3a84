//! Plays traffic through a wire, cut at any byte: what the property tests and the
//! fuzz targets share.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use antifreeze::internal::wire::{Naming, Snapshot, Stream, Wire};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Which way a piece of traffic went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From tokio-postgres to the server.
    Up,
    /// From the server to tokio-postgres.
    Down,
}

/// Pieces of traffic in the order in which they passed.
pub type Traffic = Vec<(Direction, Vec<u8>)>;

/// What came out of a wire, and what it knew then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Played {
    /// What reached the server.
    pub up: Vec<u8>,
    /// What tokio-postgres was given.
    pub down: Vec<u8>,
    /// What the wire knew after each piece.
    pub snapshots: Vec<Snapshot>,
}

impl Played {
    /// The server ended the session: what came after that is not passed on.
    pub fn is_dismissed(&self) -> bool {
        self.snapshots.iter().any(Snapshot::is_dismissed)
    }

    /// Nothing that was written waits in the wire at the end.
    pub fn is_settled(&self) -> bool {
        self.snapshots.last().is_none_or(Snapshot::is_settled)
    }
}

/// Whether a wire may keep back `bytes` from tokio-postgres at the end: nothing, or the
/// beginning of an ErrorResponse that is longer.
pub fn may_be_held(bytes: &[u8]) -> bool {
    let Some((&tag, rest)) = bytes.split_first() else {
        return true;
    };
    let length = rest.first_chunk().map(|&field| u32::from_be_bytes(field));
    tag == b'E' && length.is_none_or(|length| rest.len() < length as usize)
}

/// Returns what was sent without Sync and Flush, of which the wire sends others around a COPY.
pub fn without_syncs(up: &[u8]) -> Vec<u8> {
    let (mut out, mut rest, mut tag) = (Vec::new(), up, 0);
    // The startup packet has no tag.
    while let Some(field) = rest.get(tag..).and_then(|after| after.first_chunk()) {
        let length = usize::try_from(i32::from_be_bytes(*field)).unwrap_or(0);
        let Some((message, after)) = rest.split_at_checked(tag + length) else {
            break;
        };
        if length < 4 {
            break;
        }
        if tag == 0 || !b"SH".contains(&message[0]) {
            out.extend_from_slice(message);
        }
        (rest, tag) = (after, 1);
    }
    out.extend_from_slice(rest);
    out
}

/// What is done to the wire before it is played.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mode {
    /// How the server knows named statements.
    pub naming: Naming,
    /// BEGIN is put in front of the first statement.
    pub armed: bool,
    /// The server refuses so many of them, as a standby does with READ WRITE.
    pub refused: usize,
    /// The wire asks between the client's requests.
    pub asks: bool,
}

/// Plays `traffic` with both directions cut into pieces of `cut` bytes.
pub fn play(traffic: &[(Direction, Vec<u8>)], cut: usize) -> Played {
    let mut link = Link::new(cut, Naming::AsGiven);
    let mut snapshots = Vec::new();
    for (direction, bytes) in traffic {
        match direction {
            Direction::Up => link.write(bytes),
            Direction::Down => link.answer(bytes),
        }
        snapshots.push(link.wire.snapshot());
    }
    Played {
        up: link.take_up(),
        down: link.take_down(),
        snapshots,
    }
}

/// A wire between a client and a server that a test plays both.
pub struct Link {
    wire: Wire,
    stream: Stream,
    server: Arc<Mutex<Server>>,
    down: Vec<u8>,
    cut: usize,
}

impl Link {
    /// Both directions are cut into pieces of `cut` bytes.
    pub fn new(cut: usize, naming: Naming) -> Self {
        let server = Arc::new(Mutex::new(Server {
            sent: Vec::new(),
            to_send: VecDeque::new(),
            cut,
        }));
        let (wire, stream) = Wire::new(Shared(Arc::clone(&server)), naming);
        Link {
            wire,
            stream,
            server,
            down: Vec::new(),
            cut: cut.min(1 << 20),
        }
    }

    /// The wire, watched.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Gives the session a new client. Returns the stream of the old one.
    pub fn attach(&mut self) -> Option<Stream> {
        let (_, stream) = self.wire.attach()?;
        self.down.clear();
        Some(std::mem::replace(&mut self.stream, stream))
    }

    /// The client sends.
    pub fn write(&mut self, mut bytes: &[u8]) {
        let mut cx = Context::from_waker(Waker::noop());
        while !bytes.is_empty() {
            let piece = &bytes[..bytes.len().min(self.cut)];
            match Pin::new(&mut self.stream).poll_write(&mut cx, piece) {
                Poll::Ready(Ok(written)) => bytes = &bytes[written..],
                _ => break,
            }
        }
        self.pump();
    }

    /// From now on the server takes so many bytes at once.
    pub fn let_in(&mut self, most: usize) {
        lock(&self.server).cut = most;
    }

    /// The server sends.
    pub fn answer(&mut self, bytes: &[u8]) {
        lock(&self.server).to_send.extend(bytes);
        self.pump();
    }

    /// What has reached the server.
    pub fn take_up(&mut self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.server).sent)
    }

    /// What the client was given.
    pub fn take_down(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.down)
    }

    /// As tokio-postgres does it: reads what there is, then flushes.
    fn pump(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut piece = vec![0; self.cut];
        loop {
            let mut buf = ReadBuf::new(&mut piece);
            match Pin::new(&mut self.stream).poll_read(&mut cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => self.down.extend(buf.filled()),
                _ => break,
            }
        }
        let _ = Pin::new(&mut self.stream).poll_flush(&mut cx);
    }
}

/// Makes traffic of arbitrary bytes: each piece is a byte that says whose turn it is
/// and how long the piece is, then the piece.
pub fn traffic_of(mut data: &[u8]) -> Traffic {
    let mut traffic = Vec::new();
    while let Some((&head, rest)) = data.split_first() {
        let direction = match head & 1 {
            0 => Direction::Up,
            _ => Direction::Down,
        };
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(head >> 1)));
        traffic.push((direction, piece.to_vec()));
        data = rest;
    }
    traffic
}

struct Server {
    sent: Vec<u8>,
    to_send: VecDeque<u8>,
    cut: usize,
}

struct Shared(Arc<Mutex<Server>>);

impl AsyncRead for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut server = lock(&self.0);
        let now = server.cut.min(buf.remaining()).min(server.to_send.len());
        if now == 0 {
            return Poll::Pending;
        }
        let bytes: Vec<u8> = server.to_send.drain(..now).collect();
        buf.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Shared {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut server = lock(&self.0);
        let now = server.cut.min(bytes.len());
        if now == 0 {
            return Poll::Pending;
        }
        server.sent.extend(&bytes[..now]);
        Poll::Ready(Ok(now))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn lock(server: &Mutex<Server>) -> std::sync::MutexGuard<'_, Server> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}
