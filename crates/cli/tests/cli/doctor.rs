//! Runs `antifreeze doctor` while nothing else uses the server.

use lab::postgres::Postgres;

use super::{Ran, client, run, until};

/// Starts a cluster for this test alone, with the database `shop`.
pub async fn shop() -> (Postgres, lab::postgres::Database) {
    let server = Postgres::start().await.expect("a server");
    let shop = server.create_database("shop").await.expect("a database");
    (server, shop)
}

/// Runs the doctor once earlier sessions have ended, so that only `watcher` and the test's own
/// sessions are on the server.
pub async fn examine(server: &Postgres, variables: &[(&str, &str)], more: &[&str]) -> Ran {
    let watcher = client(&server.url(), "watcher").await;
    until(
        &watcher,
        "select count(*) = 0 from pg_stat_activity where pid <> pg_backend_pid() \
         and application_name in ('lab', 'watcher', 'antifreeze doctor')",
    )
    .await;
    run(variables, &[&["doctor"], more].concat()).await
}

pub async fn examine_at(server: &Postgres, url: &str) -> Ran {
    examine(server, &[("DATABASE_URL", url)], &[]).await
}
