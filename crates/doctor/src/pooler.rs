//! What a pooler does to sessions, and whether one is missing.

use antifreeze::config::{Pooler, Settings};
use antifreeze::internal::{self, Manner};
use antifreeze::{Error, Result, Session};
use tokio_postgres::SimpleQueryMessage;

use super::CROWDED;
use super::facts::Facts;
use super::report::{Check, Step};
use super::session::{GOODBYE, open, open_strictly};

/// Whether the pooler follows named statements from server to server. One that does gives
/// them names of its own; one that does not lets ours through, where another client's of
/// the same name may lie.
pub(super) async fn statements(config: &Settings) -> Option<Check> {
    let tracked = match tracks_statements(config).await {
        Ok(tracked) => tracked,
        Err(error) => return Some(unseen(Step::Statements, &error)),
    };
    let untracked = "the pooler lets the names of prepared statements through";
    Some(match (tracked, config.pooler) {
        (true, _) => Check::well(
            Step::Statements,
            "the pooler follows prepared statements from server to server",
        ),
        (false, Pooler::Transaction) => Check::note(
            Step::Statements,
            format!("{untracked}; antifreeze sends its statements unnamed here"),
        )
        .remedied(
            "other drivers meet \"prepared statement already exists\": PgBouncer 1.21 or newer \
             with max_prepared_statements, or their mode for poolers",
        ),
        (false, _) => Check::well(
            Step::Statements,
            format!("{untracked}, and keeps the session on one server"),
        ),
    })
}

async fn tracks_statements(config: &Settings) -> Result<bool> {
    let database = internal::database(config.clone())?;
    let session = open_strictly(&database, Manner::USUAL.named()).await?;
    // In one transaction it is one server.
    session.batch_execute("begin").await?;
    let text = format!(
        "select 1 /* antifreeze doctor {:x} */",
        internal::random_number()
    );
    let statement = session.prepare(&text).await?;
    let sql = format!("select name from pg_prepared_statements where statement = '{text}'");
    let names = session.simple_query(&sql).await;
    drop(statement);
    session.batch_execute("rollback").await?;
    session.close(GOODBYE).await;
    let name = first(&names?);
    // tokio-postgres numbers its own: s0, s1, ..
    let ours = |name: &str| {
        let number = name.strip_prefix('s').unwrap_or_default();
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    };
    Ok(name.is_some_and(|name| !ours(&name)))
}

/// Whether what one client SETs reaches the next that gets the same server. A setting that
/// nobody reads is taken, and removed again.
pub(super) async fn session_state(session: &Session, config: &Settings) -> Option<Check> {
    match leaks(session, config).await {
        Err(error) => Some(unseen(Step::SessionState, &error)),
        Ok(None) => Some(Check::note(
            Step::SessionState,
            "another server was given each time: whether SET reaches other clients was not seen",
        )),
        Ok(Some(false)) => Some(Check::well(
            Step::SessionState,
            "what one client SETs does not reach another",
        )),
        Ok(Some(true)) => {
            let text = "what one client SETs reaches the next that gets its server";
            let remedy = "SET LOCAL, or set_config(.., true), inside a transaction; for PgBouncer \
                          server_reset_query_always=1 is dear and only half a cure";
            Some(match config.pooler {
                Pooler::Transaction => Check::note(Step::SessionState, text).remedied(remedy),
                _ => Check::finding(
                    Step::SessionState,
                    text,
                    "set server_reset_query = DISCARD ALL, PgBouncer's default",
                ),
            })
        }
    }
}

/// `None` if no two clients were given the same server.
async fn leaks(session: &Session, config: &Settings) -> Result<Option<bool>> {
    let database = internal::database(config.clone())?;
    let mark = format!("{:x}", internal::random_number());
    let set = format!("set antifreeze.doctor = '{mark}'; select pg_backend_pid()");
    let look = "select pg_backend_pid() || ' ' || \
                coalesce(current_setting('antifreeze.doctor', true), ''); reset antifreeze.doctor";
    for _ in 0..3 {
        let other = open(&database).await?;
        let set_on = first(&other.simple_query(&set).await?).unwrap_or_default();
        other.close(GOODBYE).await;
        let seen = match config.pooler {
            Pooler::Transaction => first(&session.simple_query(look).await?),
            // The one that we have keeps its own server.
            _ => {
                let next = open(&database).await?;
                let seen = first(&next.simple_query(look).await?);
                next.close(GOODBYE).await;
                seen
            }
        };
        let seen = seen.unwrap_or_default();
        let (pid, value) = seen.split_once(' ').unwrap_or((&seen, ""));
        if pid == set_on {
            return Ok(Some(value == mark));
        }
    }
    Ok(None)
}

fn unseen(step: Step, error: &Error) -> Check {
    let (text, remedy) = super::reach::parted(error);
    Check::note(step, format!("not seen: {text}")).remedied(remedy)
}

fn first(messages: &[SimpleQueryMessage]) -> Option<String> {
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}

/// Whether most slots are held by who does nothing.
pub(super) fn would_serve(facts: &Facts, config: &Settings) -> Option<Check> {
    if config.pooler != Pooler::None {
        return None;
    }
    let clients = facts.clients().filter(|session| !session.is_self);
    let clients: Vec<_> = clients.collect();
    let idle = clients
        .iter()
        .filter(|session| session.state.as_deref() == Some("idle"));
    let idle = idle.count();
    let open = facts.max - facts.held_back;
    let crowded = clients.len() as f64 >= open as f64 * CROWDED;
    if crowded && idle * 2 > clients.len() {
        return Some(Check::finding(
            Step::Pooler,
            format!(
                "{idle} of {} sessions hold a slot and do nothing",
                clients.len()
            ),
            "a pooler in transaction mode gives them none until they work; Neon has one at \
             the host with -pooler, Supabase at port 6543",
        ));
    }
    Some(Check::well(
        Step::Pooler,
        "none needed: slots are to be had",
    ))
}
