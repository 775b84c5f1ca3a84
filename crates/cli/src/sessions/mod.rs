//! `antifreeze sessions`: lists, watches and ends the sessions of the server.

mod filter;
mod table;
mod terminate;
mod watch;

use std::time::Duration;

use antifreeze_doctor::{CLOSE_TIMEOUT, ServerSession, sessions};
use clap::Args;
use filter::Filter;
use serde_json::json;

use crate::outcome::{Failure, Outcome};
use crate::output;
use crate::target::{Target, time};

/// With a filter (`--idle-in-transaction`, `--older-than`, `--application`, `--pid`), exits
/// with 1 if matching sessions exist and have not been ended.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    filter: Filter,
    /// Repeat until Ctrl-C
    #[arg(long, conflicts_with = "terminate")]
    watch: bool,
    /// The interval of --watch
    #[arg(long, default_value = "2s", value_parser = time, requires = "watch")]
    every: Duration,
    /// End the selected sessions, after confirmation
    #[arg(long)]
    terminate: bool,
    /// Do not ask for confirmation
    #[arg(long, requires = "terminate")]
    yes: bool,
}

pub async fn run(target: &Target, arguments: Arguments, json: bool) -> Result<Outcome, Failure> {
    let filter = &arguments.filter;
    if arguments.terminate && filter.is_empty() {
        return Err(Failure::new(
            "--terminate requires a filter: --idle-in-transaction, --older-than, --application \
             or --pid",
        ));
    }
    let routes = target.routes("sessions")?;
    let session = target.open(&routes).await?;
    if arguments.watch {
        return watch::run(target, &routes, session, filter, arguments.every, json).await;
    }
    let all = sessions(&session).await?;
    let selected = filter.apply(&all);
    if !arguments.terminate {
        if json {
            output::print_json(&json!({ "sessions": selected }));
        } else {
            show(&all, &selected);
        }
        session.close(CLOSE_TIMEOUT).await;
        return Ok(if filter.is_empty() || selected.is_empty() {
            Outcome::Success
        } else {
            Outcome::Findings
        });
    }
    if !json {
        show(&all, &selected);
    }
    let outcome = terminate::run(&session, &selected, arguments.yes, json).await;
    session.close(CLOSE_TIMEOUT).await;
    outcome
}

fn show(all: &[ServerSession], selected: &[&ServerSession]) {
    if selected.is_empty() {
        output::print(&format!("0 of {} sessions match", all.len()));
    } else {
        output::print(&table::render(selected));
    }
    let hidden = all.iter().filter(|session| session.kind.is_none()).count();
    if hidden > 0 {
        output::eprint(&format!(
            "the states and statements of {hidden} sessions are not visible to this role: grant \
             it pg_read_all_stats to see them"
        ));
    }
}
