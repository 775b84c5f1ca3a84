//! `antifreeze sessions`: lists, watches and ends the sessions of the server.

mod arrange;
mod console;
mod filter;
mod head;
mod layout;
mod poll;
mod screen;
mod terminate;
#[cfg(test)]
mod tests;
mod watch;

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use antifreeze::Session;
use antifreeze_doctor::{CLOSE_TIMEOUT, Overview, ServerSession, overview};
use arrange::{Order, arrange};
use clap::Args;
use filter::Filter;
use layout::{Tone, lay_out};
use serde_json::json;

use crate::outcome::{Failure, Outcome};
use crate::output;
use crate::target::{Target, time};
use crate::wrap::cut;

/// With a filter (`--idle-in-transaction`, `--older-than`, `--application`, `--pid`), exits
/// with 1 if matching sessions exist and have not been ended.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    filter: Filter,
    /// Repeat until Ctrl-C; in a terminal, keys sort, filter and end sessions
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
    let all = others(&session).await?;
    let selected = filter.apply(&all.sessions);
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

/// Reads all sessions except that of the command itself.
async fn others(session: &Session) -> Result<Overview, antifreeze::Error> {
    let mut all = overview(session).await?;
    all.sessions.retain(|session| !session.is_self);
    Ok(all)
}

fn show(all: &Overview, selected: &[&ServerSession]) {
    if selected.is_empty() && !all.sessions.is_empty() {
        output::print(&format!("0 of {} sessions match", all.sessions.len()));
    } else {
        output::print(&list(all, selected));
    }
    let hidden = all.sessions.iter().filter(|session| session.kind.is_none());
    let hidden = hidden.count();
    if hidden > 0 {
        output::eprint(&format!(
            "the states and statements of {hidden} sessions are not visible to this role: grant \
             it pg_read_all_stats to see them"
        ));
    }
}

/// Lists the selected sessions below their counts, as wide as the terminal.
fn list(all: &Overview, selected: &[&ServerSession]) -> String {
    let width = output::width();
    let rows = arrange(selected, &all.prepared, Order::Weight, true);
    let (title, lines) = lay_out(&rows, width);
    let [sessions, states] = head::head(all, selected).map(|line| cut(&line, width));
    let mut text = vec![sessions];
    if !lines.is_empty() {
        text.extend([states, String::new(), output::bold(&title)]);
    }
    text.extend(lines.into_iter().map(|line| {
        let style = style(line.tone);
        format!("{style}{}{style:#}", line.text)
    }));
    text.join("\n")
}

fn style(tone: Tone) -> Style {
    let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
    match tone {
        Tone::Blocks => colour(AnsiColor::Red).bold(),
        Tone::Waits => colour(AnsiColor::Red),
        Tone::InTransaction => colour(AnsiColor::Yellow),
        Tone::Plain => Style::new(),
        Tone::Idle => Style::new().dimmed(),
    }
}
