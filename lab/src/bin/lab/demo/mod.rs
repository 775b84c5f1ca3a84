//! The demonstration: what a frozen function leaves in the database.

mod scene;
mod serve;
mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::Result;
use lab::cargo::build;
use lab::postgres::Postgres;

use crate::step::Step;
use scene::Scene;

/// What is asked of the function, and what its handler does then, in at most 26 letters.
const REQUESTS: [(&str, &str); 6] = [
    ("/begin", "forgets its own BEGIN"),
    ("/task", "a task keeps a transaction"),
    ("/early", "returns before its COMMIT"),
    ("/panic", "panics in its transaction"),
    ("/slow", "is slower than its timeout"),
    ("/partners", "does everything right"),
];

/// How long the migration of the table is willing to wait.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

pub async fn run(serve: Option<u16>) -> Result<()> {
    let example = {
        let _step = Step::new("building examples/lambda_http.rs");
        let example = ["-p", "antifreeze", "--example", "lambda_http"];
        build(&[&example[..], &["--features", "lambda"]].concat()).await?
    };
    let postgres = {
        let _step = Step::new("starting PostgreSQL");
        Postgres::start().await?
    };
    match serve {
        Some(port) => serve::run(&postgres, &example, port).await,
        None => compare(&postgres, example).await,
    }
}

/// Sends each request with the layer and without, each to a fresh process and database.
async fn compare(postgres: &Postgres, example: PathBuf) -> Result<()> {
    let mut rows = Vec::new();
    {
        let _step = Step::new("sending requests, freezing, looking at the server");
        for (path, does) in REQUESTS {
            let without = observe(postgres, &example, path, false).await?;
            let with = observe(postgres, &example, path, true).await?;
            rows.push(table::Row {
                path,
                does,
                without,
                with,
            });
        }
    }
    print!(
        "{}",
        table::written(postgres.installation().version(), rows)
    );
    Ok(())
}

/// Sends one request to a fresh function and looks at the server while it is frozen.
async fn observe(
    postgres: &Postgres,
    example: &Path,
    path: &str,
    layer: bool,
) -> Result<table::Seen> {
    let scene = Scene::start(postgres, example, layer, false).await?;
    let answer = scene.ask(path).await?;
    let session = scene.session().await?;
    let migration = scene.alter_table(LOCK_TIMEOUT).await?;
    scene.discard().await?;
    Ok(table::Seen {
        answer,
        session,
        migration,
    })
}
