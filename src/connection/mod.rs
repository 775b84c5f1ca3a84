//! One session of the server: its client, its link, and its driver.

mod cancel;
mod client;
mod driver;
mod parameters;
mod server_timeouts;
mod statements;
mod wakes;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::config::Pooler;
use crate::connect::{ConnectOptions, Connector, Link, Opened};
use crate::lock::Mutex;
use crate::tally::Tally;
use crate::wire::{Diverted, Names, OwnAnswer, Snapshot, TransactionStatus};
use client::Clients;
pub(crate) use client::{ClientSession, ExclusiveClient};
pub(crate) use parameters::{LastParameters, Parameters};
pub(crate) use wakes::LateWaker;

/// The time limit of a CancelRequest that no caller waits for.
const DETACHED_LIMIT: Duration = Duration::from_secs(5);

/// A session of the server, independent of pools and invocations.
pub(crate) struct ServerSession {
    pub(crate) link: Link,
    pub(crate) opened: SystemTime,
    /// Counts its lease: one or none.
    pub(crate) leases: Tally,
    client: RwLock<Arc<ClientSession>>,
    /// The client, while another driver has the session.
    parked: Mutex<Option<ExclusiveClient>>,
    /// What another driver has asked for at its start-up, and holds in the session.
    parameters: Mutex<Vec<(String, String)>>,
    clients: Clients,
    connector: Arc<Connector>,
    /// CancelRequests, ours and the user's, that are on their way. One that was not seen to
    /// its end stays among them: it may arrive at any time.
    cancelling: AtomicUsize,
    /// Queries of our own that the server has not answered yet.
    own: Tally,
    /// The call, in seconds, that the timeouts of the startup packet are for.
    started_for: u64,
    /// The server's timeouts are set for calls of at most so many seconds; 0: but for those.
    longest_call: AtomicU64,
}

impl ServerSession {
    /// Connects, with retries or `once`, and spawns the driver on the current runtime. `on_end`
    /// runs when the driver ends, for whatever reason.
    pub(crate) async fn open(
        connector: &Arc<Connector>,
        left: Option<Duration>,
        options: ConnectOptions<'_>,
        now: SystemTime,
        on_end: impl Fn() + Send + Sync + 'static,
    ) -> crate::Result<Arc<ServerSession>> {
        let Opened {
            client,
            connection,
            link,
        } = connector.open(left, options).await?;
        let clients = Clients {
            wire: link.wire.clone(),
            socket: link.socket.clone(),
            runtime: Handle::current(),
            statement_cache: connector.settings().statement_cache,
            on_end: Arc::new(on_end),
        };
        Ok(Arc::new(ServerSession {
            client: RwLock::new(clients.drive(link.wire.of_client(), client, connection)),
            parked: Mutex::default(),
            parameters: Mutex::default(),
            clients,
            link,
            opened: now,
            leases: Tally::default(),
            connector: Arc::clone(connector),
            cancelling: AtomicUsize::new(0),
            own: Tally::default(),
            started_for: connector.settings().longest_call(options.granted),
            longest_call: AtomicU64::new(0),
        }))
    }

    /// Returns the client, if it is not in use.
    pub(crate) fn exclusive_client(&self) -> Option<ExclusiveClient> {
        // Another driver may be giving the session back.
        drop(self.parked());
        self.client().exclusive()
    }

    /// Returns the session as its present client sees it.
    fn client(&self) -> Arc<ClientSession> {
        Arc::clone(&self.client.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives the session a new client, after it was [detached](ServerSession::detach) from the
    /// old one and brought to rest. Returns false if it has to be closed.
    ///
    /// The requests of the old client fail with an error that says that its invocation has
    /// ended. None of its statements may be left on the server.
    pub(crate) fn renew(&self) -> bool {
        let Some(renewed) = self.clients.renew() else {
            return false;
        };
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        self.unpark();
        true
    }

    /// Diverts the session from its client to another driver. Fails with the client if the
    /// connection has ended.
    pub(crate) async fn divert(
        &self,
        client: ExclusiveClient,
    ) -> Result<Diverted, ExclusiveClient> {
        // By the client's own wire: the session may have been given another client.
        let Some(diverted) = client.session.divert().await else {
            return Err(client);
        };
        *self.parked() = Some(client);
        Ok(diverted)
    }

    /// Returns the session to its client if the driver that has it leaves nothing in it. From the
    /// outside it then has no holder at once. Returns the names of the driver's statements.
    pub(crate) fn give_back(&self, diverted: &Diverted) -> Option<Names> {
        let mut parked = self.parked();
        let names = diverted.give_back(false)?;
        drop(parked.take());
        drop(parked);
        // It has not registered while it was parked.
        self.wake();
        Some(names)
    }

    fn unpark(&self) {
        drop(self.parked().take());
        self.wake();
    }

    /// Returns the session from another driver to its client, after it was
    /// [detached](ServerSession::detach) and brought to rest. Returns false if it has to be closed.
    pub(crate) fn restore(&self) -> bool {
        let restored = self.link.wire.restore();
        self.unpark();
        restored
    }

    fn parked(&self) -> MutexGuard<'_, Option<ExclusiveClient>> {
        self.parked.lock()
    }

    /// Wakes the driver of the client.
    pub(crate) fn wake(&self) {
        self.client().driver.wake();
    }

    /// Returns the process id of the server's backend.
    pub(crate) fn process(&self) -> i32 {
        self.link.wire.facts().key.map_or(0, |(process, _)| process)
    }

    /// Drives the connection as far as it goes without waiting, and returns its state.
    pub(crate) fn pump(&self) -> Snapshot {
        self.client().driver.pump()
    }

    /// [Pumps](ServerSession::pump), unless another thread is driving the connection.
    pub(crate) fn try_pump(&self) -> Option<Snapshot> {
        self.client().try_pump()
    }

    /// Waits until no other thread is driving the connection. May be called while no lock is
    /// held that such a thread could need.
    pub(crate) fn wait_for_pump(&self) {
        self.client().wait_for_pump();
    }

    /// Returns whether the connection has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.client().is_over()
    }

    /// Waits until nothing is under way, or the connection has ended.
    pub(crate) async fn settled(&self) -> Snapshot {
        self.client().driver.settled().await
    }

    /// Sends a CancelRequest, and waits until the server has received it. Returns false if it
    /// cannot be sent. If the outcome is unknown, the session
    /// [is being cancelled](ServerSession::is_being_cancelled) from then on.
    pub(crate) async fn cancel(&self, limit: Duration) -> bool {
        let Some(request) = self.cancel_request() else {
            return false;
        };
        self.cancelling.fetch_add(1, Ordering::AcqRel);
        let request = timeout(DETACHED_LIMIT, request);
        let received = match Handle::try_current() {
            // Its connection stays open even if nobody waits: PgBouncer loses the request otherwise,
            // and 1.18 may end with an error of its own.
            Ok(runtime) if self.link.pooler != Pooler::None => {
                let request = timeout(limit, runtime.spawn(request)).await;
                matches!(request, Ok(Ok(Ok(Ok(())))))
            }
            _ => matches!(timeout(limit, request).await, Ok(Ok(Ok(())))),
        };
        if received {
            self.cancelling.fetch_sub(1, Ordering::AcqRel);
        }
        received
    }

    /// Sends a CancelRequest in a task of its own, for a teardown that has run out of time. It
    /// can cancel nothing but this session, which is being closed.
    pub(crate) fn cancel_detached(&self) {
        if let (Some(request), Ok(runtime)) = (self.cancel_request(), Handle::try_current()) {
            runtime.spawn(async move { timeout(DETACHED_LIMIT, request).await });
        }
    }

    /// Prepares a CancelRequest. `None` if the server or the pooler accepts none.
    fn cancel_request(&self) -> Option<impl Future<Output = crate::Result<()>> + Send + use<>> {
        let key = self.link.wire.facts().key;
        let key = key.filter(|_| self.link.pooler.takes_cancel())?;
        let (connector, target) = (Arc::clone(&self.connector), self.link.target.clone());
        Some(async move { cancel::request(&connector, &target, key).await })
    }

    /// Sends a [query of our own](crate::wire::Wire::question) in front of all that the holder
    /// sends from now on. The driver sends it when it polls next.
    pub(crate) fn ask(
        &self,
        sql: &str,
        changes: bool,
    ) -> Option<impl Future<Output = Option<OwnAnswer>> + Send + use<>> {
        let answer = self.link.wire.question(sql, changes)?;
        self.client().driver.wake();
        Some(answer)
    }

    /// Spawns a task that waits for the answer to a query of our own.
    pub(crate) fn spawn_answer(&self, answer: impl Future + Send + 'static) {
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
        // Counted before `has` is called: a checkout does both in the opposite order.
        self.cancelling.fetch_add(1, Ordering::AcqRel);
        let has = has();
        if has {
            // It has to cancel the user's statement, not a query of our own in front of it.
            let _ = timeout(limit, self.own.none()).await;
        }
        let received = has && self.cancel(limit).await;
        // Where no request can be sent, none is under way.
        if received || !has || self.cancel_request().is_none() {
            self.cancelling.fetch_sub(1, Ordering::AcqRel);
        }
        received || !has
    }

    /// Returns whether a CancelRequest may be on its way. The connection must not be handed on:
    /// the request would cancel the next holder's statement.
    pub(crate) fn is_being_cancelled(&self) -> bool {
        self.cancelling.load(Ordering::Acquire) > 0
    }

    /// Sends Terminate and waits for the server's end of file: only then has it rolled back,
    /// released its locks and given up its slot. `Some(false)` if the connection broke instead,
    /// or if it was a pooler's whose server was not at rest; `None` after `limit`.
    pub(crate) async fn closed(&self, limit: Duration) -> Option<bool> {
        self.terminate();
        let wire = &self.link.wire;
        let closed = timeout(limit, wire.closed()).await.ok()?;
        // A pooler closes at once, whatever its server does then.
        Some(closed && (self.link.pooler == Pooler::None || wire.terminated_at_rest()))
    }

    /// Ends the session as far as that goes without waiting, for when no task waits. Returns
    /// true if a teardown, which may not come, can wait for the rest: the server has answered
    /// everything and is sent Terminate. If it is still answering, the socket is closed: what
    /// it writes is reset by the kernel, even if this process is frozen; what it computes can
    /// be cancelled.
    pub(crate) fn end_at_once(&self) -> bool {
        let wire = &self.link.wire;
        if self.link.pooler == Pooler::None {
            let runs = wire.snapshot().is_running();
            self.terminate();
            if runs {
                wire.shut_down();
            }
            return !runs;
        }
        // Behind a pooler a statement could no longer be cancelled after Terminate.
        self.detach();
        // If it was detached before, an answer may have come since.
        let _ = wire.answered().now_or_never();
        let snapshot = wire.snapshot();
        match snapshot.status {
            _ if snapshot.is_at_rest() => self.terminate(),
            // It is not certain then that the pooler's server is still ours.
            Some(TransactionStatus::Idle) | None => {}
            Some(_) => wire.ask("ROLLBACK"),
        }
        true
    }

    /// Detaches the connection from its holder and sends Terminate, without waiting.
    pub(crate) fn terminate(&self) {
        self.link.wire.terminate();
        self.client().driver.wake();
    }

    /// Detaches the connection from its holder, without waiting and without Terminate: the
    /// server can still be cancelled and [asked](crate::wire::Wire::asked).
    pub(crate) fn detach(&self) {
        self.link.wire.detach();
        self.client().driver.wake();
    }
}
