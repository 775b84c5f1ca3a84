//! One session of the server: its client, its wire, its socket and its driver.

mod cancel;
mod driver;
mod server_timeouts;
mod statements;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;
use tokio_postgres::{Client, Statement};

use crate::config::Pooler;
use crate::connect::{ConnectOptions, Connector, Opened, Target};
use crate::net::{Peek, SocketView};
use crate::tally::Tally;
use crate::wire::{Snapshot, TransactionStatus, Wire};
use driver::Driver;
use statements::Statements;

/// How long a detached cancel may take.
const DETACHED_LIMIT: Duration = Duration::from_secs(5);

/// A session: its client, its wire, its socket, and the task that drives it.
///
/// It knows nothing of pools and invocations.
#[derive(Debug)]
pub(crate) struct Session {
    client: Arc<Mutex<Client>>,
    driver: Arc<Driver>,
    wire: Wire,
    socket: SocketView,
    target: Target,
    pooler: Pooler,
    connector: Arc<Connector>,
    statements: Statements,
    opened: SystemTime,
    round_trip: Duration,
    /// CancelRequests, ours and the user's, that are on their way. One that was not seen to
    /// its end stays among them: it may arrive at any time.
    cancelling: AtomicUsize,
    /// Questions of our own that the server has not answered yet.
    own: Tally,
    /// The server knows what it is to end by itself, for calls of so many seconds at most.
    longest_call: AtomicU64,
}

/// The client, which has no other holder as long as this is held.
pub(crate) type ExclusiveClient = OwnedMutexGuard<Client>;

impl Session {
    /// Connects, and spawns the driver on the current runtime. `on_end` runs when the driver is
    /// done, for whatever reason.
    pub(crate) async fn open(
        connector: &Arc<Connector>,
        left: Option<Duration>,
        options: ConnectOptions<'_>,
        now: SystemTime,
        on_end: impl FnOnce() + Send + 'static,
    ) -> crate::Result<Arc<Session>> {
        let Opened {
            client,
            connection,
            wire,
            socket,
            target,
            pooler,
            round_trip,
        } = connector.open(left, options).await?;
        let client = Arc::new(Mutex::new(client));
        let driver = Driver::spawn(connection, &client, wire.clone(), on_end);
        Ok(Arc::new(Session {
            client,
            driver,
            wire,
            socket,
            target,
            pooler,
            statements: Statements::new(connector.settings().statement_cache),
            connector: Arc::clone(connector),
            opened: now,
            round_trip,
            cancelling: AtomicUsize::new(0),
            own: Tally::default(),
            longest_call: AtomicU64::new(0),
        }))
    }

    /// The client, if it is not in use. Its holder can be sure that nothing
    /// but the Close of a dropped statement is queued meanwhile.
    pub(crate) fn exclusive_client(&self) -> Option<ExclusiveClient> {
        Arc::clone(&self.client).try_lock_owned().ok()
    }

    pub(crate) fn wire(&self) -> &Wire {
        &self.wire
    }

    pub(crate) fn opened(&self) -> SystemTime {
        self.opened
    }

    /// The distance to the server, as connecting measured it.
    pub(crate) fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// What lies between us and the server.
    pub(crate) fn pooler(&self) -> Pooler {
        self.pooler
    }

    /// The server's process.
    pub(crate) fn process(&self) -> i32 {
        self.wire.key().map_or(0, |(process, _)| process)
    }

    /// What the kernel says of the socket at this moment.
    pub(crate) fn peek(&self) -> Peek {
        self.socket.peek()
    }

    /// Polls the connection and tells where it stands.
    pub(crate) fn pump(&self) -> Snapshot {
        self.driver.pump()
    }

    /// Like [`pump`](Session::pump), but `None` instead of waiting for another
    /// thread that is at it.
    pub(crate) fn try_pump(&self) -> Option<Snapshot> {
        self.driver.try_pump()
    }

    /// The connection has ended, and its driver with it or soon.
    pub(crate) fn is_over(&self) -> bool {
        self.driver.is_over() || self.wire.snapshot().is_over()
    }

    /// Waits until nothing is under way, or the connection is at its end.
    pub(crate) async fn settled(&self) -> Snapshot {
        self.driver.settled().await
    }

    /// Asks the server to cancel what it does, and waits until it has taken the
    /// request. False if it cannot be asked. Where that is not known, the session
    /// [is being cancelled](Session::is_being_cancelled) from then on.
    pub(crate) async fn cancel(&self, limit: Duration) -> bool {
        let Some(request) = self.cancel_request() else {
            return false;
        };
        self.cancelling.fetch_add(1, Ordering::AcqRel);
        let taken = matches!(timeout(limit, request).await, Ok(Ok(())));
        if taken {
            self.cancelling.fetch_sub(1, Ordering::AcqRel);
        }
        taken
    }

    /// Cancels in a detached task, for when a teardown has run out of time. It can hit
    /// nothing but this session, which is being closed.
    pub(crate) fn cancel_detached(&self) {
        if let (Some(request), Ok(runtime)) = (self.cancel_request(), Handle::try_current()) {
            runtime.spawn(async move { timeout(DETACHED_LIMIT, request).await });
        }
    }

    /// A CancelRequest, where the server takes one.
    fn cancel_request(&self) -> Option<impl Future<Output = crate::Result<()>> + Send + use<>> {
        let key = self.wire.key().filter(|_| self.pooler.takes_cancel())?;
        let (connector, target) = (Arc::clone(&self.connector), self.target.clone());
        Some(async move { cancel::request(&connector, &target, key).await })
    }

    /// Spawns what waits for the answer to a question of our own.
    pub(crate) fn see_to(&self, answer: impl Future + Send + 'static) {
        let asked = self.own.one();
        tokio::spawn(async move {
            answer.await;
            drop(asked);
        });
    }

    /// Cancels for the user, if `has` says that the connection is still the user's.
    pub(crate) async fn cancel_for_user(
        &self,
        has: impl FnOnce() -> bool,
        limit: Duration,
    ) -> bool {
        // Counted before `has` is asked: a checkout asks in the opposite order.
        self.cancelling.fetch_add(1, Ordering::AcqRel);
        let has = has();
        if has {
            // It is to hit the user's statement, not a question of our own in front of it.
            let _ = timeout(limit, self.own.none()).await;
        }
        let taken = has && self.cancel(limit).await;
        // Where no request can be sent, none is under way.
        if taken || !has || self.cancel_request().is_none() {
            self.cancelling.fetch_sub(1, Ordering::AcqRel);
        }
        taken || !has
    }

    /// A CancelRequest may be on its way. The connection must not be handed on: it would
    /// hit the next one's statement.
    pub(crate) fn is_being_cancelled(&self) -> bool {
        self.cancelling.load(Ordering::Acquire) > 0
    }

    /// Says Terminate and waits for the server's end of file: only then has it
    /// rolled back, released its locks and given up its slot. `Some(false)` if the
    /// connection broke instead, or if it was that of a pooler whose server was not at
    /// rest; `None` if nothing was heard within `limit`.
    pub(crate) async fn closed(&self, limit: Duration) -> Option<bool> {
        self.end();
        let closed = timeout(limit, self.wire.closed()).await.ok()?;
        // A pooler closes at once; what its server does then is its own affair.
        Some(closed && (self.pooler == Pooler::None || self.wire.left_at_rest()))
    }

    /// Closes the socket, without waiting: what the server has not said by now does not
    /// count.
    pub(crate) fn shut_down(&self) {
        self.wire.give_up();
    }

    /// Ends the session as far as that goes without waiting, for when no task waits. A server
    /// that has all our questions behind it is told goodbye: true, and a teardown, which may
    /// not come, can wait for the rest. To one that still answers the socket is closed: what
    /// it writes is reset by the kernel, whatever becomes of this process; what it computes
    /// can be cancelled.
    pub(crate) fn end_at_once(&self) -> bool {
        if self.pooler != Pooler::None {
            self.leave_at_once();
            return true;
        }
        let runs = self.wire.snapshot().is_running();
        self.end();
        if runs {
            self.shut_down();
        }
        !runs
    }

    /// Behind a pooler a statement could no longer be cancelled after the goodbye.
    fn leave_at_once(&self) {
        self.take_away();
        let snapshot = self.wire.snapshot();
        match snapshot.status {
            _ if snapshot.is_at_rest() => self.end(),
            // Nor is it sure then that the server is still ours.
            Some(TransactionStatus::Idle) | None => {}
            Some(_) => self.wire.ask("ROLLBACK"),
        }
    }

    /// Takes the connection away from its holder, without waiting.
    pub(crate) fn end(&self) {
        self.wire.end();
        self.driver.wake();
    }

    /// The same, and does not say goodbye: the server can still be cancelled and
    /// [asked](Session::asked).
    pub(crate) fn take_away(&self) {
        self.wire.take_away();
        self.driver.wake();
    }

    /// Waits until all was answered that was asked before the connection was taken away.
    /// False if it never will be.
    pub(crate) async fn answered(&self) -> bool {
        self.wire.answered().await
    }

    /// Asks a question of our own over a connection that was taken away, and waits until
    /// it was answered, be it with an error.
    pub(crate) async fn asked(&self, sql: &str) -> bool {
        self.wire.ask(sql);
        self.answered().await
    }

    /// A statement prepared on this session before, or now. Once the server has said that
    /// one does not fit the schema any more, none that was prepared before is trusted.
    pub(crate) async fn prepare(
        &self,
        client: &Client,
        sql: &str,
        types: &[tokio_postgres::types::Type],
    ) -> Result<Statement, tokio_postgres::Error> {
        if self.wire.take_outdated() {
            self.statements.clear();
            // The types that they had been prepared with may be others, too.
            client.clear_type_cache();
        }
        self.statements.prepare(client, sql, types).await
    }
}
