//! The wire: a stream under tokio-postgres that parses both directions.
//!
//! It sees the plaintext of both directions, whatever TLS lies below, and so
//! knows without a round trip what no API of tokio-postgres tells: the
//! transaction status, whether an answer is still owed, whether all that was
//! queued has left. It knows nothing but bytes and what it was told to do with
//! them: it neither decides nor waits.
//!
//! - [`backend`] and [`frontend`] follow the framing of either direction;
//! - [`tracker`] keeps what they learn, [`residue`] what a session is left with,
//!   [`snapshot`] what that comes to at one moment;
//! - [`rewrite`] holds the two rewrites;
//! - [`state`] passes on what either side sends, and [`leave`] ends that;
//! - [`ended`] answers in the server's place once the connection is taken away.

mod backend;
pub(crate) mod ended;
mod frontend;
mod leave;
pub(crate) mod residue;
mod rewrite;
mod snapshot;
mod sql;
mod state;
mod status;
mod stream;
mod tracker;
mod unit;

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use crate::config::Reported;
pub(crate) use residue::Residue;
pub use snapshot::Snapshot;
pub(crate) use snapshot::{ClientState, ServerState};
use state::State;
pub use state::Transport;
pub use status::TransactionStatus;
pub use stream::Stream;

/// Watches a connection, and takes it away when the time has come.
#[derive(Clone)]
pub struct Wire {
    state: Arc<Mutex<State>>,
    /// Held while the server's end of file is awaited: the transport wakes one task alone.
    closing: Arc<tokio::sync::Mutex<()>>,
}

impl Wire {
    /// Puts a wire over `transport`. With `unnamed`, named statements are sent
    /// as unnamed ones.
    pub fn new(
        transport: impl Transport + 'static,
        channel_binding: Option<Vec<u8>>,
        unnamed: bool,
    ) -> (Wire, Stream) {
        let state = Arc::new(Mutex::new(State::new(Box::new(transport), unnamed)));
        let wire = Wire {
            state: Arc::clone(&state),
            closing: Arc::default(),
        };
        let stream = Stream {
            state,
            channel_binding,
        };
        (wire, stream)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the connection stands.
    pub fn snapshot(&self) -> Snapshot {
        self.state().snapshot()
    }

    /// From here on named statements are sent as unnamed ones. None may have been
    /// prepared before.
    pub(crate) fn unname(&self) {
        self.state().frontend.unname();
    }

    /// To be called before the connection above is polled: what it does not
    /// touch in that poll, it does not wait for.
    pub(crate) fn before_poll(&self) {
        self.state().reads = false;
    }

    /// Has the next statement open a transaction with `begin`.
    pub fn arm(&self, begin: &str) {
        self.state().frontend.arm(begin);
    }

    /// The lazily begun transaction is over. Answers whether a statement of it fell
    /// without leaving a failed transaction behind.
    pub(crate) fn disarm(&self) -> bool {
        self.state().frontend.disarm()
    }

    /// The server's last word was that it committed.
    pub(crate) fn committed(&self) -> bool {
        self.state().tracker.committed
    }

    /// A reset went well.
    pub(crate) fn forget_residue(&self) {
        self.state().tracker.residue = Residue::default();
    }

    /// What the server has reported last about itself.
    pub(crate) fn reported(&self) -> Reported {
        self.state().tracker.reported
    }

    /// The server has refused a write, at any time.
    pub(crate) fn refused_write(&self) -> bool {
        self.state().tracker.refused_write
    }

    /// The SQLSTATE of the last error that the server reported.
    pub(crate) fn error(&self) -> Option<[u8; 5]> {
        self.state().tracker.error
    }

    /// What the server has reported so far does not count.
    pub(crate) fn forget_error(&self) {
        self.state().tracker.error = None;
    }

    /// Whether the server has said, since this was last asked, that a prepared statement
    /// is not there or does not fit the schema any more.
    pub(crate) fn take_outdated(&self) -> bool {
        std::mem::take(&mut self.state().tracker.outdated)
    }

    /// Round trips made on this connection so far.
    pub(crate) fn round_trips(&self) -> u64 {
        self.state().round_trips
    }

    /// The server's process and the secret that cancels its statement.
    pub(crate) fn key(&self) -> Option<(i32, i32)> {
        self.state().tracker.key
    }

    /// Takes the connection away from tokio-postgres. The server is not told; what was
    /// begun to be sent is completed, as far as that goes without waiting.
    pub fn take_away(&self) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let _ = self.state().poll_answered(&mut cx);
    }

    /// [Takes the connection away](Wire::take_away) and waits until the server has answered
    /// all that it was asked. False if it never will.
    pub async fn answered(&self) -> bool {
        poll_fn(|cx| self.state().poll_answered(cx)).await
    }

    /// Asks a question of our own over a connection that was [taken
    /// away](Wire::take_away), as far as that goes without waiting. Its answer counts for
    /// what is known here, and is seen by nobody.
    pub fn ask(&self, sql: &str) {
        self.state().ask(sql);
        self.take_away();
    }

    /// When the server was told goodbye it was outside any transaction, and owed nothing.
    pub fn left_at_rest(&self) -> bool {
        self.state().left_at_rest()
    }

    /// Takes the connection away from tokio-postgres and sends Terminate, as far
    /// as that goes without waiting.
    pub fn end(&self) {
        // A task that polls it already would not be woken any more.
        if let Ok(_closing) = self.closing.try_lock() {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let _ = self.state().poll_closed(&mut cx);
        }
    }

    /// Closes the socket. What the server has not said by now does not count.
    pub(crate) fn give_up(&self) {
        self.state().give_up();
    }

    /// The connection is not read any more: what has not been heard from the server will
    /// not be. It is told goodbye as far as that goes, unless it was [ended](Wire::end)
    /// before and the server's end of file is awaited.
    pub(crate) fn cut(&self) {
        self.state().cut();
    }

    /// [Ends](Wire::end) the connection and waits for the server to close it.
    /// False if the connection broke instead.
    pub async fn closed(&self) -> bool {
        let _closing = self.closing.lock().await;
        poll_fn(|cx| self.poll_closed(cx)).await
    }

    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<bool> {
        self.state().poll_closed(cx)
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.snapshot().fmt(f)
    }
}
