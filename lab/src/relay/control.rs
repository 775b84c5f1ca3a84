//! What the relay's owner wants, and what its connections report.
//!
//! Everything is in one lock, and every read and write of a socket happens inside
//! it: what the owner asks for holds from the moment the call returns.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::watch;

use super::{Chunk, Counts, Direction, Recording, counts::Awaits};

/// How [`Relay::cut`](super::Relay::cut) ends connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// With FIN, as a server that closes in good order.
    Fin,
    /// With RST, as a machine that has lost the connection.
    Reset,
}

#[derive(Default)]
pub(super) struct Control {
    state: Mutex<State>,
    /// Wakes whoever waits for the state to change.
    changed: watch::Sender<()>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) stalled_up: bool,
    pub(super) stalled_down: bool,
    /// The connections with a lower number lead nowhere any more.
    forgotten: u64,
    /// Half of what is added to a round trip.
    pub(super) delay: Duration,
    pub(super) record: bool,
    pub(super) counts: Counts,
    pub(super) recordings: BTreeMap<u64, Recording>,
    pub(super) open: BTreeSet<u64>,
    /// Chunks that have been read and not yet forwarded.
    pub(super) held: usize,
    /// The connections with a lower number are to end so.
    cut: Option<(u64, Cut)>,
    next: u64,
}

impl State {
    pub(super) fn stalled(&self, connection: u64, direction: Direction) -> bool {
        connection < self.forgotten
            || match direction {
                Direction::Up => self.stalled_up,
                Direction::Down => self.stalled_down,
            }
    }

    /// Takes note of bytes that came in.
    pub(super) fn saw(
        &mut self,
        connection: u64,
        direction: Direction,
        bytes: &Bytes,
        awaits: &mut Awaits,
    ) {
        self.counts.saw(direction, bytes, awaits);
        self.held += 1;
        if self.record {
            let recording = self
                .recordings
                .entry(connection)
                .or_insert_with(|| Recording {
                    connection,
                    chunks: Vec::new(),
                });
            recording.chunks.push(Chunk {
                direction,
                bytes: bytes.clone(),
            });
        }
    }
}

impl Control {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and tells everybody.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changed.send_replace(());
        result
    }

    /// Waits until `condition` gives an answer.
    pub(super) async fn until<T>(&self, mut condition: impl FnMut(&State) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(answer) = condition(&self.state()) {
                return answer;
            }
            // The sender lives as long as `self`.
            let _ = changed.changed().await;
        }
    }

    /// Waits until bytes may go this way.
    pub(super) async fn flowing(&self, connection: u64, direction: Direction) {
        self.until(|state| (!state.stalled(connection, direction)).then_some(()))
            .await;
    }

    /// Waits until bytes may not go this way.
    pub(super) async fn stalled(&self, connection: u64, direction: Direction) {
        self.until(|state| state.stalled(connection, direction).then_some(()))
            .await;
    }

    /// Has every connection there is lead nowhere from now on.
    pub(super) fn forget(&self) {
        self.change(|state| state.forgotten = state.next);
    }

    pub(super) fn open(&self) -> u64 {
        self.change(|state| {
            let number = state.next;
            state.next += 1;
            state.open.insert(number);
            state.counts.connections += 1;
            number
        })
    }

    pub(super) fn close(&self, connection: u64, held: usize) {
        self.change(|state| {
            state.open.remove(&connection);
            state.held -= held;
        });
    }

    /// Waits for the order to end this connection.
    pub(super) async fn cut(&self, connection: u64) -> Cut {
        self.until(|state| match state.cut {
            Some((below, how)) if connection < below => Some(how),
            _ => None,
        })
        .await
    }

    /// Ends every connection there is, and waits until they have ended.
    pub(super) async fn cut_all(&self, how: Cut) {
        let below = self.change(|state| {
            state.cut = Some((state.next, how));
            state.next
        });
        self.until(|state| {
            let oldest = state.open.first();
            oldest.is_none_or(|oldest| *oldest >= below).then_some(())
        })
        .await;
    }
}
