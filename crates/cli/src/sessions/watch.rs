//! Lists sessions repeatedly.

use std::io::Write;
use std::time::Duration;

use antifreeze::Session;
use antifreeze_doctor::{Routes, sessions};
use serde_json::json;
use tokio::time::sleep;

use super::filter::Filter;
use super::table;
use crate::outcome::{Failure, Outcome};
use crate::output;
use crate::target::Target;

/// Moves the cursor to the top left, and clears the screen (ECMA-48: CUP, ED).
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// Lists the sessions until Ctrl-C. Reconnects if the connection is lost.
pub async fn run(
    target: &Target,
    routes: &Routes,
    session: Session,
    filter: &Filter,
    every: Duration,
    json: bool,
) -> Result<Outcome, Failure> {
    let watch = async {
        let mut session = session;
        loop {
            match sessions(&session).await {
                Ok(all) => {
                    let selected = filter.apply(&all);
                    let printed = if json {
                        output::try_print_json(&json!({ "sessions": selected }))
                    } else {
                        show(&table::render(&selected), selected.len(), all.len(), every)
                    };
                    // The reader has closed the pipe: `| head`.
                    if printed.is_err() {
                        return Ok(Outcome::Success);
                    }
                }
                Err(error) if session.is_closed() || error.is_unavailable() => {
                    output::eprint(&error.to_string());
                    session = reconnect(target, routes, every).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            sleep(every).await;
        }
    };
    tokio::select! {
        failure = watch => failure,
        _ = tokio::signal::ctrl_c() => Ok(Outcome::Success),
    }
}

/// Retries until the server accepts a connection.
async fn reconnect(target: &Target, routes: &Routes, every: Duration) -> Session {
    loop {
        sleep(every).await;
        match target.open(routes).await {
            Ok(session) => return session,
            Err(failure) => output::eprint(&failure.to_string()),
        }
    }
}

fn show(table: &str, selected: usize, all: usize, every: Duration) -> std::io::Result<()> {
    let head = format!("{selected} of {all} sessions, every {every:?}; Ctrl-C to stop");
    // In a pipe, tables follow each other.
    let clear = if output::is_terminal() { CLEAR } else { "" };
    // Not through `output`: without colours it would also strip the cursor movement.
    writeln!(std::io::stdout(), "{clear}{head}\n\n{table}")
}
