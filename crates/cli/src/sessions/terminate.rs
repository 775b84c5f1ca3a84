//! Ending sessions.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use antifreeze::Session;
use antifreeze_doctor::ServerSession;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_postgres::SimpleQueryMessage;

use crate::outcome::{Failure, Outcome};
use crate::paint;

/// How long a session may take to be gone; it may have much to roll back.
const GONE: Duration = Duration::from_secs(5);

/// What became of one.
struct Fate<'a> {
    session: &'a ServerSession,
    /// Nothing if it has ended.
    left: Option<String>,
}

/// Asks, ends them, and says which have ended.
pub async fn run(
    session: &Session,
    chosen: &[&ServerSession],
    yes: bool,
    json: bool,
) -> Result<Outcome, Failure> {
    if chosen.is_empty() {
        if json {
            paint::document(&json!({ "terminated": [] }));
        }
        return Ok(Outcome::Well);
    }
    if !yes && !consent(chosen.len())? {
        paint::complain("nothing was ended");
        return Ok(Outcome::Findings);
    }
    let mut fates = Vec::new();
    for &other in chosen {
        let left = end(session, other).await?;
        fates.push(Fate {
            session: other,
            left,
        });
    }
    wait(session, &mut fates).await?;
    if json {
        let fates = fates.iter().map(|fate| {
            json!({
                "pid": fate.session.pid,
                "session": fate.session,
                "ended": fate.left.is_none(),
                "why": fate.left,
            })
        });
        let document = json!({ "terminated": fates.collect::<Vec<_>>() });
        paint::document(&document);
    } else {
        for fate in &fates {
            let who = fate.session.describe();
            paint::print(&match &fate.left {
                None => format!("ended {who}"),
                Some(why) => format!("left {who}: {why}"),
            });
        }
    }
    let all = fates.iter().all(|fate| fate.left.is_none());
    Ok(if all {
        Outcome::Well
    } else {
        Outcome::Findings
    })
}

fn consent(count: usize) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::new(
            "nobody can be asked here: give --yes to end them without asking",
        ));
    }
    let sessions = match count {
        1 => "this session".to_owned(),
        many => format!("these {many} sessions"),
    };
    let mut out = io::stderr().lock();
    let _ = write!(
        out,
        "end {sessions}? what is open there is rolled back [y/N] "
    );
    let _ = out.flush();
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(Failure::new)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Why it was left, if it was. It is asked to end only if it is still what was shown.
async fn end(session: &Session, other: &ServerSession) -> Result<Option<String>, Failure> {
    let left = |why: &str| Ok(Some(why.to_owned()));
    match other.kind.as_deref() {
        _ if other.is_self => return left("it is this command"),
        Some("client backend") => {}
        Some(_) => return left("it is replication, which this command never ends"),
        None => return left("the role may not see what it is: GRANT pg_read_all_stats"),
    }
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().replace('\'', "''");
    let sql = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where pid = {} \
         and backend_start::text = '{}' and coalesce(state_change::text, '') = '{}' \
         and pid <> pg_backend_pid() and backend_type = 'client backend'",
        other.pid,
        text(&other.began),
        text(&other.changed),
    );
    match session.simple_query(&sql).await {
        Ok(messages) => {
            let asked = messages
                .iter()
                .any(|message| matches!(message, SimpleQueryMessage::Row(_)));
            match asked {
                true => Ok(None),
                false => left("it has moved on since"),
            }
        }
        Err(error) if error.as_db_error().is_some() => left(
            "the role may not end it: GRANT pg_signal_backend, or be a superuser for those of \
                  superusers",
        ),
        Err(error) => Err(error.into()),
    }
}

/// Until those that were asked are gone.
async fn wait(session: &Session, fates: &mut [Fate<'_>]) -> Result<(), Failure> {
    let until = Instant::now() + GONE;
    loop {
        let sql = "select pid || ' ' || backend_start::text from pg_stat_activity";
        let messages = session.simple_query(sql).await?;
        let there = |other: &ServerSession| {
            let began = other.began.as_deref().unwrap_or_default();
            let line = format!("{} {began}", other.pid);
            messages.iter().any(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0) == Some(&line),
                _ => false,
            })
        };
        let still: Vec<_> = fates
            .iter_mut()
            .filter(|fate| fate.left.is_none() && there(fate.session))
            .collect();
        if still.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            for fate in still {
                fate.left = Some("it was asked to end, and is still there".to_owned());
            }
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
}
