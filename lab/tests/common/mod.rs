//! What several of the lab's tests need.
#![allow(dead_code)]

pub mod checkout;
pub mod reader;

use std::{
    env,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use lab::cargo;

/// Connects without TLS, and drives the connection on the current runtime.
pub async fn connect(url: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Waits until `condition` holds, for what only a look can tell.
#[track_caller]
pub fn eventually(condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let limit = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < limit, "did not happen: {caller}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The number that an echo function's thread has written last.
pub async fn ticks(path: &Path) -> u64 {
    eventually(|| path.exists()).await;
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

/// Whether that thread does nothing for a tenth of a second.
pub async fn stands_still(path: &Path) -> bool {
    let before = ticks(path).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    ticks(path).await == before
}

/// Waits until it does something.
pub async fn goes_on(path: &Path) {
    let before = ticks(path).await;
    let limit = Instant::now() + Duration::from_secs(60);
    while ticks(path).await == before {
        assert!(Instant::now() < limit, "it stands still");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// This very cargo, for a project elsewhere: without what a build of ours has put into
/// the environment, and into the same target folder, so that dependencies are built once.
pub fn elsewhere(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("VERCEL") {
            command.env_remove(name);
        }
    }
    cargo::forget_ours(command);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    command.env("CARGO_TARGET_DIR", target.expect("a target folder"))
}
