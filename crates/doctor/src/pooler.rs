//! Checks how a pooler treats sessions, and whether one is needed.

use antifreeze::config::{Origin, Pooler, Settings};
use antifreeze::internal::{self, ConnectOptions};
use antifreeze::{Error, Result, Session};
use tokio_postgres::SimpleQueryMessage;

use super::CROWDED;
use super::configuration;
use super::facts::Facts;
use super::report::{Check, Step};
use super::session::{CLOSE_TIMEOUT, open, open_strictly};

/// Checks whether the pooler tracks prepared statements across servers. A pooler that does
/// renames them; one that does not passes the client's names through, which may collide
/// with those of another client on the same server.
pub(super) async fn statements(config: &Settings) -> Option<Check> {
    let tracked = match tracks_statements(config).await {
        Ok(tracked) => tracked,
        Err(error) => return Some(not_tested(Step::Statements, &error)),
    };
    let untracked = "the pooler passes the names of prepared statements through unchanged";
    Some(match (tracked, config.pooler) {
        (true, _) => Check::ok(
            Step::Statements,
            "the pooler tracks prepared statements across servers",
        ),
        (false, Pooler::Transaction) => Check::note(
            Step::Statements,
            format!("{untracked}; antifreeze sends its statements unnamed here"),
        )
        .remedied(
            "other drivers may fail with \"prepared statement already exists\": use PgBouncer \
             1.21 or newer with max_prepared_statements, or the driver's pooler mode",
        ),
        (false, _) => Check::ok(
            Step::Statements,
            format!("{untracked}, and keeps each session on one server"),
        ),
    })
}

async fn tracks_statements(config: &Settings) -> Result<bool> {
    let database = internal::database(config.clone())?;
    let options = ConnectOptions {
        named: true,
        ..ConnectOptions::DEFAULT
    };
    let session = open_strictly(&database, options).await?;
    // All statements of a transaction run on the same server.
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
    session.close(CLOSE_TIMEOUT).await;
    let name = first(&names?);
    // tokio-postgres numbers its statements: s0, s1, ..
    let is_drivers = |name: &str| {
        let number = name.strip_prefix('s').unwrap_or_default();
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    };
    Ok(name.is_some_and(|name| !is_drivers(&name)))
}

/// Checks whether session state that one client SETs reaches the next client on the same
/// server. It uses a custom setting that nothing reads, and resets it afterwards.
pub(super) async fn session_state(session: &Session, config: &Settings) -> Option<Check> {
    match leaks(session, config).await {
        Err(error) => Some(not_tested(Step::SessionState, &error)),
        Ok(None) => Some(Check::note(
            Step::SessionState,
            "not tested: the pooler assigned a different server each time",
        )),
        Ok(Some(false)) => Some(Check::ok(
            Step::SessionState,
            "session settings of one client do not reach another",
        )),
        Ok(Some(true)) => {
            let text = "session settings of one client reach the next client on the same server";
            let remedy = "use SET LOCAL or set_config(.., true) inside a transaction; PgBouncer's \
                          server_reset_query_always=1 adds a query to each transaction and does not \
                          cover all cases";
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

/// Returns whether a setting leaks; `None` if no two clients got the same server.
async fn leaks(session: &Session, config: &Settings) -> Result<Option<bool>> {
    let database = internal::database(config.clone())?;
    let mark = format!("{:x}", internal::random_number());
    let set = format!("set antifreeze.doctor = '{mark}'; select pg_backend_pid()");
    let read = "select pg_backend_pid() || ' ' || \
                coalesce(current_setting('antifreeze.doctor', true), ''); reset antifreeze.doctor";
    for _ in 0..3 {
        let other = open(&database).await?;
        let set_on = first(&other.simple_query(&set).await?).unwrap_or_default();
        other.close(CLOSE_TIMEOUT).await;
        let seen = match config.pooler {
            Pooler::Transaction => first(&session.simple_query(read).await?),
            // The open session keeps its server: read from a new one.
            _ => {
                let next = open(&database).await?;
                let seen = first(&next.simple_query(read).await?);
                next.close(CLOSE_TIMEOUT).await;
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

/// Reports that there is no pooler, although the configuration says so: a pooler gives its
/// clients process IDs of its own, so that the one of the start is not the server's.
pub(super) fn is_missing(session: &Session, facts: &Facts, config: &Settings) -> Option<Check> {
    let own = facts.sessions.iter().find(|session| session.is_self)?;
    (own.pid == session.process_id()).then(|| missing(config))
}

fn missing(config: &Settings) -> Check {
    let why = configuration::pooler_by_address(config);
    let (cause, remedy) = match (config.origin("pooler"), why) {
        (Some(Origin::Variable(name)), _) => (format!("of {name}"), format!("remove {name}")),
        (Some(_), _) => (
            "of the setting `pooler`".to_owned(),
            "remove the setting `pooler`".to_owned(),
        ),
        (None, Some(why)) => (
            format!("the address is that of a pooler ({why})"),
            "set ANTIFREEZE_POOLER=none".to_owned(),
        ),
        (None, None) => (
            "of pgbouncer=true in the URL".to_owned(),
            "remove pgbouncer=true in the URL".to_owned(),
        ),
    };
    Check::finding(
        Step::Path,
        format!(
            "the server answers itself and no pooler is in between: because {cause}, no timeouts \
             are sent and statements are not reused"
        ),
        remedy,
    )
}

/// The pools of PgBouncer that are exhausted.
struct Pool {
    name: String,
    /// Clients that have a server.
    active: u64,
    waiting: u64,
    /// How long the first has been waiting, in seconds.
    longest: u64,
    mode: String,
}

/// Asks PgBouncer itself whether clients wait for a server. Returns nothing if it is another
/// pooler, or if the role is not one of its `stats_users`.
pub(super) async fn held(config: &Settings) -> Vec<Check> {
    let Some(pools) = pools(config).await else {
        return Vec::new();
    };
    waiting(&pools)
}

/// Reports the pools whose clients have been waiting for a second: a client that waits for a
/// moment is what a pooler is for.
fn waiting(pools: &[Pool]) -> Vec<Check> {
    let waiting = pools
        .iter()
        .filter(|pool| pool.waiting > 0 && pool.longest > 0);
    let check = |pool: &Pool| {
        let Pool {
            name,
            active,
            waiting,
            longest,
            mode,
        } = pool;
        let text = format!(
            "clients of pool {name} wait for a server: {waiting}, the first for {longest} s; its \
             servers ({active}) are held by other clients (pool_mode {mode}, SHOW POOLS)"
        );
        let remedy = match mode.as_str() {
            "session" => {
                "set pool_mode = transaction in PgBouncer: a session pooler keeps a server for \
                 each client, idle or frozen, until that disconnects; LISTEN, SET and session \
                 advisory locks do not work in transaction mode"
            }
            _ => "antifreeze sessions --idle-in-transaction --older-than 10s --terminate",
        };
        Check::finding(Step::Pooler, text, remedy)
    };
    waiting.map(check).collect()
}

async fn pools(config: &Settings) -> Option<Vec<Pool>> {
    let mut config = config.clone();
    // The name of its console (its manual, "Admin console").
    config.server.dbname("pgbouncer");
    let database = internal::database(config).ok()?;
    let options = ConnectOptions {
        once: true,
        ..ConnectOptions::DEFAULT
    };
    let session = internal::open(internal::connector(&database), options)
        .await
        .ok()?;
    let messages = session.simple_query("SHOW POOLS").await.ok()?;
    session.close(CLOSE_TIMEOUT).await;
    let pools = messages.iter().filter_map(|message| {
        let SimpleQueryMessage::Row(row) = message else {
            return None;
        };
        let number = |name: &str| row.try_get(name).ok()??.parse::<u64>().ok();
        Some(Pool {
            name: format!(
                "{} of {}",
                row.try_get("database").ok()??,
                row.try_get("user").ok()??
            ),
            active: number("sv_active")?,
            waiting: number("cl_waiting")?,
            longest: number("maxwait")?,
            mode: row.try_get("pool_mode").ok()??.to_owned(),
        })
    });
    Some(pools.collect())
}

fn not_tested(step: Step, error: &Error) -> Check {
    let (text, remedy) = super::connect::cause_and_remedy(error);
    Check::note(step, format!("not tested: {text}")).remedied(remedy)
}

fn first(messages: &[SimpleQueryMessage]) -> Option<String> {
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}

/// Checks whether idle sessions hold most slots, so that a pooler would help.
pub(super) fn recommended(facts: &Facts, config: &Settings) -> Option<Check> {
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
                "{idle} of {} sessions are idle and each holds a slot",
                clients.len()
            ),
            "use a pooler in transaction mode: an idle client holds no slot there; Neon has one \
             at the host with -pooler, Supabase at port 6543",
        ));
    }
    Some(Check::ok(Step::Pooler, "not needed: slots are available"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_just_arrived_are_no_finding() {
        for (waiting, longest, expected) in [(0, 0, 0), (3, 0, 0), (3, 1, 1)] {
            let pool = Pool {
                name: "shop of app".to_owned(),
                active: 1,
                waiting,
                longest,
                mode: "session".to_owned(),
            };
            let checks = super::waiting(&[pool]);
            assert_eq!(checks.len(), expected, "{waiting} {longest}");
            for check in checks {
                let remedy = check.remedy.expect("a remedy");
                assert!(remedy.contains("LISTEN"), "{remedy}");
            }
        }
    }

    #[test]
    fn cause_of_a_missing_pooler_is_named() {
        for (url, cause, remedy) in [
            (
                "postgres://app@db.example.com:6432/shop",
                "by the port",
                "set ANTIFREEZE_POOLER=none",
            ),
            (
                "postgres://app@db.example.com/shop?pgbouncer=true",
                "because of pgbouncer=true in the URL",
                "remove pgbouncer=true in the URL",
            ),
        ] {
            let config = antifreeze::Config::from_url(url).expect("a configuration");
            let database = antifreeze::Database::new(config).expect("a database");
            let check = missing(database.settings());
            assert!(check.text.contains(cause), "{}", check.text);
            assert_eq!(check.remedy.as_deref(), Some(remedy));
        }
    }
}
