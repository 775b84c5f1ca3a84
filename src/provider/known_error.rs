//! The type of the tables that explain ErrorResponses of servers and poolers.

use crate::kind::ErrorKind;

/// A row of such a table: the ErrorResponses that it applies to, and their meaning.
#[derive(Debug)]
pub(crate) struct KnownError {
    /// The beginnings of SQLSTATEs to which the row applies; if empty, it applies to all.
    pub(super) codes: &'static [&'static str],
    /// Sets of words, in any case. The row applies to messages that contain all words of one set;
    /// if there is no set, to all messages.
    pub(super) words: &'static [&'static [&'static str]],
    pub(crate) kind: ErrorKind,
    /// What happened. `{parameter}` stands for the parameter that the message names.
    pub(crate) cause: &'static str,
    /// The remedy; if the slice is empty, that of the kind applies.
    pub(super) remedy: &'static [&'static str],
}

/// Makes a table, one row for each line: codes, words in brackets, the kind, the cause, and a
/// remedy if the kind's own does not fit. The first row that applies is used.
macro_rules! known_errors {
    ($(
        $($code:literal)|* $([$($words:expr),+])|* => $kind:ident, $cause:expr $(, $remedy:expr)?;
    )*) => {
        &[$($crate::provider::KnownError {
            codes: &[$($code),*],
            words: &[$(&[$($words),+]),*],
            kind: $crate::kind::ErrorKind::$kind,
            cause: $cause,
            remedy: &[$($remedy)?],
        }),*]
    };
}

pub(super) use known_errors;

pub(super) const NO_MORE_CLIENTS: &str = "the pooler accepts no more clients";

pub(super) const FEWER_CLIENTS: &str = "lower antifreeze's `max_connections` or the function's concurrency, or raise the pooler's limit";

pub(super) const POOL_IN_USE: &str = "the pooler had no free server connection in time";

pub(crate) const CHECK_POOL: &str = "check for long transactions, or raise the pool size";

pub(super) const NO_SERVER: &str = "the pooler cannot reach its server";

pub(super) const CHECK_SERVER: &str =
    "check that the server is running, and the password with which the pooler connects to it";

impl KnownError {
    pub(crate) fn remedy(&self) -> &'static str {
        self.remedy.first().copied().unwrap_or(self.kind.remedy())
    }

    /// Returns whether this row applies; `text` is in lower case.
    pub(super) fn matches(&self, code: &str, text: &str) -> bool {
        let contained = |words: &&str| text.contains(&words.to_ascii_lowercase());
        (self.codes.is_empty() || self.codes.iter().any(|prefix| code.starts_with(prefix)))
            && (self.words.is_empty() || self.words.iter().any(|all| all.iter().all(contained)))
    }
}
