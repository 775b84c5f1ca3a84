//! The bug that antifreeze exists for, with what a user would take instead: it can be
//! reproduced, and the layer is free of it.

use std::path::Path;

use lab::compare::{Case, LIBRARIES, Left, Moment, cases, left_behind};
use lab::postgres::Postgres;

const RUNS: usize = 1;

/// How often an ending behind antifreeze is tried: a busy machine may take the time of a step of
/// the teardown, 500 ms, but not each time.
const TRIES: usize = 3;

async fn all(frozen: Moment) {
    let postgres = Postgres::shared().await.expect("a server");
    let function = Path::new(env!("CARGO_BIN_EXE_libraries"));
    for case in cases(&LIBRARIES, frozen) {
        let run = async || {
            let left = left_behind(postgres, function, case, RUNS).await;
            left.expect("it runs")
        };
        let mut left = run().await;
        for _ in 1..TRIES {
            if !is_at_rest(case) || left.stuck + left.blocked == 0 {
                break;
            }
            println!("tried again: {case:?}: {left:?}");
            left = run().await;
        }
        println!("{case:?}: {left:?}");
        assert_eq!(left.runs, RUNS);
        check(case, left);
    }
}

/// Whether nothing is left behind.
fn is_at_rest(case: Case) -> bool {
    matches!(case.library, "antifreeze" | "sqlx behind antifreeze")
}

/// What must be so wherever the process is frozen.
fn check(case: Case, left: Left) {
    // A migration waits only for a stuck session.
    assert!(left.blocked <= left.stuck, "{case:?}: {left:?}");
    let (stuck, blocks) = match (case.library, case.ending) {
        _ if is_at_rest(case) => (0, false),
        (_, "returns") => (0, false),
        (_, "BEGIN as SQL" | "task in its transaction" | "transaction leaked") => (RUNS, true),
        // A failed transaction has given up its locks, and a session that is idle has none.
        (_, "BEGIN as SQL, then a failure" | "advisory lock") => (RUNS, false),
        ("tokio-postgres" | "deadpool", "result not read to its end" | "statement timed out") => {
            (RUNS, true)
        }
        // The rest is a matter of luck, or of the library: see the README.
        _ => return,
    };
    assert_eq!(left.stuck, stuck, "{case:?}");
    assert_eq!(left.blocked, if blocks { RUNS } else { 0 }, "{case:?}");
}

#[tokio::test]
async fn libraries_frozen_as_on_lambda_are_compared() {
    all(Moment::Next).await;
}

#[tokio::test]
async fn libraries_frozen_at_the_response_are_compared() {
    all(Moment::Response).await;
}

#[tokio::test]
async fn libraries_frozen_at_the_return_are_compared() {
    all(Moment::Returned).await;
}
