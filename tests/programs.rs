//! Random programs of everything that tokio-postgres can do: after every step the
//! wire and `pg_stat_activity` agree on where the session stands.

mod common;

use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

use antifreeze::invocation::TransactionStatus;
use antifreeze::{Config, Connection, connection, invocation};
use bytes::Bytes;
use common::{BoxError, Lab, poll_at_most};
use futures_util::{SinkExt, StreamExt};
use lab::postgres::{Auth, Postgres};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls};

/// One thing that a handler may do to its client.
#[derive(Debug, Clone, Copy)]
enum Step {
    Simple(&'static str),
    Query(&'static str),
    Typed,
    Cached,
    Pipelined,
    HalfRead,
    Portal(End),
    Transaction(End),
    CopyIn(End),
    CopyOut(End),
    Sync,
}

/// How a COPY ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Well,
    Dropped,
    Badly,
}

/// A step, and after how many polls its future is dropped, if it is.
type Cut = (Step, Option<usize>);

fn step() -> impl Strategy<Value = Step> {
    let simple = prop::sample::select(vec![
        "begin",
        "start transaction isolation level serializable",
        "commit",
        "rollback",
        "commit and chain",
        "savepoint s",
        "rollback to savepoint s",
        "release savepoint s",
        "select 1 / 0",
        "nonsense",
        "",
        ";;",
        "select 1; select 2; insert into t values (1)",
        "insert into t values (1); select 1 / 0; insert into t values (2)",
        "begin; insert into t values (1); commit; select 1",
        "begin; select 1 / 0",
        "set local work_mem = '7MB'",
        "set work_mem = '7MB'",
        "listen a; notify a",
        "do $$ begin raise notice 'hello'; end $$",
        "select repeat('x', 100) from generate_series(1, 20000)",
        "declare c cursor for select 1; fetch c",
        "create temp table if not exists w (a int)",
    ]);
    let query = prop::sample::select(vec![
        "select 1",
        "insert into t values (1)",
        "select 1 / 0",
        "nonsense",
        "begin",
        "commit",
        "rollback",
        "select pg_sleep(0.002)",
        "select generate_series(1, 5000)",
    ]);
    let end = || prop::sample::select(vec![End::Well, End::Dropped, End::Badly]);
    prop_oneof![
        6 => simple.prop_map(Step::Simple),
        4 => query.prop_map(Step::Query),
        1 => Just(Step::Typed),
        1 => Just(Step::Cached),
        2 => Just(Step::Pipelined),
        1 => Just(Step::HalfRead),
        1 => end().prop_map(Step::Portal),
        2 => end().prop_map(Step::Transaction),
        2 => end().prop_map(Step::CopyIn),
        1 => end().prop_map(Step::CopyOut),
        1 => Just(Step::Sync),
    ]
}

fn program() -> impl Strategy<Value = Vec<Cut>> {
    let cut = prop_oneof![3 => Just(None), 1 => (1usize..6).prop_map(Some)];
    prop::collection::vec((step(), cut), 1..16)
}

/// Does it; errors are part of the program.
async fn perform(connection: &Connection, step: Step) -> Result<(), BoxError> {
    let client: &Client = connection;
    let none = std::iter::empty::<i32>;
    match step {
        Step::Simple(text) => client.batch_execute(text).await?,
        Step::Query(text) => drop(client.query(text, &[]).await?),
        Step::Typed => drop(
            client
                .query_typed("select $1", &[(&1i32, Type::INT4)])
                .await?,
        ),
        Step::Cached => {
            let statement = connection.prepare_cached("select $1::int").await?;
            client.query(&statement, &[&1i32]).await?;
        }
        Step::Pipelined => {
            let _ = futures_util::join!(
                client.batch_execute("begin"),
                client.query_typed("select 1 / 0", &[]),
                client.batch_execute("insert into t values (1)"),
                client.query("select 1", &[]),
            );
        }
        Step::HalfRead => {
            let query = "select generate_series(1, 20000)";
            let mut rows = pin!(client.query_raw(query, none()).await?);
            for _ in 0..3 {
                rows.next().await.transpose()?;
            }
        }
        // Those want a client of their own: below.
        Step::Portal(_) | Step::Transaction(_) => {}
        Step::CopyIn(end) => {
            let mut sink = pin!(client.copy_in("copy t from stdin").await?);
            match end {
                End::Well => {
                    sink.send(Bytes::from_static(b"1\n2\n")).await?;
                    sink.finish().await?;
                }
                End::Dropped => sink.send(Bytes::from(vec![b'1'; 9000])).await?,
                End::Badly => {
                    sink.send(Bytes::from_static(b"no number\n")).await?;
                    sink.finish().await?;
                }
            }
        }
        Step::CopyOut(end) => {
            let query = match end {
                End::Badly => "copy (select 1 / (a - 3) from generate_series(1, 9) a) to stdout",
                _ => "copy (select generate_series(1, 20000)) to stdout",
            };
            let mut stream = pin!(client.copy_out(query).await?);
            while let Some(chunk) = stream.next().await {
                chunk?;
                if matches!(end, End::Dropped) {
                    break;
                }
            }
        }
        Step::Sync => client.check_connection().await?,
    }
    Ok(())
}

/// The same with what wants the client for itself.
async fn perform_alone(connection: &mut Connection, step: Step) -> Result<(), BoxError> {
    match step {
        Step::Portal(end) => {
            let transaction = connection.transaction().await?;
            let portal = transaction
                .bind("select generate_series(1, 10)", &[])
                .await?;
            transaction.query_portal(&portal, 3).await?;
            match end {
                End::Well => {
                    transaction.query_portal(&portal, 0).await?;
                    transaction.commit().await?;
                }
                End::Dropped => {}
                End::Badly => drop(transaction.query("select 1 / 0", &[]).await?),
            }
        }
        Step::Transaction(end) => {
            let mut transaction = connection.transaction().await?;
            let savepoint = transaction.savepoint("own").await?;
            savepoint.execute("insert into t values (1)", &[]).await?;
            match end {
                End::Well => {
                    savepoint.commit().await?;
                    transaction.commit().await?;
                }
                End::Dropped => {
                    drop(savepoint);
                    std::mem::forget(transaction);
                }
                End::Badly => drop(savepoint.query("select 1 / 0", &[]).await?),
            }
        }
        other => perform(connection, other).await?,
    }
    Ok(())
}

/// Runs `future` to its end, or drops it after so many polls.
async fn maybe_cut<F: Future>(polls: Option<usize>, future: F) {
    match polls {
        Some(polls) => drop(poll_at_most(polls, future).await),
        None => drop(future.await),
    }
}

fn as_the_server_says(status: TransactionStatus) -> &'static str {
    match status {
        TransactionStatus::Idle => "idle",
        TransactionStatus::InTransaction => "idle in transaction",
        TransactionStatus::Failed => "idle in transaction (aborted)",
        other => unreachable!("{other:?}"),
    }
}

/// Waits until the wire says that nothing is under way; `None` if the connection
/// ended.
async fn settled(connection: &Connection) -> Result<Option<TransactionStatus>, BoxError> {
    for _ in 0..5_000 {
        if let Some(status) = connection.transaction_status() {
            return Ok(Some(status));
        }
        if connection.is_closed() {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Err("it never settles".into())
}

/// Runs a program and answers after how many of its steps both could be asked; an
/// error is a disagreement.
async fn run(
    lab: &Lab,
    observer: &Client,
    program: &[Cut],
    lazily: bool,
) -> Result<usize, BoxError> {
    let compared = Cell::new(0);
    // The reading of the slots runs behind a statement, outside any transaction, and the server's
    // timeouts are set behind the start-up.
    let seen = "select case when state = 'active' and (query like '%pg_stat_get_activity%' \
                or query like 'SET %') then 'idle' \
                else state end from pg_stat_activity where pid = $1";
    let compare = async |connection: &Connection, step: &Cut| {
        let Some(status) = settled(connection).await? else {
            return Ok::<_, BoxError>(false);
        };
        let row = observer
            .query_one(seen, &[&connection.process_id()])
            .await?;
        let state: String = row.try_get(0)?;
        match state == as_the_server_says(status) {
            true => {
                compared.set(compared.get() + 1);
                Ok(true)
            }
            false => Err(format!("after {step:?}: {status:?} here, {state:?} there").into()),
        }
    };
    lab.run(async {
        if lazily {
            let transaction = invocation()?.transaction().await?;
            for (step, polls) in program {
                maybe_cut(*polls, perform(transaction.as_ref(), *step)).await;
                if !compare(transaction.as_ref(), &(*step, *polls)).await? {
                    break;
                }
            }
            // What became of it is not the point here.
            invocation()?.fail();
        } else {
            let mut connection = connection().await?;
            for (step, polls) in program {
                maybe_cut(*polls, perform_alone(&mut connection, *step)).await;
                if !compare(&connection, &(*step, *polls)).await? {
                    break;
                }
            }
        }
        Ok(())
    })
    .await?;
    if !lab.is_acknowledged() {
        lab.eventually("all sessions are idle, or gone", async |lab| {
            lab.sessions().await.iter().all(|state| state == "idle")
        })
        .await;
    }
    lab.torn_down();
    for state in lab.sessions().await {
        if state != "idle" {
            return Err(format!("left {state:?}").into());
        }
    }
    Ok(compared.get())
}

/// How the server knows prepared statements.
#[derive(Debug, Clone, Copy)]
enum Statements {
    Named,
    Unnamed,
    Reused,
}

/// Runs many programs against a server of its own.
fn never_disagree(tls: bool, statements: Statements, lazily: bool) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (lab, observer, _server) = runtime.block_on(async {
        let server = Postgres::builder()
            .tls(tls)
            .auth(Auth::Scram)
            .start()
            .await
            .expect("a server");
        let database = server
            .create_database("programs")
            .await
            .expect("a database");
        database
            .execute("create table t (a int)")
            .await
            .expect("a table");
        let url = match server.certificate_authority() {
            Some(roots) => format!(
                "{}?sslmode=verify-full&sslrootcert={}&channel_binding=require",
                database.url,
                roots.display()
            ),
            None => format!("{}?sslmode=disable", database.url),
        };
        let lab = Lab::over(database.clone(), &url, |config: Config| match statements {
            Statements::Named => config,
            Statements::Unnamed => config.pooler(antifreeze::config::Pooler::Transaction),
            Statements::Reused => config.reuse_statements(true),
        });
        let (observer, driver) = tokio_postgres::connect(&database.url, NoTls)
            .await
            .expect("an observer");
        tokio::spawn(driver);
        (lab, observer, server)
    });
    let config = ProptestConfig {
        // PROPTEST_CASES asks for more.
        cases: match std::env::var_os("PROPTEST_CASES") {
            Some(_) => ProptestConfig::default().cases,
            None => 60,
        },
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let (compared, steps) = (Cell::new(0), Cell::new(0));
    TestRunner::new(config)
        .run(&program(), |program| {
            let all = runtime
                .block_on(run(&lab, &observer, &program, lazily))
                .map_err(|error| TestCaseError::fail(error.to_string()))?;
            compared.set(compared.get() + all);
            steps.set(steps.get() + program.len());
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    // A connection that has ended is asked no more: that few come to that is part of
    // the proof.
    let (compared, steps) = (compared.get(), steps.get());
    assert!(
        4 * compared > 3 * steps,
        "only {compared} of {steps} steps were compared"
    );
}

#[test]
fn random_programs_in_plain_text_agree() {
    never_disagree(false, Statements::Named, false);
}

#[test]
fn random_programs_under_tls_agree() {
    never_disagree(true, Statements::Named, false);
}

#[test]
fn random_programs_with_unnamed_statements_agree() {
    never_disagree(false, Statements::Unnamed, false);
}

#[test]
fn random_programs_in_lazy_transactions_agree() {
    never_disagree(false, Statements::Named, true);
}

#[test]
fn random_programs_with_both_rewrites_agree() {
    never_disagree(true, Statements::Unnamed, true);
}

#[test]
fn random_programs_with_reused_statements_agree() {
    never_disagree(false, Statements::Reused, true);
}
