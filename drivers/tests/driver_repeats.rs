//! The lines about statements that sqlx executes again and again, and about what it leaves open.
//!
//! The subscriber is that of the process, as in a function: the drivers' sessions have a thread of
//! their own. So it is one test.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use antifreeze::{Config, Database, Error};
use lab::postgres::Postgres;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Executor, PgPool};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

type Fields = BTreeMap<&'static str, String>;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Fields>>>);

#[derive(Default)]
struct Read(Fields);

impl Visit for Read {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if metadata.target() == "antifreeze" && *metadata.level() <= Level::INFO {
            let mut read = Read::default();
            event.record(&mut read);
            self.0.lock().expect("no panic").push(read.0);
        }
    }
}

impl Lines {
    fn take(&self) -> Vec<Fields> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }
}

async fn invocation(
    database: &Database,
    work: impl AsyncFnOnce(&PgPool) -> Result<(), sqlx::Error>,
) {
    let url = database.url().expect("a socket");
    let pool = PgPoolOptions::new().max_connections(1);
    let pool = pool.connect_lazy(&url).expect("a URL");
    let work = async {
        work(&pool).await.expect("a statement");
        Ok::<_, Error>(())
    };
    let done = database.invocation(Duration::from_secs(20), work).await;
    done.expect("fine");
}

#[tokio::test]
async fn sqlx_is_told_of_repetitions_and_of_what_it_leaves() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::registry().with(lines.clone());
    tracing::subscriber::set_global_default(subscriber).expect("the only one");
    let server = Postgres::shared().await.expect("a server");
    let server = server.fresh_database().await.expect("a database");
    server
        .execute("create table t (a int)")
        .await
        .expect("a table");
    let config = Config::from_url(&server.url)
        .expect("a URL")
        .log_statements(true);
    let database = Database::new(config.slow_invocation(Duration::MAX)).expect("settings");
    lines.take();

    // Cached by sqlx, unnamed, and simple; 20 of each are not too many.
    for (times, reported) in [(20, false), (21, true), (30, false)] {
        invocation(&database, async |pool| {
            for value in 0..times {
                sqlx::query("select a from t where a = $1")
                    .bind(value)
                    .fetch_all(pool)
                    .await?;
            }
            Ok(())
        })
        .await;
        invocation(&database, async |pool| {
            for value in 0..times {
                let query = sqlx::query("select a from t where a > $1").bind(value);
                query.persistent(false).fetch_all(pool).await?;
            }
            Ok(())
        })
        .await;
        invocation(&database, async |pool| {
            for value in 0..times {
                let text = format!("select a from t where a < {value}");
                pool.execute(sqlx::raw_sql(AssertSqlSafe(text))).await?;
            }
            Ok(())
        })
        .await;
        let found = lines.take();
        let statements: Vec<_> = found
            .iter()
            .map(|line| line["statement"].as_str())
            .collect();
        let expected = ["=", ">", "<"].map(|sign| format!("select a from t where a {sign} ?"));
        if reported {
            assert_eq!(statements, expected);
            assert!(found.iter().all(|line| line["times"] == "21"), "{found:?}");
        } else {
            assert!(found.is_empty(), "{times}: {found:?}");
        }
    }

    // What it leaves open is named by its first statement, and not by BEGIN.
    invocation(&database, async |pool| {
        let mut transaction = pool.begin().await?;
        sqlx::query("insert into t values ($1)")
            .bind(7)
            .execute(&mut *transaction)
            .await?;
        std::mem::forget(transaction);
        Ok(())
    })
    .await;
    let found = lines.take();
    let [line] = found.as_slice() else {
        panic!("one line: {found:?}");
    };
    assert_eq!(line["left_open_at"], "another driver");
    assert_eq!(line["statement"], "insert into t values (?)");
    assert_eq!(line["outcome"], "rolled back");
}
