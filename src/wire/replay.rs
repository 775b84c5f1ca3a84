//! Plays traffic through a wire, cut at any byte: what the property tests and the
//! fuzz targets share.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Snapshot, Stream, Wire};

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
    pub(crate) snapshots: Vec<Snapshot>,
    /// What it knew in the end, for whoever has no access to snapshots.
    pub last: String,
}

/// What is done to the wire before it is played.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mode {
    /// Named statements are sent unnamed.
    pub unnamed: bool,
    /// BEGIN is put in front of the first statement.
    pub armed: bool,
}

/// Plays `traffic` with both directions cut into pieces of `cut` bytes.
pub fn play(traffic: &[(Direction, Vec<u8>)], cut: usize, mode: Mode) -> Played {
    let server = Arc::new(Mutex::new(Server {
        sent: Vec::new(),
        to_send: VecDeque::new(),
        cut,
    }));
    let (wire, mut stream) = Wire::new(Shared(Arc::clone(&server)), None, mode.unnamed);
    let mut played = Played {
        up: Vec::new(),
        down: Vec::new(),
        snapshots: Vec::new(),
        last: String::new(),
    };
    let mut started = false;
    for (direction, bytes) in traffic {
        match direction {
            Direction::Up => write(&mut stream, bytes, cut),
            Direction::Down => lock(&server).to_send.extend(bytes),
        }
        read(&mut stream, &mut played.down, cut);
        flush(&mut stream);
        if mode.armed && !started && wire.snapshot().status.is_some() {
            started = true;
            wire.arm("BEGIN");
        }
        played.snapshots.push(wire.snapshot());
    }
    played.up.clone_from(&lock(&server).sent);
    played.last = format!("{:?}", wire.snapshot());
    played
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

fn write(stream: &mut Stream, mut bytes: &[u8], cut: usize) {
    let mut cx = Context::from_waker(Waker::noop());
    while !bytes.is_empty() {
        let piece = &bytes[..bytes.len().min(cut)];
        match Pin::new(&mut *stream).poll_write(&mut cx, piece) {
            Poll::Ready(Ok(written)) => bytes = &bytes[written..],
            _ => return,
        }
    }
}

fn flush(stream: &mut Stream) {
    let mut cx = Context::from_waker(Waker::noop());
    let _ = Pin::new(stream).poll_flush(&mut cx);
}

fn read(stream: &mut Stream, into: &mut Vec<u8>, cut: usize) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut piece = vec![0; cut];
    loop {
        let mut buf = ReadBuf::new(&mut piece);
        match Pin::new(&mut *stream).poll_read(&mut cx, &mut buf) {
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => into.extend(buf.filled()),
            _ => return,
        }
    }
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
