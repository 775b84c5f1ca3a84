//! The session of a runner, outside of any pool.

use std::sync::Arc;
use std::time::Duration;

use antifreeze::Session;
use antifreeze::internal::{self, Backoff, ConnectOptions, Connector, setting};
use antifreeze::invocation::TransactionStatus;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::error::Result;
use super::event::{Event, Rounded};
use super::report::Events;

/// How long to wait for the server to end the session.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest first delay between attempts to get a slot, and the longest of all. They are
/// short, since a free slot is taken within moments.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(250)];

/// Limits how long the server continues a statement after the process was killed (manual,
/// `client_connection_check_interval`, PostgreSQL 14).
const CHECK: &str = "set client_connection_check_interval = '1s'";

/// Disables timeouts of the role that would end the session while a tool works or an index is
/// built. Older servers do not have all of them.
fn exempt() -> String {
    setting([("idle_session_timeout", 0), ("transaction_timeout", 0)])
}

/// The session of a runner. If dropped before it is closed, it cancels its statement and
/// disconnects.
pub(super) struct RunnerSession {
    session: Session,
    pid: i32,
    checks: bool,
}

impl RunnerSession {
    pub(super) async fn open(connector: &Arc<Connector>) -> Result<RunnerSession> {
        let mut session = RunnerSession {
            session: internal::open(connector, ConnectOptions::DEFAULT).await?,
            pid: 0,
            checks: false,
        };
        // A pooler reports a process ID of its own, not the server's.
        session.pid = session
            .session
            .query_one("select pg_backend_pid()", &[])
            .await?
            .try_get(0)?;
        // Not every version and platform supports it.
        session.checks = session.session.batch_execute(CHECK).await.is_ok();
        session.session.batch_execute(&exempt()).await?;
        Ok(session)
    }

    /// Opens a session; retries for `limit` while every connection slot is taken.
    pub(super) async fn open_within(
        connector: &Arc<Connector>,
        limit: Duration,
        events: &mut Events,
    ) -> Result<RunnerSession> {
        let began = Instant::now();
        let mut pauses = Backoff::new(PAUSES[0], PAUSES[1]);
        let mut reported = false;
        loop {
            let error = match RunnerSession::open(connector).await {
                Err(error) if error.is_no_slot() && !limit.is_zero() => error,
                opened => return opened,
            };
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                let line = format!(
                    "no connection slot became free within {}: {error}; or set \
                     MIGRATION_DATABASE_URL or --url to a role with reserved connections \
                     (pg_use_reserved_connections, PostgreSQL 16)",
                    Rounded(limit)
                );
                return Err(error.with_message(line));
            }
            if !reported {
                let reason = error.to_string();
                events.emit(Event::NoSlot { reason, limit });
                reported = true;
            }
            sleep(pauses.next().unwrap_or(PAUSES[1]).min(left)).await;
        }
    }

    pub(super) fn client(&self) -> &Client {
        &self.session
    }

    /// Returns the process ID of the server.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns whether the server checks its client while it runs a statement.
    pub(super) fn checks_client(&self) -> bool {
        self.checks
    }

    /// Returns whether the connection is direct: a pooler reports another process ID than the
    /// server.
    pub(super) fn is_direct(&self) -> bool {
        self.session.process_id() == self.pid
    }

    /// Sets the timeouts of the next statements, which a migration may have changed.
    pub(super) async fn set(
        &self,
        lock_timeout: Duration,
        statement_timeout: Duration,
    ) -> Result<()> {
        let check = if self.checks { CHECK } else { "" };
        let set = format!(
            "set lock_timeout = {}; set statement_timeout = {}; \
             set idle_in_transaction_session_timeout = '60s'; {}; {check}",
            milliseconds(lock_timeout),
            milliseconds(statement_timeout),
            exempt(),
        );
        Ok(self.session.batch_execute(&set).await?)
    }

    /// Rolls back an open transaction, and resets all settings.
    pub(super) async fn reset(&self) -> Result<()> {
        let client = self.client();
        if self.in_transaction() {
            client.batch_execute("rollback").await?;
        }
        let reset = "reset session authorization; reset role; reset all";
        Ok(client.batch_execute(reset).await?)
    }

    pub(super) fn in_transaction(&self) -> bool {
        let status = self.session.transaction_status();
        status.is_some_and(|status| status != TransactionStatus::Idle)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.session.is_closed()
    }

    /// Cancels the running statement, and waits until the server has ended the session: only
    /// then is it rolled back, and its locks are released.
    pub(super) async fn close(self) {
        self.session.close(CLOSE_TIMEOUT).await;
    }
}

/// Converts to milliseconds, rounded up, limited to the server's integer.
pub(super) fn milliseconds(time: Duration) -> i32 {
    i32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
}
