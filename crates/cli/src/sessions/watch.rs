//! Sessions, again and again.

use std::io::Write;
use std::time::Duration;

use antifreeze::Session;
use antifreeze_doctor::{Ways, sessions};
use serde_json::json;
use tokio::time::sleep;

use super::choice::Choice;
use super::table;
use crate::outcome::{Failure, Outcome};
use crate::paint;
use crate::reach::Reach;

/// Clears the screen, and goes to its beginning (ECMA-48: ED, CUP).
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// Until ctrl-C. A connection that is lost is made again.
pub async fn run(
    reach: &Reach,
    ways: &Ways,
    session: Session,
    choice: &Choice,
    every: Duration,
    json: bool,
) -> Result<Outcome, Failure> {
    let watch = async {
        let mut session = session;
        loop {
            match sessions(&session).await {
                Ok(all) => {
                    let chosen = choice.of(&all);
                    let shown = match json {
                        true => paint::try_document(&json!({ "sessions": chosen })),
                        false => show(&table::of(&chosen), chosen.len(), all.len(), every),
                    };
                    // Who read it has gone: `| head`.
                    if shown.is_err() {
                        return Ok(Outcome::Well);
                    }
                }
                Err(error) if session.is_closed() || error.is_unavailable() => {
                    paint::complain(&error.to_string());
                    session = again(reach, ways, every).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            sleep(every).await;
        }
    };
    tokio::select! {
        failure = watch => failure,
        _ = tokio::signal::ctrl_c() => Ok(Outcome::Well),
    }
}

/// The server may take a while to come back.
async fn again(reach: &Reach, ways: &Ways, every: Duration) -> Session {
    loop {
        sleep(every).await;
        match reach.open(ways).await {
            Ok(session) => return session,
            Err(failure) => paint::complain(&failure.to_string()),
        }
    }
}

fn show(table: &str, chosen: usize, all: usize, every: Duration) -> std::io::Result<()> {
    let head = format!("{chosen} of {all} sessions, every {every:?}; ctrl-C ends this");
    // A pipe gets one table after the other.
    let clear = if paint::is_terminal() { CLEAR } else { "" };
    // Not through `paint`: without colours it would take the movement away, too.
    writeln!(std::io::stdout(), "{clear}{head}\n\n{table}")
}
