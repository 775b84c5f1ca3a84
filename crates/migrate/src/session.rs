//! A session of our own, outside of any pool, that leaves nothing behind.

use std::sync::Arc;
use std::time::Duration;

use antifreeze::Session;
use antifreeze::internal::{self, Backoff, Connector, Manner, setting};
use antifreeze::invocation::TransactionStatus;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::error::Result;
use super::event::{Event, Rounded};
use super::report::Events;

/// How long ending it may take, and each step of that.
const CLOSE: Duration = Duration::from_secs(2);

/// The ceilings of the first pause between two tries for a slot, and of any: one that
/// becomes free is gone within moments.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(250)];

/// How long the server may go on when its client is gone, as when the process was killed:
/// it looks only that often while it runs a statement (manual,
/// `client_connection_check_interval`, PostgreSQL 14).
const CHECK: &str = "set client_connection_check_interval = '1s'";

/// What would end a session that holds the lock while another tool works, or an index that
/// takes its time: a role may have them, and not every server knows them.
fn exempt() -> String {
    setting([("idle_session_timeout", 0), ("transaction_timeout", 0)])
}

/// A session. Dropped before it is closed, it cancels what it does, and says goodbye.
pub(super) struct Own {
    session: Session,
    pid: i32,
    checks: bool,
}

impl Own {
    pub(super) async fn open(connector: &Arc<Connector>) -> Result<Own> {
        let mut own = Own {
            session: internal::open(connector, false, Manner::USUAL).await?,
            pid: 0,
            checks: false,
        };
        // A pooler's own number of a process is none of the server's.
        own.pid = own
            .session
            .query_one("select pg_backend_pid()", &[])
            .await?
            .try_get(0)?;
        // Not every version has it, and not every platform can.
        own.checks = own.session.batch_execute(CHECK).await.is_ok();
        own.session.batch_execute(&exempt()).await?;
        Ok(own)
    }

    /// The same, and while the server has no slot left tries again, for `limit`.
    pub(super) async fn open_within(
        connector: &Arc<Connector>,
        limit: Duration,
        events: &mut Events,
    ) -> Result<Own> {
        let began = Instant::now();
        let mut pauses = Backoff::new(PAUSES[0], PAUSES[1]);
        let mut told = false;
        loop {
            let error = match Own::open(connector).await {
                Err(error) if error.is_no_slot() && !limit.is_zero() => error,
                opened => return opened,
            };
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                let line = format!(
                    "no slot was free for {}: {error}; or name a role in MIGRATION_DATABASE_URL \
                     or --url for which the server keeps some (pg_use_reserved_connections, PostgreSQL 16)",
                    Rounded(limit)
                );
                return Err(error.saying(line));
            }
            if !told {
                let why = error.to_string();
                events.tell(Event::NoSlot { why, limit });
                told = true;
            }
            sleep(pauses.next().unwrap_or(PAUSES[1]).min(left)).await;
        }
    }

    pub(super) fn client(&self) -> &Client {
        &self.session
    }

    /// The server's process.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether the server looks for its client while it runs a statement.
    pub(super) fn checks(&self) -> bool {
        self.checks
    }

    /// Whether the server itself told us its process, which no pooler does.
    pub(super) fn is_direct(&self) -> bool {
        self.session.process_id() == self.pid
    }

    /// The settings of every statement, which a migration may have changed.
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

    /// Ends whatever transaction is open, and all settings.
    pub(super) async fn settle(&self) -> Result<()> {
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

    pub(super) fn is_over(&self) -> bool {
        self.session.is_closed()
    }

    /// Cancels what runs, and waits until the server has ended the session: only then has
    /// it rolled back and given up its locks.
    pub(super) async fn close(self) {
        self.session.close(CLOSE).await;
    }
}

/// As the server counts, rounded up, and as many as it can hold.
pub(super) fn milliseconds(time: Duration) -> i32 {
    i32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
}
