//! The driver: the task that polls a connection, and the pump that polls it in the task's place.
//!
//! A `Connection` of tokio-postgres has to be polled. After a bare `tokio::spawn` of it
//! nothing is certain: at the end of a handler the queue may hold a BEGIN that the task has
//! not polled yet. So the connection is behind a lock: the task polls it when woken, and
//! [`pump`](Driver::pump) polls it at any time, on the caller's thread. Polling empties the queue
//! of the client and flushes; after it, a completed flush as the last operation proves that
//! nothing is left. A connection that was not woken since its last poll need not be polled again:
//! a request that is queued wakes it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, Weak};
use std::task::{Context, Poll, Wake, Waker};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{AsyncMessage, Client, Connection};

use super::wakes::Polling;
use crate::lock::Mutex;
use crate::observe;
use crate::wire::{ServerState, Snapshot, Stream, Wire};

/// The connection, locked.
type Slot<'a> = MutexGuard<'a, Option<Connection<Stream, NoTlsStream>>>;

/// Called when a driver ends, for whatever reason.
pub(super) type OnEnd = Arc<dyn Fn() + Send + Sync>;

/// Counts one until it is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Counted(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Wakes the driver task, and remembers that.
struct Woken {
    /// The connection was woken since it was last polled.
    since_poll: AtomicBool,
    task: Mutex<Waker>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.since_poll.store(true, Ordering::Release);
        self.task.lock().wake_by_ref();
    }
}

/// Drives one connection.
pub(super) struct Driver {
    /// `None` once it has ended: an ended connection must be dropped, or the client's futures
    /// wait for ever.
    connection: Mutex<Option<Connection<Stream, NoTlsStream>>>,
    /// Every poll uses its waker, so that what arrives later wakes the task alone.
    woken: Arc<Woken>,
    /// The connection was polled and [is decided](Snapshot::is_decided).
    decided: Notify,
    /// How many wait for that. Counted before they look at the wire, whose lock orders it.
    waiting: AtomicUsize,
    wire: Wire,
    /// Locked by the holder of the connection.
    client: Weak<tokio::sync::Mutex<Client>>,
    /// The error that ended the session was reported.
    dismissed: AtomicBool,
}

impl Driver {
    /// Spawns the task on this runtime.
    pub(super) fn spawn(
        runtime: &Handle,
        connection: Connection<Stream, NoTlsStream>,
        client: &Arc<tokio::sync::Mutex<Client>>,
        wire: Wire,
        on_end: OnEnd,
    ) -> Arc<Driver> {
        let driver = Arc::new(Driver {
            connection: Mutex::new(Some(connection)),
            woken: Arc::new(Woken {
                since_poll: AtomicBool::new(true),
                task: Mutex::new(Waker::noop().clone()),
            }),
            decided: Notify::new(),
            waiting: AtomicUsize::new(0),
            wire,
            client: Arc::downgrade(client),
            dismissed: AtomicBool::new(false),
        });
        runtime.spawn(drive(DriverEnd {
            driver: Arc::clone(&driver),
            over: false,
            on_end,
        }));
        driver
    }

    /// Polls the connection until it has nothing to do, and returns its state.
    pub(super) fn pump(&self) -> Snapshot {
        let _polling = Polling::begin();
        self.poll(self.connection.lock())
    }

    /// [Pumps](Driver::pump), unless another thread is polling the connection.
    pub(super) fn try_pump(&self) -> Option<Snapshot> {
        let _polling = Polling::begin();
        Some(self.poll(self.connection.try_lock()?))
    }

    /// Waits until no other thread is polling the connection. A thread that has just passed the
    /// last answer on is about to be done, and only then can the connection be seen at rest.
    pub(super) fn wait_for_poll(&self) {
        // Dropped by what this thread polls, it would wait for itself.
        if !Polling::is_under_way() {
            drop(self.connection.lock());
        }
    }

    /// Waits until nothing is under way, or the connection has ended.
    pub(super) async fn settled(&self) -> Snapshot {
        loop {
            let snapshot = self.pump();
            if snapshot.is_decided() {
                return snapshot;
            }
            let _waiting = Counted::new(&self.waiting);
            let mut decided = pin!(self.decided.notified());
            decided.as_mut().enable();
            // The task may have polled before we listened.
            let snapshot = self.wire.snapshot();
            if snapshot.is_decided() {
                return snapshot;
            }
            decided.await;
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.connection.lock().is_none()
    }

    /// Wakes the task.
    pub(super) fn wake(&self) {
        self.woken.wake_by_ref();
    }

    /// Polls the connection until it has nothing to do. Returns whether it has ended.
    fn drive(&self) -> bool {
        let _polling = Polling::begin();
        let mut slot = self.connection.lock();
        if slot.is_none() {
            return true;
        }
        self.poll_if_woken(&mut slot);
        let is_watched = self.waiting.load(Ordering::Relaxed) > 0;
        if slot.is_none() || is_watched || self.wire.is_disturbed() {
            self.conclude(slot);
            return self.is_over();
        }
        false
    }

    fn poll(&self, mut slot: Slot<'_>) -> Snapshot {
        if slot.is_none() {
            return self.wire.snapshot();
        }
        self.poll_if_woken(&mut slot);
        self.conclude(slot)
    }

    fn poll_if_woken(&self, slot: &mut Slot<'_>) {
        if self.woken.since_poll.swap(false, Ordering::AcqRel) {
            self.poll_connection(slot);
        }
    }

    /// Ends a poll: takes a snapshot before another poll, which does not know yet what it waits
    /// for; drops a connection that has ended; notifies those that wait for the snapshot.
    fn conclude(&self, mut slot: Slot<'_>) -> Snapshot {
        let snapshot = self.wire.snapshot();
        // No answer to come could be assigned to its request: the client's futures fail.
        if snapshot.server == ServerState::Lost && slot.take().is_some() {
            observe::framing_lost();
        }
        if snapshot.is_dismissed() {
            if !self.dismissed.swap(true, Ordering::AcqRel) {
                observe::dismissed(self.wire.facts().error);
            }
            // Without a holder no request will get the error.
            if !self.is_held() {
                *slot = None;
            }
        }
        drop(slot);
        if self.waiting.load(Ordering::Relaxed) > 0 && snapshot.is_decided() {
            self.decided.notify_waiters();
        }
        snapshot
    }

    fn poll_connection(&self, slot: &mut Option<Connection<Stream, NoTlsStream>>) {
        let waker = Waker::from(Arc::clone(&self.woken));
        let mut cx = Context::from_waker(&waker);
        while let Some(connection) = slot {
            match connection.poll_message(&mut cx) {
                Poll::Ready(Some(Ok(AsyncMessage::Notice(notice)))) => observe::notice(&notice),
                // A notification: see `Connection`.
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(end) => {
                    if let Some(Err(error)) = end {
                        observe::connection_lost(&error);
                    }
                    *slot = None;
                }
                Poll::Pending => break,
            }
        }
    }

    fn is_held(&self) -> bool {
        let client = self.client.upgrade();
        client.is_some_and(|client| client.try_lock().is_err())
    }
}

async fn drive(mut end: DriverEnd) {
    let driver = &end.driver;
    poll_fn(|cx| {
        driver.woken.task.lock().clone_from(cx.waker());
        if driver.drive() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    end.over = true;
}

/// Ends the connection when the driver task ends, or is dropped with its runtime.
struct DriverEnd {
    driver: Arc<Driver>,
    /// The connection has ended; else the runtime has.
    over: bool,
    on_end: OnEnd,
}

impl Drop for DriverEnd {
    fn drop(&mut self) {
        let connection = self.driver.connection.lock().take();
        if self.over {
            // A teardown can still wait for the server's end of file. What detached the
            // connection may have something to do before.
            if !self.driver.wire.snapshot().is_over() {
                self.driver.wire.terminate();
            }
        } else {
            // The runtime of this socket has ended, and it cannot be polled any more.
            self.driver.wire.abandon();
        }
        drop(connection);
        self.driver.decided.notify_waiters();
        (self.on_end)();
    }
}
