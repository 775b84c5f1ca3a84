//! What a process on Vercel does after its last request: it waits for another one, and closes
//! its connections before it is suspended (`Config::linger`).

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use lab::postgres::{Database, Postgres};
use lab::vercel::{Deployment, Outcome};
use tokio::time::sleep;

/// The default.
const LINGER: Duration = Duration::from_secs(5);

/// A time limit for what should take milliseconds, on a loaded machine.
const PLENTY: Duration = Duration::from_secs(20);

/// A function, and its database as a second connection sees it.
struct Shop {
    deployment: Deployment,
    database: Database,
}

impl Shop {
    async fn open(variables: &[(&str, &str)]) -> Shop {
        let server = Postgres::shared().await.expect("a server");
        let database = server.fresh_database().await.expect("a database");
        let table = "create table t (a int)";
        database.execute(table).await.expect("a table");
        let mut deployment = Deployment::builder(env!("CARGO_BIN_EXE_endings"))
            .env("DATABASE_URL", &database.url)
            .env("SHAPE", "vercel")
            .env("MAX_CONNECTIONS", 2);
        for (name, value) in variables {
            deployment = deployment.env(*name, value);
        }
        let deployment = deployment.start().await.expect("a deployment");
        Shop {
            deployment,
            database,
        }
    }

    /// Sends a request that stores a row, and waits for the end of its invocation.
    async fn request(&self) -> Outcome {
        self.request_that("returns").await
    }

    async fn request_that(&self, ending: &str) -> Outcome {
        let request = Request::get(format!("/{ending}")).body(Bytes::new());
        let request = request.expect("a request");
        let outcome = self.deployment.request(request).await.expect("it runs");
        assert_eq!(outcome.response.as_ref().expect("a response").status(), 200);
        outcome
    }

    /// Waits until the function has stored so many rows, and its sessions are idle.
    async fn stored(&self, rows: &str) {
        let until = Instant::now() + PLENTY;
        loop {
            let stored = self.one("select count(*) from t").await;
            let busy = "select count(*) from pg_stat_activity where state <> 'idle' \
                        and datname = current_database() and application_name = 'endings'";
            if stored == rows && self.one(busy).await == "0" {
                return;
            }
            assert!(Instant::now() < until, "{stored} rows, not {rows}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn one(&self, sql: &str) -> String {
        let rows = self.database.query(sql).await.expect("a row");
        rows[0][0].clone().expect("a value")
    }

    /// The backends of the function.
    async fn backends(&self) -> Vec<String> {
        let sql = "select pid from pg_stat_activity where datname = current_database() \
                   and application_name = 'endings' order by pid";
        let rows = self.database.query(sql).await.expect("activity");
        rows.into_iter().flatten().flatten().collect()
    }
}

/// The time from the response to the end of the invocation.
fn wait(outcome: &Outcome) -> Duration {
    // They are seen on two sockets, and may change places.
    let ended = outcome.ended.expect("an end");
    ended.saturating_sub(outcome.responded)
}

#[tokio::test]
async fn burst_shares_connections_then_closes_them() {
    let shop = Shop::open(&[]).await;
    let warm = shop.backends().await;
    assert_eq!(warm.len(), 2);
    let second = async {
        shop.stored("1").await;
        assert_eq!(shop.backends().await, warm);
        shop.request().await
    };
    let third = async {
        shop.stored("2").await;
        assert_eq!(shop.backends().await, warm);
        shop.request().await
    };
    let (first, second, third) = tokio::join!(shop.request(), second, third);
    // Each request ended the wait after the one before, and was not delayed by it.
    assert!(wait(&first) < LINGER, "{first:?}");
    assert!(wait(&second) < LINGER, "{second:?}");
    assert!(third.responded < LINGER, "{third:?}");
    // The timer begins when the response leaves, which is after the request was sent.
    assert!(third.ended.expect("an end") >= LINGER, "{third:?}");
    shop.deployment.frozen().await.expect("frozen");
    assert!(shop.deployment.is_frozen());
    assert_eq!(shop.backends().await, [""; 0], "while it is suspended");
    // It connects again.
    shop.request().await;
    assert_eq!(shop.one("select count(*) from t").await, "4");
}

/// The sessions of another driver are in a pool of their own.
#[tokio::test]
async fn sessions_of_another_driver_are_closed_too() {
    let shop = Shop::open(&[("ANTIFREEZE_WARM_UP", "0"), ("ANTIFREEZE_LINGER", "1s")]).await;
    let outcome = shop.request_that("other_driver").await;
    shop.stored("1").await;
    let linger = Duration::from_secs(1);
    assert!(outcome.ended.expect("an end") >= linger, "{outcome:?}");
    shop.deployment.frozen().await.expect("frozen");
    assert_eq!(shop.backends().await, [""; 0]);
}

#[tokio::test]
async fn zero_suspends_at_once_and_keeps() {
    let shop = Shop::open(&[("ANTIFREEZE_LINGER", "0")]).await;
    let warm = shop.backends().await;
    let outcome = shop.request().await;
    assert!(wait(&outcome) < LINGER, "{outcome:?}");
    shop.deployment.frozen().await.expect("frozen");
    assert_eq!(shop.backends().await, warm);
}

/// At its `maxDuration` the host would end the process.
#[tokio::test]
async fn wait_ends_before_the_deadline() {
    // 250 ms before, which a busy machine may take, but not each time.
    let mut tries = 0;
    while !ends_before().await {
        tries += 1;
        assert!(tries < 6, "it ended late each time");
    }
}

async fn ends_before() -> bool {
    let longest = Duration::from_millis(2000);
    let limit = longest.as_millis().to_string();
    let shop = Shop::open(&[("MAX_DURATION_MS", &limit), ("ANTIFREEZE_LINGER", "60s")]).await;
    let outcome = shop.request().await;
    shop.deployment.frozen().await.expect("frozen");
    let ended = outcome.ended.expect("an end");
    ended < longest && shop.backends().await.is_empty()
}

/// Without `shutdown::around`: the runtime waits for what was given to `wait_until`.
#[tokio::test]
async fn sigterm_ends_the_wait() {
    let shop = Shop::open(&[("ANTIFREEZE_LINGER", "60s")]).await;
    let end = async {
        shop.stored("1").await;
        shop.deployment.terminate().await
    };
    let (outcome, exit) = tokio::join!(shop.request(), end);
    assert!(!exit.killed && exit.status.code() == Some(0), "{exit:?}");
    assert!(wait(&outcome) < PLENTY, "{outcome:?}");
    assert_eq!(shop.backends().await, [""; 0]);
}

/// There is nothing to close, so the host is told at once.
#[tokio::test]
async fn no_kept_connection_no_wait() {
    let shop = Shop::open(&[("LIFETIME", "per_invocation")]).await;
    let outcome = shop.request().await;
    assert!(wait(&outcome) < LINGER, "{outcome:?}");
    assert_eq!(shop.backends().await, [""; 0]);
}
