//! Reads the sessions again and again, reconnects, and ends sessions meanwhile.

use std::time::Duration;

use antifreeze::Session;
use antifreeze_doctor::{Overview, Routes, ServerSession};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::sleep;

use super::{others, terminate};
use crate::outcome::Failure;
use crate::target::Target;

/// What is new.
pub enum Update {
    Read(Box<Overview>),
    /// The connection was lost, or cannot be opened again; the reason.
    Lost(String),
    /// The result of ending a session.
    Ended(String),
}

/// Sends the sessions at each interval, and ends those that arrive in `commands`. Returns if the
/// server refuses the query.
pub async fn poll(
    target: &Target,
    routes: &Routes,
    mut session: Session,
    every: Duration,
    updates: UnboundedSender<Update>,
    mut commands: UnboundedReceiver<ServerSession>,
) -> Failure {
    // The receiver outlives this future.
    let send = |update| {
        let _ = updates.send(update);
    };
    loop {
        match others(&session).await {
            Ok(all) => send(Update::Read(Box::new(all))),
            Err(error) if session.is_closed() || error.is_unavailable() => {
                send(Update::Lost(error.to_string()));
                session = reconnect(target, routes, every, &send).await;
                continue;
            }
            Err(error) => return error.into(),
        }
        tokio::select! {
            () = sleep(every) => {}
            Some(other) = commands.recv() => {
                let name = other.describe();
                let ended = terminate::end_one(&session, &other).await;
                send(Update::Ended(match ended {
                    Ok(None) => format!("ended {name}"),
                    Ok(Some(reason)) => format!("did not end {name}: {reason}"),
                    Err(failure) => format!("cannot end {name}: {failure}"),
                }));
            }
        }
    }
}

/// Retries until the server accepts a connection.
async fn reconnect(
    target: &Target,
    routes: &Routes,
    every: Duration,
    send: &(impl Fn(Update) + Sync),
) -> Session {
    loop {
        sleep(every).await;
        let mut tell = |text: &str| send(Update::Lost(text.to_owned()));
        match target.open_telling(routes, &mut tell).await {
            Ok(session) => return session,
            Err(failure) => send(Update::Lost(failure.to_string())),
        }
    }
}
