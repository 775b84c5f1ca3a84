//! Work under the lock, and its end, whatever comes first.

use std::sync::Arc;
use std::time::Duration;

use antifreeze::Deadline;
use antifreeze::internal::Connector;

use super::error::{Error, Kind, Result};
use super::event::Event;
use super::options::{Base, Stop};
use super::report::{Events, Report};
use super::session::Own;
use super::settings::Settings;
use super::tool::{GRACE, Running};
use super::{index, lock};

/// Kept back from a deadline for cancelling, rolling back and the goodbye.
const RESERVE: Duration = Duration::from_secs(3);

/// What there is once the lock is ours.
pub(super) struct Held<'a> {
    pub(super) own: &'a Own,
    pub(super) connector: &'a Arc<Connector>,
    pub(super) settings: &'a Settings,
    pub(super) events: &'a mut Events,
    /// The tool that runs under the lock: it must not outlive it.
    pub(super) tool: &'a mut Option<Running>,
}

/// Takes the lock, does `work`, gives the lock back, and ends the session, unless the
/// deadline comes first.
pub(super) async fn under_lock(
    mut base: Base,
    connector: Arc<Connector>,
    work: impl AsyncFnOnce(&mut Held<'_>) -> Result<()>,
) -> Result<Report> {
    let mut events = Events::new(base.observer.take());
    let stop = base.stop.take();
    let deadline = base.deadline;
    let settings = &base.settings;
    let mut slot = None;
    let mut tool = None;
    let worked = async {
        let own =
            &*slot.insert(Own::open_within(&connector, settings.slot_wait, &mut events).await?);
        lock::keeps_server(own, &connector).await?;
        lock::take(own, settings.lock_wait, &mut events).await?;
        events.tell(Event::Locked);
        let mut held = Held {
            own,
            connector: &connector,
            settings,
            events: &mut events,
            tool: &mut tool,
        };
        let worked = work(&mut held).await;
        if !own.is_over() {
            own.settle().await?;
            lock::release(own, &mut events).await?;
        }
        worked
    };
    let worked = tokio::select! {
        biased;
        worked = worked => worked,
        why = interrupted(deadline, stop) => Err(Error::new(Kind::Interrupted, why)),
    };
    if let Some(tool) = tool {
        let left = deadline.remaining();
        tool.end(left.map_or(GRACE, |left| GRACE.min(left / 2)))
            .await;
    }
    // What an interrupted statement has left is told by a session that can still ask.
    if let Some(own) = slot {
        own.close().await;
    }
    if matches!(&worked, Err(error) if error.kind() == Kind::Interrupted) {
        tell_left(&connector, &mut events).await;
    }
    let report = events.into_report();
    match worked {
        Ok(()) => Ok(report),
        Err(error) => Err(error.with_report(report)),
    }
}

/// Ends with the reason.
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
    let undone = "so what ran was cancelled and rolled back; what was applied before is in the \
                  history, and it can be run again";
    tokio::select! {
        () = stopped => format!("it was told to stop, {undone}"),
        () = over => format!("the deadline was near, {undone}"),
    }
}

async fn tell_left(connector: &Arc<Connector>, events: &mut Events) {
    let look = async {
        let own = Own::open(connector).await?;
        let left = index::invalid(own.client(), &[]).await;
        own.close().await;
        left
    };
    if let Ok(Ok(left)) = tokio::time::timeout(RESERVE / 3, look).await {
        for one in left {
            events.tell(one.left());
        }
    }
}
