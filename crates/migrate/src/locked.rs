//! Runs work under the lock, until it ends, the deadline is near, or the caller stops it.

use std::sync::Arc;
use std::time::Duration;

use antifreeze::Deadline;
use antifreeze::internal::Connector;

use super::error::{Error, ErrorKind, Result};
use super::event::Event;
use super::options::{Options, Stop};
use super::report::{Events, Report};
use super::run_settings::RunSettings;
use super::session::RunnerSession;
use super::tool_process::{GRACE, ToolProcess};
use super::{index, lock};

/// The time before a deadline that is reserved for cancelling, rolling back and closing.
const RESERVE: Duration = Duration::from_secs(3);

/// The state of a runner that holds the lock.
pub(super) struct Locked<'a> {
    pub(super) session: &'a RunnerSession,
    pub(super) connector: &'a Arc<Connector>,
    pub(super) settings: &'a RunSettings,
    pub(super) events: &'a mut Events,
    /// The tool that runs under the lock. It is ended before the lock is released.
    pub(super) tool: &'a mut Option<ToolProcess>,
}

/// Takes the lock, runs `work`, releases the lock and closes the session. Cancels `work` when
/// the deadline is near or the caller stops it.
pub(super) async fn with_lock(
    mut base: Options,
    connector: Arc<Connector>,
    work: impl AsyncFnOnce(&mut Locked<'_>) -> Result<()>,
) -> Result<Report> {
    let mut events = Events::new(base.observer.take());
    let stop = base.stop.take();
    let deadline = base.deadline;
    let settings = &base.settings;
    let mut slot = None;
    let mut tool = None;
    let worked = async {
        let session = &*slot
            .insert(RunnerSession::open_within(&connector, settings.slot_wait, &mut events).await?);
        lock::keeps_server(session, &connector).await?;
        lock::take(session, settings.lock_wait, &mut events).await?;
        events.emit(Event::Locked);
        let mut locked = Locked {
            session,
            connector: &connector,
            settings,
            events: &mut events,
            tool: &mut tool,
        };
        let worked = work(&mut locked).await;
        if !session.is_closed() {
            session.reset().await?;
            lock::release(session, &mut events).await?;
        }
        worked
    };
    let worked = tokio::select! {
        biased;
        worked = worked => worked,
        why = interrupted(deadline, stop) => Err(Error::new(ErrorKind::Interrupted, why)),
    };
    if let Some(tool) = tool {
        let left = deadline.remaining();
        tool.end(left.map_or(GRACE, |left| GRACE.min(left / 2)))
            .await;
    }
    // The interrupted session is closed: a new one finds the invalid indexes it has left.
    if let Some(session) = slot {
        session.close().await;
    }
    if matches!(&worked, Err(error) if error.kind() == ErrorKind::Interrupted) {
        report_invalid_indexes(&connector, &mut events).await;
    }
    let report = events.into_report();
    match worked {
        Ok(()) => Ok(report),
        Err(error) => Err(error.with_report(report)),
    }
}

/// Waits for the deadline or the caller's stop, and returns the reason.
async fn interrupted(deadline: Deadline, stop: Option<Stop>) -> String {
    let stopped = async {
        match stop {
            Some(stop) => stop.await,
            None => std::future::pending().await,
        }
    };
    let over = async {
        match deadline.remaining() {
            Some(left) => tokio::time::sleep(left - RESERVE.min(left / 4)).await,
            None => std::future::pending().await,
        }
    };
    let consequence = "the running statement was cancelled and rolled back; the history records \
                       what was applied before: run the migrations again";
    tokio::select! {
        () = stopped => format!("stopped by the caller; {consequence}"),
        () = over => format!("the deadline was near; {consequence}"),
    }
}

async fn report_invalid_indexes(connector: &Arc<Connector>, events: &mut Events) {
    let search = async {
        let session = RunnerSession::open(connector).await?;
        let left = index::invalid(session.client(), &[]).await;
        session.close().await;
        left
    };
    if let Ok(Ok(left)) = tokio::time::timeout(RESERVE / 3, search).await {
        for index in left {
            events.emit(index.event());
        }
    }
}
