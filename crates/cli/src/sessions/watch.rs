//! Lists sessions repeatedly: on a screen of its own in a terminal, else one list after another.

use std::time::Duration;

use antifreeze::Session;
use antifreeze_doctor::Routes;
use ratatui_crossterm::crossterm::event::{Event, KeyEventKind};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::console::Console;
use super::filter::Filter;
use super::list;
use super::poll::{Update, poll};
use super::screen::{Action, Screen};
use crate::outcome::{Failure, Outcome};
use crate::target::Target;
use crate::{output, signal};

/// Lists the sessions until Ctrl-C. Reconnects if the connection is lost.
pub async fn run(
    target: &Target,
    routes: &Routes,
    session: Session,
    filter: &Filter,
    every: Duration,
    json: bool,
) -> Result<Outcome, Failure> {
    let (sender, updates) = unbounded_channel();
    let (end, commands) = unbounded_channel();
    let poll = poll(target, routes, session, every, sender, commands);
    if json || !output::is_terminal() {
        return tokio::select! {
            failure = poll => Err(failure),
            () = print(updates, filter, every, json) => Ok(Outcome::Success),
            () = signal::stop() => Ok(Outcome::Success),
        };
    }
    let mut screen = Screen::new(filter, every);
    let mut updates = updates;
    let mut console = Console::open().map_err(|error| {
        Failure::new("cannot use this terminal: redirect the output, or leave out --watch")
            .caused_by(error)
    })?;
    let mut poll = std::pin::pin!(poll);
    let mut stop = std::pin::pin!(signal::stop());
    loop {
        let drawn = console.terminal.draw(|frame| screen.draw(frame));
        drawn.map_err(|error| Failure::new("cannot write to the terminal").caused_by(error))?;
        let event = tokio::select! {
            failure = &mut poll => return Err(failure),
            () = &mut stop => return Ok(Outcome::Success),
            Some(update) = updates.recv() => {
                screen.update(update);
                continue;
            }
            event = console.events.recv() => event,
        };
        match event {
            Some(Event::Key(key)) if key.kind == KeyEventKind::Press => match screen.press(key) {
                Some(Action::Quit) => return Ok(Outcome::Success),
                // `poll` receives it.
                Some(Action::End(session)) => {
                    let _ = end.send(*session);
                }
                None => {}
            },
            Some(_) => {}
            // The terminal is gone.
            None => return Ok(Outcome::Success),
        }
    }
}

/// Prints one list after another, until the reader closes the pipe: `| head`.
async fn print(
    mut updates: UnboundedReceiver<Update>,
    filter: &Filter,
    every: Duration,
    json: bool,
) {
    while let Some(update) = updates.recv().await {
        let printed = match update {
            Update::Read(all) => {
                let selected = filter.apply(&all.sessions);
                if json {
                    output::try_print_json(&json!({ "sessions": selected }))
                } else {
                    let list = list(&all, &selected);
                    output::try_print(&format!("{list}\n\nevery {every:?}; Ctrl-C to stop\n"))
                }
            }
            Update::Lost(text) | Update::Ended(text) => {
                output::eprint(&text);
                Ok(())
            }
        };
        if printed.is_err() {
            return;
        }
    }
}
