//! Diesel for `lab compare`, as its own documentation shows it: the endings of
//! `lab/src/bin/libraries`, alone with a pool, and behind antifreeze with a connection for each
//! use.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `LIBRARY` | `Diesel` or `Diesel behind antifreeze` |
//! | `RUNTIME` | `current_thread`, or `multi_thread` (default) |
//! | `STOP` | if set: the process stops itself when the handler has returned |
//! | `DATABASE_URL` | the database |

#[path = "../../../../lab/src/bin/libraries/ending.rs"]
mod ending;
#[path = "../../../../lab/src/bin/libraries/stop.rs"]
mod stop;

use std::ops::DerefMut;
use std::sync::mpsc;

use antifreeze::{Database, DatabaseLayer};
use diesel::connection::{SimpleConnection, TransactionManager};
use diesel::pg::PgRowByRowLoadingMode;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool};
use diesel::sql_query;
use diesel::sql_types::Text;
use ending::{BoxError, Ending, FAILS, INSERT, LOCK, PATIENCE, SLEEP, asked, ended};
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::Value;
use stop::StopsWhenReturned;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tower::ServiceBuilder;

type Manager = <PgConnection as Connection>::TransactionManager;

/// Not without an end: libpq reads what is left when a result is dropped.
const MANY: &str =
    "select repeat('x', 1000) as a from generate_series(1, 20000) left join t on true";

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    #[allow(dead_code, reason = "it is read, and not looked at")]
    a: String,
}

fn main() -> Result<(), BoxError> {
    let mut runtime = match variable("RUNTIME").as_str() {
        "current_thread" => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime.enable_all().build()?.block_on(serve())
}

async fn serve() -> Result<(), BoxError> {
    if variable("LIBRARY") == "Diesel behind antifreeze" {
        return serve_behind().await;
    }
    let manager = ConnectionManager::<PgConnection>::new(variable("DATABASE_URL"));
    let pool = Pool::builder().max_size(1).build(manager)?;
    let service = service_fn(move |event| {
        let pool = pool.clone();
        async move { handle(event, move || Ok(pool.get()?)).await }
    });
    lambda_runtime::run(StopsWhenReturned(service)).await
}

async fn serve_behind() -> Result<(), BoxError> {
    let database = Database::from_env()?;
    database.url()?;
    database.warm_up().await?;
    let service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(database))
        .service_fn(async |event| {
            let url = antifreeze::invocation()?.url()?;
            handle(event, move || Ok(Box::new(PgConnection::establish(&url)?))).await
        });
    lambda_runtime::run(StopsWhenReturned(service)).await
}

/// Ends as it is told, in a thread for blocking work.
async fn handle<C>(
    event: LambdaEvent<Value>,
    connect: impl FnOnce() -> Result<C, BoxError> + Send + 'static,
) -> Result<Value, BoxError>
where
    C: DerefMut<Target = PgConnection> + Send + 'static,
{
    let ending = asked(&event)?;
    let (sent, sends) = oneshot::channel();
    let mut work = tokio::task::spawn_blocking(move || run(ending, connect()?, sent));
    if ending != Ending::StatementTimedOut {
        work.await??;
        return ended();
    }
    sends.await?;
    match timeout(PATIENCE, &mut work).await {
        Ok(done) => done??,
        Err(late) => {
            ending.is_reached();
            return Err(late.into());
        }
    }
    ended()
}

/// Sends to `sent` when its last statement is all that is left to be done.
fn run<C>(ending: Ending, mut held: C, sent: oneshot::Sender<()>) -> Result<(), BoxError>
where
    C: DerefMut<Target = PgConnection> + Send + 'static,
{
    let connection = &mut *held;
    match ending {
        Ending::Returns => {
            connection.transaction(|connection| connection.batch_execute(INSERT))?;
            ending.is_reached();
        }
        Ending::TransactionDropped => {
            Manager::begin_transaction(connection)?;
            connection.batch_execute(INSERT)?;
            ending.is_reached();
            return Err("early".into());
        }
        Ending::Panics => connection.transaction::<(), BoxError, _>(|connection| {
            connection.batch_execute(INSERT)?;
            ending.is_reached();
            panic!("as it was asked to");
        })?,
        Ending::TransactionForgotten => {
            Manager::begin_transaction(connection)?;
            connection.batch_execute(INSERT)?;
            ending.is_reached();
            std::mem::forget(held);
        }
        Ending::BeginByHand => {
            connection.batch_execute("begin")?;
            connection.batch_execute(INSERT)?;
            ending.is_reached();
        }
        Ending::FailedStatement => {
            connection.batch_execute("begin")?;
            connection.batch_execute(INSERT)?;
            if connection.batch_execute(FAILS).is_err() {
                ending.is_reached();
            }
        }
        Ending::TaskInTransaction => {
            let (begun, beginning) = mpsc::channel();
            std::thread::spawn(move || {
                let connection = &mut *held;
                if Manager::begin_transaction(connection).is_ok()
                    && connection.batch_execute(INSERT).is_ok()
                {
                    let _ = begun.send(());
                    loop {
                        std::thread::park();
                    }
                }
            });
            beginning.recv()?;
            ending.is_reached();
        }
        Ending::RowsDropped => {
            let mut rows = sql_query(MANY).load_iter::<Row, PgRowByRowLoadingMode>(connection)?;
            if rows.next().transpose()?.is_some() {
                ending.is_reached();
            }
        }
        Ending::StatementTimedOut => connection.transaction(|connection| {
            connection.batch_execute(INSERT)?;
            let _ = sent.send(());
            connection.batch_execute(SLEEP)
        })?,
        Ending::AdvisoryLock => {
            connection.batch_execute(LOCK)?;
            ending.is_reached();
        }
    }
    Ok(())
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}
