//! How a handler ends, whatever library it uses.

use std::time::Duration;

use lambda_runtime::LambdaEvent;
use serde_json::{Value, json};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How a handler ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As it should.
    Returns,
    /// By `?`, with a transaction of the library's open.
    TransactionDropped,
    /// By a panic, inside one.
    Panics,
    /// With one that is never dropped.
    TransactionForgotten,
    /// After a BEGIN of its own.
    BeginByHand,
    /// After a BEGIN of its own and a statement that failed.
    FailedStatement,
    /// With a task that is still inside its transaction.
    TaskInTransaction,
    /// With a large result dropped half-way.
    RowsDropped,
    /// With a statement that it gave up after a timeout.
    StatementTimedOut,
    /// With a lock that belongs to the session.
    AdvisoryLock,
}

impl Ending {
    const ALL: [(Ending, &str); 10] = [
        (Ending::Returns, "returns"),
        (Ending::TransactionDropped, "transaction dropped"),
        (Ending::Panics, "panic in a transaction"),
        (Ending::TransactionForgotten, "transaction leaked"),
        (Ending::BeginByHand, "BEGIN as SQL"),
        (Ending::FailedStatement, "BEGIN as SQL, then a failure"),
        (Ending::TaskInTransaction, "task in its transaction"),
        (Ending::RowsDropped, "result not read to its end"),
        (Ending::StatementTimedOut, "statement timed out"),
        (Ending::AdvisoryLock, "advisory lock"),
    ];

    /// Says that the handler has come as far as this: a failure before it would look
    /// like a session that nobody left stuck.
    pub fn is_reached(self) {
        let mut names = Ending::ALL.iter().filter(|(ending, _)| *ending == self);
        println!("reached: {}", names.next().map_or("", |(_, name)| name));
    }
}

pub const INSERT: &str = "insert into t values (1)";
pub const FAILS: &str = "select 1 / 0";
pub const LOCK: &str = "select pg_advisory_lock(1)";
pub const SLEEP: &str = "select pg_sleep(600)";
#[allow(dead_code, reason = "libpq reads the rest of a result that is dropped")]
pub const ENDLESS: &str = "select repeat('x', 1000) \
                       from pg_class a, pg_class b, pg_class c left join t on true";

/// When a statement is given up.
pub const PATIENCE: Duration = Duration::from_millis(20);

/// What an event asks for.
pub fn asked(event: &LambdaEvent<Value>) -> Result<Ending, BoxError> {
    let asked = event.payload["ending"].as_str().unwrap_or_default();
    let mut endings = Ending::ALL.iter().filter(|(_, name)| *name == asked);
    let ending = endings.next().map(|(ending, _)| *ending);
    ending.ok_or_else(|| format!("there is no ending {asked:?}").into())
}

pub fn ended() -> Result<Value, BoxError> {
    Ok(json!("ended"))
}
