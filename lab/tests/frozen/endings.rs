//! The table of endings: where each is run, and what is expected of it.

use Caller::{Deadline, Failure, Success};
use Connection::{Closed, Either, Kept};
use Run::{Direct, Pooler, Stalled, Streaming, Unread};

/// Where an ending is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// In each shape that buffers its responses, on a direct path.
    Direct,
    /// Under the streaming runner. The caller of a `stream_` has got a 200 before it ends.
    Streaming,
    /// Behind a transaction pooler, which has no session state to leave.
    Pooler,
    /// Where the layer streams: HEAD, or the body is dropped outside the layer.
    Unread,
    /// In each shape, on a network that fails, so that the server's own timeouts have to end the
    /// session.
    Stalled,
}

/// What the caller of the function gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    Success,
    Failure,
    Deadline,
    /// The process was killed, or hung up.
    Nothing,
}

/// What becomes of the connection with `PerEventLoop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// It serves the next invocation.
    Kept,
    /// It ended with its server, or could not be brought to rest.
    Closed,
    /// It depends on the time that is left, or on what is on its way.
    Either,
}

pub type Ending = (&'static str, &'static [Run], Caller, Connection);

/// The endings that are run there.
pub fn endings(run: Run) -> impl Iterator<Item = Ending> {
    ENDINGS
        .iter()
        .copied()
        .filter(move |ending| ending.1.contains(&run))
}

#[rustfmt::skip]
const ENDINGS: &[Ending] = &[
    // ending, run in, the caller gets, the connection is
    ("returns",                            &[Direct, Streaming, Pooler], Success,  Kept),
    ("returns_lazily",                     &[Direct, Pooler],            Success,  Kept),
    ("fails_lazily",                       &[Direct],                    Failure,  Kept),
    ("early_return",                       &[Direct, Streaming, Pooler], Failure,  Kept),
    ("transaction_forgotten",              &[Direct],                    Success,  Kept),
    ("connection_forgotten",               &[Direct, Pooler],            Success,  Kept),
    ("begin_by_hand",                      &[Direct, Streaming, Pooler], Success,  Kept),
    ("savepoints",                         &[Direct],                    Success,  Kept),
    ("failed_statement",                   &[Direct],                    Success,  Kept),
    ("commit_of_an_aborted",               &[Direct],                    Success,  Kept),
    ("panic",                              &[Direct, Streaming, Pooler], Failure,  Kept),
    ("panic_in_call",                      &[Direct],                    Failure,  Kept),
    ("slow_statement",                     &[Direct, Streaming, Pooler], Deadline, Either),
    ("slow_between_statements",            &[Direct],                    Deadline, Either),
    ("statement_timed_out",                &[Direct, Pooler],            Success,  Kept),
    ("begin_dropped",                      &[Direct, Pooler],            Success,  Kept),
    ("copies",                             &[Pooler],                    Success,  Kept),
    ("copy_in_dropped",                    &[Direct, Pooler],            Success,  Kept),
    ("copy_in_kept",                       &[Direct, Pooler],            Success,  Kept),
    ("copy_out_dropped",                   &[Direct],                    Success,  Either),
    ("copy_out_kept",                      &[Direct, Pooler],            Success,  Either),
    ("rows_dropped",                       &[Direct, Pooler],            Success,  Either),
    ("rows_kept",                          &[Direct, Pooler],            Success,  Either),
    ("task_idle",                          &[Direct, Pooler],            Success,  Kept),
    ("task_busy",                          &[Direct, Streaming, Pooler], Success,  Either),
    ("own_task",                           &[Direct, Pooler],            Success,  Kept),
    ("half_done_task",                     &[Direct],                    Failure,  Kept),
    ("half_done_clean_up",                 &[Direct],                    Failure,  Kept),
    ("blocking_idle",                      &[Direct],                    Success,  Kept),
    ("blocking_busy",                      &[Direct, Pooler],            Success,  Either),
    ("two_leases",                         &[Direct, Pooler],            Success,  Kept),
    ("session_state?listen",               &[Direct],                    Success,  Kept),
    ("session_state?listen_in_do",         &[Direct],                    Success,  Kept),
    ("session_state?advisory_lock",        &[Direct, Streaming],         Success,  Kept),
    ("session_state?advisory_lock_in_do",  &[Direct],                    Success,  Kept),
    ("session_state?set",                  &[Direct],                    Success,  Kept),
    ("session_state?set_in_do",            &[Direct],                    Success,  Kept),
    ("session_state?set_config",           &[Direct],                    Success,  Kept),
    ("session_state?set_config_in_do",     &[Direct],                    Success,  Kept),
    ("session_state?temp_table",           &[Direct],                    Success,  Kept),
    ("session_state?temp_table_in_do",     &[Direct],                    Success,  Kept),
    ("session_state?temp_table_by_select", &[Direct],                    Success,  Kept),
    ("killed",                             &[Direct],                    Success,  Closed),
    ("killed_during_commit",               &[Direct],                    Success,  Closed),
    ("waits_for_a_restart",                &[Direct],                    Success,  Closed),
    ("dropped_from_outside",               &[Direct, Pooler],            Failure,  Closed),
    ("stream_returns",                     &[Streaming],                 Success,  Kept),
    ("stream_fails",                       &[Streaming],                 Success,  Kept),
    ("stream_half_read",                   &[Streaming],                 Success,  Either),
    ("stream_is_too_slow",                 &[Streaming],                 Success,  Either),
    ("stream_cancels",                     &[Streaming],                 Success,  Either),
    ("stream_transaction",                 &[Streaming],                 Success,  Kept),
    ("head_stream_returns",                &[Unread],                    Success,  Kept),
    ("head_stream_rows",                   &[Unread],                    Success,  Either),
    ("head_stream_busy",                   &[Unread],                    Success,  Kept),
    ("unread_stream_returns",              &[Unread],                    Success,  Closed),
    ("unread_stream_rows",                 &[Unread],                    Success,  Closed),
    ("unread_stream_busy",                 &[Unread],                    Success,  Closed),
    ("stalled_in_the_handler",             &[Stalled],                   Deadline, Closed),
    ("stalled_in_teardown",                &[Stalled],                   Success,  Closed),
];

/// Concurrent endings behind a pooler, more than it has server connections: each gets its own
/// answers.
pub const POOLED_TOGETHER: [[(&str, Caller); 4]; 3] = [
    [
        ("copies", Success),
        ("copies", Success),
        ("copies", Success),
        ("copies", Success),
    ],
    [
        ("copies", Success),
        ("copies", Success),
        ("copies", Success),
        ("task_busy", Success),
    ],
    [
        ("copies", Success),
        ("copies", Success),
        ("copies", Success),
        ("rows_kept", Success),
    ],
];

/// Concurrent endings in one process.
pub const TOGETHER: [[(&str, Caller); 4]; 4] = [
    [
        ("returns", Success),
        ("begin_by_hand", Success),
        ("early_return", Failure),
        ("rows_dropped", Success),
    ],
    [
        ("transaction_forgotten", Success),
        ("task_busy", Success),
        ("slow_between_statements", Deadline),
        ("session_state?advisory_lock", Success),
    ],
    [
        ("panic", Failure),
        ("connection_forgotten", Success),
        ("slow_statement", Deadline),
        ("returns_lazily", Success),
    ],
    [
        ("statement_timed_out", Success),
        ("fails_lazily", Failure),
        ("copy_in_kept", Success),
        ("blocking_idle", Success),
    ],
];

/// How kept connections end while the process that has them is frozen.
#[derive(Debug, Clone, Copy)]
pub enum Death {
    /// By `pg_terminate_backend`.
    Terminated,
    /// With the whole server, which comes back.
    Restart,
    /// By the network, with FIN.
    Fin,
    /// By the network, with RST.
    Reset,
}

pub const DEATHS: [Death; 4] = [Death::Terminated, Death::Restart, Death::Fin, Death::Reset];
