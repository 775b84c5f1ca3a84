//! The columns of `lab compare` for Diesel: alone it leaves sessions stuck, behind antifreeze it
//! does not, wherever the process is frozen.

use std::path::Path;

use lab::compare::{DIESEL, Moment, cases, left_behind};
use lab::postgres::Postgres;

/// How often an ending behind antifreeze is tried: a busy machine may take the time of a step of
/// the teardown, 500 ms, but not each time.
const TRIES: usize = 3;

async fn all(frozen: Moment) {
    let postgres = Postgres::shared().await.expect("a server");
    let function = Path::new(env!("CARGO_BIN_EXE_compared"));
    for case in cases(&DIESEL, frozen) {
        let run = async || {
            let left = left_behind(postgres, function, case, 1).await;
            left.expect("it runs")
        };
        let mut left = run().await;
        for _ in 1..TRIES {
            if case.library != "Diesel behind antifreeze" || left.stuck + left.blocked == 0 {
                break;
            }
            println!("tried again: {case:?}: {left:?}");
            left = run().await;
        }
        let (stuck, blocked) = match (case.library, case.ending) {
            // Its pool closes the connection, and whether the server has noticed is luck.
            ("Diesel", "transaction dropped" | "panic in a transaction") => continue,
            // libpq reads the rest.
            ("Diesel behind antifreeze", _) | (_, "returns" | "result not read to its end") => {
                (0, 0)
            }
            (_, "BEGIN as SQL, then a failure" | "advisory lock") => (1, 0),
            _ => (1, 1),
        };
        assert_eq!((left.stuck, left.blocked), (stuck, blocked), "{case:?}");
    }
}

#[tokio::test]
async fn diesel_frozen_as_on_lambda_is_compared() {
    all(Moment::Next).await;
}

#[tokio::test]
async fn diesel_frozen_at_the_response_is_compared() {
    all(Moment::Response).await;
}

#[tokio::test]
async fn diesel_frozen_at_the_return_is_compared() {
    all(Moment::Returned).await;
}
