//! Describes rows of known ErrorResponses of servers and poolers.

use crate::kind::ErrorKind;

/// A known ErrorResponse, and what it means.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The SQLSTATE begins with one of these. Empty: any SQLSTATE.
    pub(super) codes: &'static [&'static str],
    /// The message contains all words of one of these, in any case. Empty: any message.
    pub(super) words: &'static [&'static [&'static str]],
    pub(crate) kind: ErrorKind,
    /// `{parameter}` is replaced by the parameter that the message names.
    pub(crate) cause: &'static str,
    /// At most one; the remedy of the kind if empty.
    pub(super) remedy: &'static [&'static str],
}

/// Lists rows of codes, words in brackets, the kind, the cause, and a remedy if the kind's own
/// does not apply. The first row that matches applies.
macro_rules! refusals {
    ($(
        $($code:literal)|* $([$($words:expr),+])|* => $kind:ident, $cause:expr $(, $remedy:expr)?;
    )*) => {
        &[$($crate::provider::Refusal {
            codes: &[$($code),*],
            words: &[$(&[$($words),+]),*],
            kind: $crate::kind::ErrorKind::$kind,
            cause: $cause,
            remedy: &[$($remedy)?],
        }),*]
    };
}

pub(super) use refusals;

pub(super) const CLIENTS: &str = "the pooler accepts no more clients";

pub(super) const FEWER_CLIENTS: &str = "lower antifreeze's `max_connections` or the function's concurrency, or raise the pooler's limit";

pub(super) const POOL_IN_USE: &str = "the pooler had no free server connection in time";

pub(crate) const SHORTER: &str = "check for long transactions, or raise the pool size";

pub(super) const NO_SERVER: &str = "the pooler cannot reach its server";

pub(super) const CHECK_SERVER: &str =
    "check that the server is running, and the password with which the pooler connects to it";

impl Refusal {
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
