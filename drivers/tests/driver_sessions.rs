//! Sessions of the server behind a driver's connections: what the driver has asked for holds, and
//! what it has been told is not stale.

use std::time::Duration;

use antifreeze::{Config, Database, DatabaseLayer, invocation};
use bytes::Bytes;
use futures_util::{TryStreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use lab::postgres::{self, Postgres};
use lab::sessions;
use sea_orm::ConnectionTrait;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{Connection, Executor, Row, query_scalar};
use tower::{Layer, ServiceExt};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const DEADLINE: Duration = Duration::from_secs(60);

async fn lab(set: impl FnOnce(Config) -> Config) -> (Database, postgres::Database) {
    let postgres = Postgres::shared().await.expect("a server");
    let server = postgres.fresh_database().await.expect("a database");
    server.execute(drivers::TABLES).await.expect("tables");
    server
        .execute("create schema app; create table app.t (a int)")
        .await
        .expect("a schema");
    let url = format!("{}?sslmode=disable", server.url);
    let config: Config = url.parse().expect("a URL");
    let database = Database::new(set(config)).expect("a database");
    (database, server)
}

async fn run<T>(
    database: &Database,
    work: impl Future<Output = Result<T, BoxError>>,
) -> Result<T, BoxError> {
    database.invocation(DEADLINE, work).await
}

async fn search_path(pool: &PgPool) -> Result<String, BoxError> {
    Ok(query_scalar("show search_path").fetch_one(pool).await?)
}

/// Asked for at the start: another pool does not see it, and no session is reset for it.
#[tokio::test]
async fn sqlx_options_are_part_of_the_session() {
    let (database, server) = lab(|config| config.max_connections(1)).await;
    let url = database.url().expect("a URL");
    let options: PgConnectOptions = url.parse().expect("options");
    let options = options.options([("search_path", "app")]);
    let pool = PgPoolOptions::new().connect_lazy_with(options);
    let other = PgPoolOptions::new().connect_lazy(&url).expect("a pool");
    for _ in 0..3 {
        let seen = run(&database, async {
            Ok((search_path(&pool).await?, search_path(&other).await?))
        });
        let (seen, others) = seen.await.expect("fine");
        assert_eq!(seen, "app");
        assert_ne!(others, "app");
    }
    let left = sessions::sessions(&server).await.expect("an answer");
    assert_eq!(left.len(), 1, "{left:?}");
}

/// Warm-up opens its connection where the URL leads to, if that was asked for before.
#[tokio::test]
async fn warm_up_after_the_url_is_for_drivers() {
    for (url_first, expected) in [(true, 1), (false, 2)] {
        let (database, server) = lab(|config| config.max_connections(1)).await;
        if url_first {
            database.url().expect("a URL");
        }
        database.warm_up().required().await.expect("warm");
        let pool = PgPoolOptions::new().connect_lazy(&database.url().expect("a URL"));
        let pool = pool.expect("a pool");
        run(&database, search_path(&pool)).await.expect("fine");
        let left = sessions::sessions(&server).await.expect("an answer");
        assert_eq!(left.len(), expected, "{left:?}");
    }
}

/// Set in a hook of the pool: it costs a reset, but no connection lacks it.
#[tokio::test]
async fn sqlx_after_connect_holds_in_each_invocation() {
    let (database, _server) = lab(|config| config.max_connections(1)).await;
    let options = PgPoolOptions::new().after_connect(|connection, _| {
        Box::pin(async move {
            let set = connection.execute("set search_path = app");
            set.await.map(|_| ())
        })
    });
    let url = database.url().expect("a URL");
    let pool = options.connect_lazy(&url).expect("a pool");
    for _ in 0..3 {
        let seen = run(&database, search_path(&pool)).await.expect("fine");
        assert_eq!(seen, "app");
    }
}

#[tokio::test]
async fn sea_orm_connects_by_the_url() {
    let (database, _server) = lab(|config| config).await;
    let url = database.url().expect("a URL");
    run(&database, async {
        let connection = sea_orm::Database::connect(url).await?;
        connection
            .execute_unprepared("insert into t values (1)")
            .await?;
        Ok(())
    })
    .await
    .expect("fine");
}

/// More of the pool's connections than antifreeze has: the one too many waits, and is told what
/// `connection()` says.
#[tokio::test]
async fn sqlx_pool_queues_for_the_connections() {
    let limits = |config: Config| {
        let config = config.max_connections(1);
        config.acquire_timeout(Duration::from_secs(1))
    };
    let (database, _server) = lab(limits).await;
    let url = database.url().expect("a URL");
    let pool = PgPoolOptions::new().connect_lazy(&url).expect("a pool");
    let error = run(&database, async {
        let mut first = pool.begin().await?;
        first.execute("insert into t values (1)").await?;
        let refused = query_scalar::<_, i32>("select 1").fetch_one(&pool).await;
        first.commit().await?;
        query_scalar::<_, i32>("select 1").fetch_one(&pool).await?;
        Ok(refused.expect_err("there is one connection"))
    });
    let error = error.await.expect("the rest is fine");
    let error = error.into_database_error().expect("told by ErrorResponse");
    assert_eq!(error.code().as_deref(), Some("53300"), "{error:?}");
    assert!(error.message().contains("max_connections"), "{error:?}");
}

const STAR: &str = "select * from t";

async fn sqlx_columns() -> Result<usize, BoxError> {
    let mut connection = PgConnection::connect(&invocation()?.url()?).await?;
    let row = sqlx::query(STAR).fetch_one(&mut connection).await?;
    Ok(row.len())
}

/// A table that changes between invocations and within one: the next statement may fail once, as
/// one that a connection has prepared does without antifreeze. No row is ever wrong.
#[tokio::test]
async fn altered_table_fails_once_at_most() {
    let (database, server) = lab(|config| config.max_connections(1)).await;
    let row = server.execute("insert into t values (1)");
    row.await.expect("a row");
    let mut columns = 1;
    let mut alter = async || {
        let add = format!("alter table t add column b{columns} text");
        server.execute(&add).await.expect("altered");
        columns += 1;
        columns
    };
    let again = async |expected: usize| -> Result<(), BoxError> {
        match sqlx_columns().await {
            Ok(columns) => assert_eq!(columns, expected),
            Err(error) => {
                let error = error.downcast::<sqlx::Error>()?;
                let code = error.as_database_error().and_then(|error| error.code());
                assert_eq!(code.as_deref(), Some("0A000"), "{error}");
            }
        }
        for _ in 0..2 {
            assert_eq!(sqlx_columns().await?, expected);
        }
        Ok(())
    };
    run(&database, again(1)).await.expect("fine");
    for _ in 0..2 {
        let between = alter().await;
        run(&database, async {
            again(between).await?;
            again(alter().await).await
        })
        .await
        .expect("it fails once");
    }
}

/// The same text in another schema is another statement.
#[tokio::test]
async fn search_path_decides_what_is_read() {
    let (database, server) = lab(|config| config.max_connections(1)).await;
    server
        .execute(
            "drop table app.t; create table app.t (b text); \
             insert into app.t values ('x'); insert into t values (1)",
        )
        .await
        .expect("rows");
    for path in ["public", "app", "public"] {
        run(&database, async {
            let mut connection = PgConnection::connect(&invocation()?.url()?).await?;
            let set = sqlx::AssertSqlSafe(format!("set search_path = {path}"));
            connection.execute(sqlx::raw_sql(set)).await?;
            let row = sqlx::query(STAR).fetch_one(&mut connection).await?;
            if path == "app" {
                assert_eq!(row.try_get::<String, _>(0)?, "x");
            } else {
                assert_eq!(row.try_get::<i32, _>(0)?, 1);
            }
            Ok(())
        })
        .await
        .expect("no error that the driver alone would not have");
    }
}

/// A connection of the driver leaves a statement of SQL's PREPARE, and its session forgets all
/// statements. One that was not concerned prepares anew.
#[tokio::test]
async fn statements_outlive_what_another_leaves() {
    let (database, server) = lab(|config| config.max_connections(1)).await;
    let url = database.url().expect("a URL");
    let pool = PgPoolOptions::new().connect_lazy(&url).expect("a pool");
    for _ in 0..3 {
        run(&database, async {
            search_path(&pool).await?;
            let mut other = PgConnection::connect(&url).await?;
            other
                .execute(sqlx::raw_sql("prepare x as select 1"))
                .await?;
            std::mem::forget(other);
            Ok(())
        })
        .await
        .expect("fine");
    }
    let left = sessions::sessions(&server).await.expect("an answer");
    assert_eq!(left.len(), 1, "{left:?}");
}

/// A body that reads while it is sent, inside a transaction that it never ends: its invocation
/// ends with it, read to its end or dropped half-way.
#[tokio::test]
async fn streamed_body_ends_with_its_session_at_rest() {
    let (database, server) = lab(|config| config).await;
    let handler = async |_: Request<()>| {
        let mut connection = PgConnection::connect(&invocation()?.url()?).await?;
        let begin = "begin; insert into t values (1)";
        connection.execute(sqlx::raw_sql(begin)).await?;
        let rows = stream::try_unfold((connection, 0), async |(mut connection, at)| {
            if at == 3 {
                std::mem::forget(connection);
                return Ok::<_, BoxError>(None);
            }
            let read = query_scalar("select $1::int::text").bind(at);
            let read: String = read.fetch_one(&mut connection).await?;
            let frame = Frame::data(Bytes::from(read));
            Ok(Some((frame, (connection, at + 1))))
        });
        let body = StreamBody::new(rows.map_err(BoxError::from));
        Ok::<_, BoxError>(Response::new(invocation()?.stream(body)))
    };
    let service = DatabaseLayer::new(database).layer(tower::service_fn(handler));
    let ask = async || {
        let response = service.clone().oneshot(Request::new(())).await;
        response.expect("a response").into_body()
    };
    let read = ask().await.collect().await.expect("read to its end");
    assert_eq!(read.to_bytes(), "012");
    let at_rest = async || {
        let left = sessions::sessions(&server).await.expect("an answer");
        left.iter().all(|session| session.state == "idle")
    };
    assert!(at_rest().await);

    let mut body = Box::pin(ask().await);
    assert!(body.frame().await.is_some());
    assert!(!at_rest().await);
    drop(body);
    // Dropping waits for nothing.
    let rests = async {
        while !at_rest().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let rests = tokio::time::timeout(Duration::from_secs(20), rests).await;
    rests.expect("it comes to rest");
    assert_eq!(sessions::rows(&server).await.expect("a count"), "0");
}
