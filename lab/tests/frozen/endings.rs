//! The endings, and what is expected of each.

use Lease::{Closed, Either, Kept};
use Says::{Deadline, Failed, Well};

/// What a caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    Well,
    Failed,
    Deadline,
    /// Nothing at all: the process was killed, or hung up.
    Nothing,
}

/// What becomes of the connection with `PerEventLoop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// It is there for the next invocation.
    Kept,
    /// Somebody may still have it, or nobody can bring it to rest.
    Closed,
    /// As it happens: little time was left to decide, or much was on its way.
    Either,
}

/// Its name, what the caller is told, and what becomes of the connection.
pub type Ending = (&'static str, Says, Lease);

pub const ENDINGS: &[Ending] = &[
    ("returns", Well, Kept),
    ("returns_lazily", Well, Kept),
    ("fails_lazily", Failed, Kept),
    ("early_return", Failed, Kept),
    ("transaction_forgotten", Well, Kept),
    ("connection_forgotten", Well, Closed),
    ("begin_by_hand", Well, Kept),
    ("savepoints", Well, Kept),
    ("failed_statement", Well, Kept),
    ("commit_of_an_aborted", Well, Kept),
    ("panic", Failed, Kept),
    ("panic_in_call", Failed, Kept),
    ("slow_statement", Deadline, Either),
    ("slow_between_statements", Deadline, Either),
    ("statement_timed_out", Well, Kept),
    ("begin_dropped", Well, Kept),
    ("copy_in_dropped", Well, Kept),
    ("copy_in_kept", Well, Closed),
    ("copy_out_dropped", Well, Either),
    ("copy_out_kept", Well, Closed),
    ("rows_dropped", Well, Either),
    ("rows_kept", Well, Closed),
    ("task_idle", Well, Closed),
    ("task_busy", Well, Closed),
    ("own_task", Well, Kept),
    ("half_done_task", Failed, Kept),
    ("half_done_clean_up", Failed, Kept),
    ("blocking_idle", Well, Closed),
    ("blocking_busy", Well, Closed),
    ("two_leases", Well, Kept),
    ("session_state?listen", Well, Kept),
    ("session_state?listen_in_do", Well, Kept),
    ("session_state?advisory_lock", Well, Kept),
    ("session_state?advisory_lock_in_do", Well, Kept),
    ("session_state?set", Well, Kept),
    ("session_state?set_in_do", Well, Kept),
    ("session_state?set_config", Well, Kept),
    ("session_state?set_config_in_do", Well, Kept),
    ("session_state?temp_table", Well, Kept),
    ("session_state?temp_table_in_do", Well, Kept),
    ("session_state?temp_table_by_select", Well, Kept),
    ("killed", Well, Closed),
    ("killed_during_commit", Well, Closed),
    ("waits_for_a_restart", Well, Closed),
    ("dropped_from_outside", Failed, Closed),
];

/// Those in which the network goes away, and the server's own time-outs have to end
/// what it keeps from us.
pub const STALLED: &[Ending] = &[
    ("stalled_in_the_handler", Deadline, Closed),
    ("stalled_in_teardown", Well, Closed),
];

/// Under the streaming runner: some with a whole body, and those whose body still reads
/// when the head has left. The caller has been told that all is well by then.
pub const STREAMED: &[Ending] = &[
    ("returns", Well, Kept),
    ("early_return", Failed, Kept),
    ("begin_by_hand", Well, Kept),
    ("panic", Failed, Kept),
    ("slow_statement", Deadline, Either),
    ("task_busy", Well, Closed),
    ("session_state?advisory_lock", Well, Kept),
    ("stream_returns", Well, Kept),
    ("stream_fails", Well, Kept),
    ("stream_half_read", Well, Either),
    ("stream_is_too_slow", Well, Either),
    ("stream_cancels", Well, Either),
    ("stream_transaction", Well, Kept),
];

/// Those whose body nobody reads: the method is HEAD, or whatever is outside the layer
/// answers with another one.
pub const UNREAD: &[Ending] = &[
    ("head_stream_returns", Well, Kept),
    ("head_stream_rows", Well, Either),
    ("head_stream_busy", Well, Kept),
    ("unread_stream_returns", Well, Closed),
    ("unread_stream_rows", Well, Closed),
    ("unread_stream_busy", Well, Closed),
];

/// Behind a pooler, which has no session state to leave.
pub const POOLED: &[Ending] = &[
    ("returns", Well, Kept),
    ("returns_lazily", Well, Kept),
    ("early_return", Failed, Kept),
    ("connection_forgotten", Well, Closed),
    ("begin_by_hand", Well, Kept),
    ("panic", Failed, Kept),
    ("slow_statement", Deadline, Either),
    ("statement_timed_out", Well, Kept),
    ("begin_dropped", Well, Kept),
    ("copies", Well, Kept),
    ("copy_in_dropped", Well, Kept),
    ("copy_in_kept", Well, Closed),
    ("copy_out_kept", Well, Closed),
    ("rows_dropped", Well, Either),
    ("rows_kept", Well, Closed),
    ("task_idle", Well, Closed),
    ("task_busy", Well, Closed),
    ("own_task", Well, Kept),
    ("blocking_busy", Well, Closed),
    ("two_leases", Well, Kept),
    ("dropped_from_outside", Failed, Closed),
];

/// Behind a pooler, more at a time than it has servers: none gets another's answers.
pub const POOLED_TOGETHER: [[(&str, Says); 4]; 3] = [
    [
        ("copies", Well),
        ("copies", Well),
        ("copies", Well),
        ("copies", Well),
    ],
    [
        ("copies", Well),
        ("copies", Well),
        ("copies", Well),
        ("task_busy", Well),
    ],
    [
        ("copies", Well),
        ("copies", Well),
        ("copies", Well),
        ("rows_kept", Well),
    ],
];

/// Those that meet in one process, at the same time.
pub const TOGETHER: [[(&str, Says); 4]; 4] = [
    [
        ("returns", Well),
        ("begin_by_hand", Well),
        ("early_return", Failed),
        ("rows_dropped", Well),
    ],
    [
        ("transaction_forgotten", Well),
        ("task_busy", Well),
        ("slow_between_statements", Deadline),
        ("session_state?advisory_lock", Well),
    ],
    [
        ("panic", Failed),
        ("connection_forgotten", Well),
        ("slow_statement", Deadline),
        ("returns_lazily", Well),
    ],
    [
        ("statement_timed_out", Well),
        ("fails_lazily", Failed),
        ("copy_in_kept", Well),
        ("blocking_idle", Well),
    ],
];

/// How kept connections end while the process that has them is frozen.
#[derive(Debug, Clone, Copy)]
pub enum Death {
    /// By `pg_terminate_backend`.
    Terminated,
    /// With the whole server, which comes back.
    Restart,
    /// On the way, with FIN.
    Fin,
    /// On the way, with RST.
    Reset,
}

pub const DEATHS: [Death; 4] = [Death::Terminated, Death::Restart, Death::Fin, Death::Reset];
