//! The bug that antifreeze exists for, with what a user would take instead: it can be
//! reproduced, and the layer is free of it.

use std::path::Path;

use lab::compare::{Case, Moment, cases, left_behind};
use lab::postgres::Postgres;

const RUNS: usize = 3;

async fn all(frozen: Moment) {
    let postgres = Postgres::shared().await.expect("a server");
    let function = Path::new(env!("CARGO_BIN_EXE_libraries"));
    for case in cases(frozen) {
        let left = left_behind(postgres, function, case, RUNS)
            .await
            .expect("it runs");
        println!("{case:?}: {left:?}");
        assert_eq!(left.runs, RUNS);
        // Who is stuck blocks a migration, unless it holds no lock on the table.
        assert!(left.blocked <= left.stuck, "{case:?}: {left:?}");
        check(case, left.stuck);
    }
}

/// What must be so wherever the process is frozen.
fn check(case: Case, stuck: usize) {
    let expected = match (case.library, case.ending) {
        ("antifreeze", _) => 0,
        (_, "BEGIN by hand" | "task in its transaction") => RUNS,
        ("tokio-postgres" | "deadpool", "result dropped half-way" | "statement timed out") => RUNS,
        // The rest is a matter of luck, or of the library: see the README.
        _ => return,
    };
    assert_eq!(stuck, expected, "{case:?}");
}

#[tokio::test]
async fn frozen_as_lambda_does_it() {
    all(Moment::Next).await;
}

#[tokio::test]
async fn frozen_when_the_response_has_left() {
    all(Moment::Response).await;
}

#[tokio::test]
async fn frozen_when_the_handler_has_returned() {
    all(Moment::Returned).await;
}
