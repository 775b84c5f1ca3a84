//! The round trips to the server, counted by a relay in front of it: of each driver alone, and
//! behind antifreeze.

use std::cell::Cell;
use std::time::Duration;

use antifreeze::Database;
use diesel::Connection as _;
use diesel_async::{AsyncConnection, SimpleAsyncConnection};
use lab::postgres::{self, Postgres};
use lab::relay::{Counts, Relay};
use sqlx::postgres::{PgConnection, PgPoolOptions};
use sqlx::{Connection, PgPool, query_scalar};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long nothing passes once all is answered.
const QUIET: Duration = Duration::from_millis(200);

struct Lab {
    relay: Relay,
    url: String,
    database: Database,
    _server: postgres::Database,
}

async fn lab() -> Lab {
    let postgres = Postgres::shared().await.expect("a server");
    let server = postgres.fresh_database().await.expect("a database");
    server.execute(drivers::TABLES).await.expect("tables");
    let relay = Relay::start(postgres.address()).await.expect("a relay");
    let url = format!("{}?sslmode=disable", relay.url(&server.url));
    let database = Database::from_url(&url).expect("a database");
    Lab {
        relay,
        url,
        database,
        _server: server,
    }
}

impl Lab {
    /// Counts what `work` and the end of its invocation need, from the moment at which `work`
    /// marks.
    async fn count(&self, work: impl AsyncFnOnce(&dyn Fn()) -> Result<(), BoxError>) -> Counts {
        let before = Cell::new(self.relay.counts());
        let mark = || before.set(self.relay.counts());
        let done = self
            .database
            .invocation(Duration::from_secs(60), work(&mark))
            .await;
        done.expect("fine");
        // Nothing may follow either.
        self.relay.quiet(QUIET).await;
        self.relay.counts().since(before.get())
    }

    /// The fewest of three: on a busy machine something else may come in between.
    async fn fewest(&self, work: impl AsyncFn(&dyn Fn()) -> Result<(), BoxError>) -> Counts {
        fewest(async || self.count(&work).await).await
    }

    /// The same without antifreeze.
    async fn count_alone(&self, work: impl AsyncFnOnce() -> Result<(), BoxError>) -> Counts {
        let before = self.relay.counts();
        work().await.expect("fine");
        self.relay.quiet(QUIET).await;
        self.relay.counts().since(before)
    }
}

async fn fewest(count: impl AsyncFn() -> Counts) -> Counts {
    let [fewest, _, _] = three(count).await;
    fewest
}

/// The median of three: what a driver alone sends late is counted with the next.
async fn median(count: impl AsyncFn() -> Counts) -> Counts {
    let [_, median, _] = three(count).await;
    median
}

async fn three(count: impl AsyncFn() -> Counts) -> [Counts; 3] {
    let mut counts = [count().await, count().await, count().await];
    counts.sort_by_key(|one| {
        (
            one.connections,
            one.round_trips,
            one.bytes_up,
            one.bytes_down,
        )
    });
    counts
}

async fn query(pool: &PgPool) -> Result<(), BoxError> {
    let number: i32 = query_scalar("select $1::int")
        .bind(7)
        .fetch_one(pool)
        .await?;
    assert_eq!(number, 7);
    Ok(())
}

/// A warm query through the pool: sqlx tests the connection before and after it.
#[tokio::test]
async fn sqlx_query_takes_one_round_trip_not_three() {
    let lab = lab().await;
    let pool = PgPoolOptions::new().connect_lazy(&lab.url).expect("a pool");
    // The pool has its connection back when it has tested it.
    lab.count_alone(async || query(&pool).await).await;
    let alone = median(async || lab.count_alone(async || query(&pool).await).await).await;
    assert_eq!(alone.round_trips, 3, "{alone:?}");

    let url = lab.database.url().expect("a URL");
    let pool = PgPoolOptions::new().connect_lazy(&url).expect("a pool");
    lab.count(async |_| query(&pool).await).await;
    let counts = lab.fewest(async |_| query(&pool).await).await;
    assert_eq!(
        (counts.round_trips, counts.connections),
        (1, 0),
        "{counts:?}"
    );
}

#[tokio::test]
async fn sqlx_query_with_hooks_takes_one_round_trip() {
    let lab = lab().await;
    let url = lab.database.url().expect("a URL");
    let options = antifreeze::sqlx_hooks!(PgPoolOptions::new());
    let pool = options.connect_lazy(&url).expect("a pool");
    lab.count(async |_| query(&pool).await).await;
    let counts = lab.fewest(async |_| query(&pool).await).await;
    assert_eq!(
        (counts.round_trips, counts.connections),
        (1, 0),
        "{counts:?}"
    );
}

#[tokio::test]
async fn sqlx_transaction_takes_what_it_says() {
    let lab = lab().await;
    let url = lab.database.url().expect("a URL");
    let pool = PgPoolOptions::new().connect_lazy(&url).expect("a pool");
    let work = async |_: &dyn Fn()| -> Result<(), BoxError> {
        let mut transaction = pool.begin().await?;
        let insert = sqlx::query("insert into t values ($1)").bind(1);
        insert.execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    };
    lab.count(work).await;
    let counts = lab.fewest(work).await;
    assert_eq!(counts.round_trips, 3, "begin, insert, commit: {counts:?}");
}

#[tokio::test]
async fn clean_end_sends_nothing() {
    let lab = lab().await;
    let url = lab.database.url().expect("a URL");
    let pool = PgPoolOptions::new().connect_lazy(&url).expect("a pool");
    let work = async |mark: &dyn Fn()| {
        query(&pool).await?;
        mark();
        Ok(())
    };
    let first = lab.count(work).await;
    // The answer to what was asked behind the first statement may still come.
    assert_eq!(first.bytes_up, 0, "{first:?}");
    let counts = lab.fewest(work).await;
    assert_eq!((counts.bytes_up, counts.bytes_down), (0, 0), "{counts:?}");
}

/// Opens a session, which is kept, and counts what a new connection of the driver takes with
/// its first statement, and alone.
async fn fresh(alone: u64, connect: impl AsyncFn(String) -> Result<(), BoxError>) {
    let lab = lab().await;
    let counts = median(async || {
        lab.count_alone(async || connect(lab.url.clone()).await)
            .await
    })
    .await;
    assert_eq!(counts.round_trips, alone, "alone: {counts:?}");
    let own = async |_: &dyn Fn()| connect(antifreeze::invocation()?.url()?).await;
    lab.count(own).await;
    let counts = lab.fewest(own).await;
    assert_eq!(
        (counts.round_trips, counts.connections),
        (1, 0),
        "{counts:?}"
    );
}

#[tokio::test]
async fn fresh_sqlx_connection_takes_one_round_trip() {
    fresh(3, async |url| {
        let mut connection = PgConnection::connect(&url).await?;
        let number: i32 = query_scalar("select 7").fetch_one(&mut connection).await?;
        assert_eq!(number, 7);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn fresh_diesel_connection_takes_one_round_trip() {
    fresh(4, async |url| {
        let connect = move || {
            let mut connection = diesel::PgConnection::establish(&url)?;
            let read = diesel::select(diesel::dsl::sql::<diesel::sql_types::Integer>("7"));
            let number: i32 = diesel::RunQueryDsl::get_result(read, &mut connection)?;
            assert_eq!(number, 7);
            Ok(())
        };
        tokio::task::spawn_blocking(connect).await?
    })
    .await;
}

#[tokio::test]
async fn fresh_diesel_async_connection_takes_one() {
    fresh(5, async |url| {
        let mut connection = diesel_async::AsyncPgConnection::establish(&url).await?;
        Ok(connection.batch_execute("select 7").await?)
    })
    .await;
}
