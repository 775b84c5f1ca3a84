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
                drop_commands(&mut commands, &send);
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

/// Drops what was asked for while there was no connection: the screen showed an old list.
fn drop_commands(commands: &mut UnboundedReceiver<ServerSession>, send: &impl Fn(Update)) {
    while let Ok(other) = commands.try_recv() {
        let name = other.describe();
        send(Update::Ended(format!(
            "did not end {name}: the connection was lost meanwhile"
        )));
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::sync::mpsc::unbounded_channel;

    use super::super::tests::session;
    use super::*;

    #[test]
    fn commands_of_a_lost_connection_are_dropped() {
        let (sender, mut commands) = unbounded_channel();
        for pid in [1, 2] {
            let queued = sender.send(session(pid, "shop:17", "idle", 1.0));
            queued.expect("queued");
        }
        let told = RefCell::new(Vec::new());
        drop_commands(&mut commands, &|update| told.borrow_mut().push(update));
        assert!(commands.try_recv().is_err());
        let told = told.into_inner();
        assert_eq!(told.len(), 2);
        for update in told {
            assert!(matches!(update, Update::Ended(text) if text.starts_with("did not end pid ")));
        }
    }
}
