//! The wire: a stream below tokio-postgres that parses both directions.
//!
//! It sees the plaintext of both directions, above TLS, and so knows without a round trip what
//! no API of tokio-postgres returns: the transaction status, whether an answer is still owed, and
//! whether all that was queued has been sent. It makes no decisions, and waits only where it is
//! asked to.
//!
//! - [`backend`] and [`frontend`] parse the messages of each direction, [`plain`] is the shortcut
//!   for plain requests, [`message`] reads and writes single messages;
//! - [`tracker`] keeps what they learn, [`expected`] the answers to come, [`residue`] detects
//!   session state, [`texts`] caches that by the text, [`snapshot`] summarises all at one moment;
//! - [`rewrite`] rewrites requests, [`begin`] sends BEGIN with the first, [`question`] keeps the
//!   answers to the wire's own queries;
//! - [`by_content`] answers requests about statements that the session has prepared,
//!   [`statements`] keeps these, and [`answers`] processes what the server says of them;
//! - [`state`] reads and writes both directions, and [`terminate`] ends the connection;
//! - [`stand_in`] answers in the server's place once the connection is detached,
//!   [`attach`] gives the session a new client, and [`divert`] lends it to another driver.

mod answers;
mod attach;
mod backend;
mod begin;
mod by_content;
mod copy;
mod divert;
mod expected;
mod frontend;
pub(crate) mod message;
mod plain;
mod question;
pub(crate) mod residue;
mod rewrite;
mod snapshot;
mod sql;
mod stand_in;
mod state;
mod statements;
mod status;
mod stream;
mod terminate;
mod texts;
mod tracker;
mod unit;
mod work;

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Waker};

use bytes::BytesMut;
use tokio::sync::oneshot;

use crate::lock::Mutex;
pub use divert::Diverted;
use frontend::StartupHandling;
pub use question::OwnAnswer;
use question::Question;
pub(crate) use residue::Residue;
pub use snapshot::Snapshot;
pub(crate) use snapshot::{ClientState, ServerState};
use stand_in::Terminate;
pub use state::Transport;
use state::{State, TransportState};
pub use statements::Names;
pub use statements::Naming;
pub(crate) use statements::once;
pub(crate) use status::ServerFacts;
pub use status::TransactionStatus;
pub use stream::Stream;
pub(crate) use work::{Fingerprint, Watched, Watching, Work};

/// Watches a connection, and detaches it from tokio-postgres at the end.
#[derive(Clone)]
pub struct Wire {
    state: Arc<Mutex<State>>,
    /// Held while the server's end of file is awaited: the transport wakes one task alone.
    closing: Arc<tokio::sync::Mutex<()>>,
    /// The client that it belongs to; `None` for the one that is attached.
    client: Option<u64>,
}

impl Wire {
    /// Creates a wire over `transport` that names prepared statements as `naming` says.
    pub fn new(transport: impl Transport + 'static, naming: Naming) -> (Wire, Stream) {
        let (transport, shut) = (Box::new(transport), false);
        Wire::over(State::new(TransportState::Open { transport, shut }, naming))
    }

    /// Creates a wire over a connection whose startup packet was sent: that of tokio-postgres is
    /// not. `answer` was read from `transport`, which may have failed then.
    pub(crate) fn authenticated(
        transport: io::Result<impl Transport + 'static>,
        naming: Naming,
        answer: BytesMut,
    ) -> (Wire, Stream) {
        let below = match transport {
            Ok(transport) => TransportState::Open {
                transport: Box::new(transport),
                shut: false,
            },
            Err(error) => TransportState::Closed(Some(error)),
        };
        let mut state = State::new(below, naming);
        state.frontend.startup = StartupHandling::Authenticated;
        state.unread = answer;
        Wire::over(state)
    }

    fn over(state: State) -> (Wire, Stream) {
        let wire = Wire {
            state: Arc::new(Mutex::new(state)),
            closing: Arc::default(),
            client: None,
        };
        let stream = Stream {
            wire: wire.clone(),
            client: 0,
        };
        (wire, stream)
    }

    /// Returns a wire of the present client alone: to it the connection has ended once another
    /// client is attached.
    pub(crate) fn of_client(&self) -> Wire {
        let client = Some(self.state().client);
        Wire {
            client,
            ..self.clone()
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Returns the state, unless the session has another client than that of this wire.
    fn present(&self) -> Option<MutexGuard<'_, State>> {
        let state = self.state();
        let present = self.client.is_none_or(|client| client == state.client);
        present.then_some(state)
    }

    /// Returns the state of the connection at this moment.
    pub fn snapshot(&self) -> Snapshot {
        let present = self.present();
        present.map_or(Snapshot::ENDED, |state| state.snapshot())
    }

    /// Returns whether the client gets [no more](Snapshot::is_over) from the server.
    pub(crate) fn is_over(&self) -> bool {
        self.snapshot().is_over()
    }

    /// Returns whether the framing was lost, or the connection detached.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.present()
            .is_some_and(|state| state.detached.is_some() || state.tracker.is_lost())
    }

    /// Changes how prepared statements are named. None may have been prepared before.
    pub(crate) fn rename(&self, naming: Naming) {
        self.state().frontend.naming = naming;
    }

    /// Attaches a new client to a session that was [detached](Wire::detach) and is at rest.
    /// Returns the wire and the stream of the new client, whose startup packet is answered here.
    pub fn attach(&self) -> Option<(Wire, Stream)> {
        let client = self.state().attach()?;
        let stream = Stream {
            wire: self.clone(),
            client,
        };
        Some((self.of_client(), stream))
    }

    /// Has the next statement open a transaction with `begin`.
    pub fn arm(&self, begin: &str) {
        if let Some(mut state) = self.present() {
            state.frontend.arm(begin);
        }
    }

    /// Ends the lazily begun transaction. Returns whether a statement of it failed without
    /// leaving a failed transaction behind.
    pub(crate) fn disarm(&self) -> bool {
        self.present()
            .is_some_and(|mut state| state.frontend.disarm())
    }

    /// Returns what the server has reported about itself and the session.
    pub(crate) fn facts(&self) -> ServerFacts {
        let present = self.present();
        present.map(|state| state.tracker.facts).unwrap_or_default()
    }

    /// Returns the ParameterStatus messages with which the server would begin a session like
    /// this.
    pub(crate) fn reported(&self) -> BytesMut {
        let mut out = BytesMut::new();
        self.state().tracker.write_reported(&mut out);
        out
    }

    /// Returns whether the server has reported this value of a parameter, whose name is in any
    /// case.
    pub(crate) fn reports(&self, name: &str, value: &str) -> bool {
        let state = self.state();
        let mut reported = state.tracker.reported.iter();
        reported.any(|(known, reported)| {
            known.eq_ignore_ascii_case(name.as_bytes()) && **reported == *value.as_bytes()
        })
    }

    /// Forgets the last error.
    pub(crate) fn forget_error(&self) {
        if let Some(mut state) = self.present() {
            state.tracker.facts.error = None;
        }
    }

    /// Forgets session state, after a successful reset.
    pub(crate) fn forget_residue(&self) {
        self.state().tracker.residue = Residue::None;
    }

    /// Returns whether the server has said, since the last call, that a prepared statement
    /// does not exist or does not fit the schema any more.
    pub(crate) fn take_outdated(&self) -> bool {
        self.present()
            .is_some_and(|mut state| std::mem::take(&mut state.tracker.outdated))
    }

    /// Returns the number of round trips made on this connection.
    pub(crate) fn round_trips(&self) -> u64 {
        self.state().round_trips
    }

    /// Returns whether the server does nothing but end a transaction.
    pub(crate) fn is_ending(&self) -> bool {
        self.state().tracker.is_ending()
    }

    /// Begins to count the work of the session, and watches it as far as `watching` asks for.
    pub(crate) fn begin_work(&self, watching: Option<Watching>) {
        let mut state = self.state();
        let round_trips = state.round_trips;
        state.counted_from = round_trips;
        state.tracker.work = Work::default();
        let watching = watching.filter(|watching| watching.statements || watching.times);
        let watched = watching.map(|watching| Box::new(Watched::new(watching)));
        state.tracker.watched = watched;
    }

    /// Returns what was counted and watched, and begins anew.
    pub(crate) fn take_work(&self) -> (Work, Option<Watched>) {
        let mut state = self.state();
        let mut work = std::mem::take(&mut state.tracker.work);
        work.round_trips = state.round_trips - state.counted_from;
        state.counted_from = state.round_trips;
        let watched = state.tracker.watched.as_mut();
        let watched = watched.map(|watched| watched.take(&mut work));
        (work, watched)
    }

    /// Sends a query of the wire's own between those of the client. Its answer updates what is
    /// known here and is not passed on, but for notices and parameters. The session is
    /// [settled](Snapshot::is_settled) only when it is answered, unless it `changes` nothing and
    /// takes no time. It is sent by the next poll of the connection.
    ///
    /// `None`: the connection has ended, or the server is not settled. The returned future has
    /// no answer if the connection ends. Dropping it changes nothing.
    pub fn question(
        &self,
        sql: &str,
        changes: bool,
    ) -> Option<impl Future<Output = Option<OwnAnswer>> + Send + use<>> {
        let mut state = self.present()?;
        let attached = state.detached.is_none() && !state.is_closed();
        if !attached || !state.frontend.is_between_requests() || !state.tracker.may_ask() {
            return None;
        }
        let (question, receiver) = Question::new();
        state.send(sql, changes, Some(question));
        Some(async move { receiver.await.ok() })
    }

    /// Sends a query of the wire's own behind the next statement that the client executes, so that
    /// it delays no answer to the client. It is sent outside any transaction, or not at all.
    pub(crate) fn defer(&self, sql: &str) -> oneshot::Receiver<OwnAnswer> {
        let (question, receiver) = Question::new();
        let mut state = self.state();
        state.tracker.has_executed = false;
        state.deferred = Some((sql.into(), question));
        receiver
    }

    /// Drops the [deferred](Wire::defer) query if it was not sent.
    pub(crate) fn withdraw(&self) {
        self.state().deferred = None;
    }

    /// Detaches the connection from tokio-postgres. Sends nothing new to the server; what was
    /// begun is completed, as far as that goes without waiting.
    pub fn detach(&self) {
        let mut state = self.state();
        // A teardown that has detached it waits for the answers, and must be woken.
        if state.detached.is_none() {
            let _ = state.poll_answered(&mut Context::from_waker(Waker::noop()));
        }
    }

    /// [Detaches](Wire::detach) the connection and waits until the server has answered all
    /// requests. Returns false if it never will.
    pub async fn answered(&self) -> bool {
        poll_fn(|cx| self.state().poll_answered(cx)).await
    }

    /// [Detaches](Wire::detach) the connection and sends a query of the wire's own, as far as that
    /// goes without waiting. Its answer updates what is known here, and is not passed on.
    pub fn ask(&self, sql: &str) {
        let mut state = self.state();
        state.detach();
        state.complete();
        if state.frontend.is_empty() {
            state.send(sql, true, None);
        }
        let _ = state.poll_answered(&mut Context::from_waker(Waker::noop()));
    }

    /// [Asks](Wire::ask), and waits until the server has answered, be it with an error.
    pub(crate) async fn asked(&self, sql: &str) -> bool {
        self.ask(sql);
        self.answered().await
    }

    /// Sends Terminate, after [detaching](Wire::detach), as far as that goes without waiting.
    pub fn terminate(&self) {
        // A task that polls it already would not be woken any more.
        if let Ok(_closing) = self.closing.try_lock() {
            let mut cx = Context::from_waker(Waker::noop());
            let _ = self.present().map(|mut state| state.poll_closed(&mut cx));
        }
    }

    /// Returns whether Terminate was sent, or need not be.
    pub(crate) fn is_terminated(&self) -> bool {
        let sent = self.state().terminate_sent();
        sent.is_some_and(|sent| sent != Terminate::NotSent)
    }

    /// Returns whether the server was outside any transaction and owed nothing when Terminate
    /// was sent.
    pub fn terminated_at_rest(&self) -> bool {
        self.state().terminate_sent() == Some(Terminate::AtRest)
    }

    /// Sends [Terminate](Wire::terminate) and waits for the server to close the connection.
    /// Returns false if the connection broke instead.
    pub async fn closed(&self) -> bool {
        let _closing = self.closing.lock().await;
        poll_fn(|cx| self.state().poll_closed(cx)).await
    }

    /// Closes the socket. Nothing more is read from it.
    pub(crate) fn shut_down(&self) {
        self.state().shut_down();
    }

    /// Closes the socket of a connection that is not driven any more, after Terminate if that
    /// can be sent without waiting. Does nothing if the server's end of file is awaited.
    pub(crate) fn abandon(&self) {
        if let Some(mut state) = self.present() {
            state.abandon();
        }
    }
}
