//! `antifreeze sessions`: who holds the server.

mod choice;
mod table;
mod terminate;
mod watch;

use std::time::Duration;

use antifreeze_doctor::{GOODBYE, ServerSession, sessions};
use choice::Choice;
use clap::Args;
use serde_json::json;

use crate::outcome::{Failure, Outcome};
use crate::paint;
use crate::reach::{Reach, time};

/// With a choice (`--idle-in-transaction`, `--older-than`, `--application`) it exits with 1
/// if there are such sessions and they have not been ended.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    choice: Choice,
    /// Show it again and again, until ctrl-C
    #[arg(long, conflicts_with = "terminate")]
    watch: bool,
    /// How often
    #[arg(long, default_value = "2s", value_parser = time, requires = "watch")]
    every: Duration,
    /// End the chosen sessions; asks first
    #[arg(long)]
    terminate: bool,
    /// Do not ask
    #[arg(long, requires = "terminate")]
    yes: bool,
}

pub async fn run(reach: &Reach, arguments: Arguments, json: bool) -> Result<Outcome, Failure> {
    let choice = &arguments.choice;
    if arguments.terminate && choice.is_everybody() {
        return Err(Failure::new(
            "--terminate needs a choice: --idle-in-transaction, --older-than, --application or \
             --pid",
        ));
    }
    let ways = reach.ways("sessions")?;
    let session = reach.open(&ways).await?;
    if arguments.watch {
        return watch::run(reach, &ways, session, choice, arguments.every, json).await;
    }
    let all = sessions(&session).await?;
    let chosen = choice.of(&all);
    if !arguments.terminate {
        if json {
            paint::document(&json!({ "sessions": chosen }));
        } else {
            show(&all, &chosen);
        }
        session.close(GOODBYE).await;
        return Ok(match choice.is_everybody() || chosen.is_empty() {
            true => Outcome::Well,
            false => Outcome::Findings,
        });
    }
    if !json {
        show(&all, &chosen);
    }
    let outcome = terminate::run(&session, &chosen, arguments.yes, json).await;
    session.close(GOODBYE).await;
    outcome
}

fn show(all: &[ServerSession], chosen: &[&ServerSession]) {
    if chosen.is_empty() {
        paint::print(&format!("none of {} sessions", all.len()));
    } else {
        paint::print(&table::of(chosen));
    }
    let hidden = all.iter().filter(|session| session.kind.is_none()).count();
    if hidden > 0 {
        paint::complain(&format!(
            "the states and statements of {hidden} sessions are not visible to this role: GRANT \
             pg_read_all_stats shows them"
        ));
    }
}
