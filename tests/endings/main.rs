//! However a handler ends, its connection is at rest when the invocation is over.

#[path = "../common/mod.rs"]
mod common;
mod handlers;
mod leases;
mod lifetime;
mod state;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use antifreeze::teardown::{Outcome, Step};
use antifreeze::{ErrorKind, connection};
use common::{BoxError, Lab, PLENTY, kind, lab, lease_and_return};
use futures_util::FutureExt;
use tokio::time::timeout;

const NONE: &[Step] = &[];
const ROLLED_BACK: &[Step] = &[Step::RolledBack];
const CANCELLED: &[Step] = &[Step::Cancelled];
const CANCELLED_ROLLED_BACK: &[Step] = &[Step::Cancelled, Step::RolledBack];
const RESET: &[Step] = &[Step::Reset];
const CLOSED: &[Step] = &[Step::Closed { acknowledged: true }];
const CANCELLED_CLOSED: &[Step] = &[Step::Cancelled, Step::Closed { acknowledged: true }];
const CANCELLED_RESET: &[Step] = &[Step::Cancelled, Step::Reset];
const ROLLED_BACK_RESET: &[Step] = &[Step::RolledBack, Step::Reset];

/// What the caller of the invocation gets.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Caller {
    Success,
    Failure,
    Panic,
    Deadline,
}

use Caller::{Deadline, Failure, Panic, Success};

/// A test for each row: the handler of that name in [`handlers`], what its caller gets, the
/// steps of the teardown, and how many rows are stored.
macro_rules! endings {
    ($($handler:ident: $caller:expr, $steps:expr, $rows:expr;)*) => {
        $(#[tokio::test]
        async fn $handler() {
            ends(handlers::$handler, $caller, $steps, $rows).await;
        })*
    };
}

#[rustfmt::skip]
endings! {
    // handler                     caller    steps                  rows
    committed:                     Success,  NONE,                  1;
    early_return:                  Failure,  NONE,                  0;
    transaction_forgotten:         Success,  ROLLED_BACK,           0;
    begin_by_hand:                 Success,  ROLLED_BACK,           0;
    savepoint_forgotten:           Success,  ROLLED_BACK,           0;
    failed_statement:              Success,  ROLLED_BACK,           0;
    commit_of_an_aborted:          Success,  NONE,                  0;
    panic:                         Panic,    NONE,                  0;
    deadline_in_a_statement:       Deadline, CANCELLED,             0;
    deadline_between_statements:   Deadline, NONE,                  0;
    statement_dropped:             Success,  CANCELLED_ROLLED_BACK, 0;
    begin_dropped:                 Success,  NONE,                  0;
    begin_text_dropped:            Success,  ROLLED_BACK,           0;
    copy_in_dropped:               Success,  NONE,                  0;
    copy_in_kept:                  Success,  RESET,                 0;
    copy_in_by_simple_protocol:    Success,  RESET,                 0;
    copy_in_of_bad_data:           Success,  NONE,                  0;
    copy_in_refused_by_a_trigger:  Success,  ROLLED_BACK,           0;
    copy_in_to_no_table:           Success,  CLOSED,                0;
    copy_out_dropped:              Success,  CANCELLED,             0;
    copy_out_kept:                 Success,  CANCELLED_RESET,       0;
    rows_dropped:                  Success,  CANCELLED,             0;
    rows_kept:                     Success,  CANCELLED_RESET,       0;
}

/// How often an ending is tried: on a busy machine an answer may come later than its step of the
/// teardown waits for, and there is one more, or the connection is closed.
const TRIES: usize = 3;

async fn ends<F: Future<Output = Result<(), BoxError>>>(
    handler: impl Fn() -> F,
    caller: Caller,
    steps: &[Step],
    rows: i64,
) {
    for _ in 1..TRIES {
        let (lab, outcome) = end(handler(), caller, rows).await;
        if taken(&outcome) == steps {
            return works(&lab).await;
        }
    }
    let (lab, outcome) = end(handler(), caller, rows).await;
    assert_eq!(taken(&outcome), steps, "{outcome}");
    works(&lab).await;
}

/// Whatever the steps were, all is at rest.
async fn end(
    handler: impl Future<Output = Result<(), BoxError>>,
    caller: Caller,
    rows: i64,
) -> (Lab, Outcome) {
    let lab = lab().await;
    // Connecting is not what takes its time until the deadline.
    lab.run(lease_and_return()).await.expect("warm");
    lab.torn_down();
    let granted = match caller {
        Deadline => Duration::from_secs(2),
        _ => PLENTY,
    };
    let invocation = AssertUnwindSafe(lab.database.invocation(granted, handler)).catch_unwind();
    let result = timeout(PLENTY, invocation).await.expect("in time");
    let got = match &result {
        Ok(Ok(())) => Success,
        Ok(Err(error)) if kind(error) == Some(ErrorKind::Deadline) => Deadline,
        Ok(Err(_)) => Failure,
        Err(_) => Panic,
    };
    assert_eq!(got, caller, "{result:?}");
    let outcome = lab.outcome();
    if outcome.closed() == Some(false) {
        // The server has not confirmed it, and ends it by itself.
        let gone = async |lab: &Lab| lab.sessions().await.is_empty();
        lab.eventually("the session has ended", gone).await;
    }
    lab.assert_at_rest().await;
    assert_eq!(lab.rows().await, rows);
    (lab, outcome)
}

/// The ending leaves everything at rest, in these steps, and the next invocation
/// works.
async fn check(lab: &Lab, expected: &[Step]) {
    let outcome = lab.outcome();
    assert_eq!(taken(&outcome), expected, "{outcome}");
    lab.assert_at_rest().await;
    works(lab).await;
}

/// The steps; whether an answer is there already when the handler returns is up to the network.
fn taken(outcome: &Outcome) -> Vec<Step> {
    let steps = outcome.steps().iter().copied();
    steps.filter(|step| *step != Step::Settled).collect()
}

async fn works(lab: &Lab) {
    lab.run(async {
        let connection = connection().await?;
        connection.query_one("select 1", &[]).await?;
        Ok(())
    })
    .await
    .expect("the next invocation works");
    assert!(lab.outcome().is_clean());
}
