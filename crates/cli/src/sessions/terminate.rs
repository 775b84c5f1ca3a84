//! Ends sessions.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use antifreeze::Session;
use antifreeze_doctor::ServerSession;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_postgres::SimpleQueryMessage;

use crate::outcome::{Failure, Outcome};
use crate::output;

/// How long to wait for a session to end; it may have much to roll back.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// The result of ending a session.
struct Termination<'a> {
    session: &'a ServerSession,
    /// Why it was not ended; `None` if it was.
    failure: Option<String>,
}

/// Asks for confirmation, ends the sessions, and prints which have ended.
pub async fn run(
    session: &Session,
    selected: &[&ServerSession],
    yes: bool,
    json: bool,
) -> Result<Outcome, Failure> {
    if selected.is_empty() {
        if json {
            output::print_json(&json!({ "terminated": [] }));
        }
        return Ok(Outcome::Success);
    }
    if !yes && !confirm(selected.len())? {
        output::eprint("no session was ended");
        return Ok(Outcome::Findings);
    }
    let mut terminations = Vec::new();
    for &other in selected {
        let failure = end(session, other, Unchanged::State).await?;
        terminations.push(Termination {
            session: other,
            failure,
        });
    }
    wait(session, &mut terminations).await?;
    if json {
        let documents = terminations.iter().map(|termination| {
            json!({
                "pid": termination.session.pid,
                "session": termination.session,
                "ended": termination.failure.is_none(),
                "reason": termination.failure,
            })
        });
        let document = json!({ "terminated": documents.collect::<Vec<_>>() });
        output::print_json(&document);
    } else {
        for termination in &terminations {
            let session = termination.session.describe();
            output::print(&match &termination.failure {
                None => format!("ended {session}"),
                Some(reason) => format!("did not end {session}: {reason}"),
            });
        }
    }
    let all = terminations
        .iter()
        .all(|termination| termination.failure.is_none());
    Ok(if all {
        Outcome::Success
    } else {
        Outcome::Findings
    })
}

fn confirm(count: usize) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::new(
            "cannot ask for confirmation: the standard input is not a terminal; pass --yes to end \
             the sessions without confirmation",
        ));
    }
    let sessions = match count {
        1 => "this session".to_owned(),
        many => format!("these {many} sessions"),
    };
    let mut out = io::stderr().lock();
    let _ = write!(
        out,
        "end {sessions}? open transactions are rolled back [y/N] "
    );
    let _ = out.flush();
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(Failure::new)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What must not have changed since a session was shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unchanged {
    /// It must be the same session.
    Session,
    /// It must still be in the same state, since that is what it was selected by.
    State,
}

/// Returns why this command never ends a session, if that is so.
pub fn refusal(other: &ServerSession) -> Option<&'static str> {
    match other.kind.as_deref() {
        Some("client backend") => None,
        Some(_) => Some("it is replication, which this command never ends"),
        None => Some("its type is not visible to this role: GRANT pg_read_all_stats"),
    }
}

/// Ends one session if it is still the same one, whatever its state, and waits until it has
/// ended; returns the reason if it was not ended.
pub async fn end_one(session: &Session, other: &ServerSession) -> Result<Option<String>, Failure> {
    let failure = end(session, other, Unchanged::Session).await?;
    let mut terminations = [Termination {
        session: other,
        failure,
    }];
    wait(session, &mut terminations).await?;
    let [termination] = terminations;
    Ok(termination.failure)
}

/// Ends a session, unless it has changed since it was shown; returns the reason if it was not
/// ended.
async fn end(
    session: &Session,
    other: &ServerSession,
    unchanged: Unchanged,
) -> Result<Option<String>, Failure> {
    if let Some(reason) = refusal(other) {
        return Ok(Some(reason.to_owned()));
    }
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().replace('\'', "''");
    let state = match unchanged {
        Unchanged::Session => String::new(),
        Unchanged::State => format!(
            " and coalesce(state_change::text, '') = '{}'",
            text(&other.changed)
        ),
    };
    let sql = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where pid = {} \
         and backend_start::text = '{}'{state} \
         and pid <> pg_backend_pid() and backend_type = 'client backend'",
        other.pid,
        text(&other.began),
    );
    match session.simple_query(&sql).await {
        Ok(messages) => {
            let signalled = messages
                .iter()
                .any(|message| matches!(message, SimpleQueryMessage::Row(_)));
            let changed = match unchanged {
                Unchanged::Session => "it has ended by itself",
                Unchanged::State => "its state has changed since it was listed",
            };
            Ok((!signalled).then(|| changed.to_owned()))
        }
        Err(error) if error.as_db_error().is_some() => Ok(Some(
            "permission denied: GRANT pg_signal_backend to this role; sessions of superusers can \
             be ended by superusers only"
                .to_owned(),
        )),
        Err(error) => Err(error.into()),
    }
}

/// Waits until the signalled sessions have ended.
async fn wait(session: &Session, terminations: &mut [Termination<'_>]) -> Result<(), Failure> {
    let until = Instant::now() + END_TIMEOUT;
    loop {
        let sql = "select pid || ' ' || backend_start::text from pg_stat_activity";
        let messages = session.simple_query(sql).await?;
        let is_listed = |other: &ServerSession| {
            let began = other.began.as_deref().unwrap_or_default();
            let line = format!("{} {began}", other.pid);
            messages.iter().any(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0) == Some(&line),
                _ => false,
            })
        };
        let remaining: Vec<_> = terminations
            .iter_mut()
            .filter(|termination| termination.failure.is_none() && is_listed(termination.session))
            .collect();
        if remaining.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            for termination in remaining {
                termination.failure = Some("it has been signalled but has not ended".to_owned());
            }
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
}
