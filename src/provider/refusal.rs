//! Refusals: what an ErrorResponse of a server or pooler means.

use super::{ALL, postgresql};
use crate::kind::ErrorKind;

/// The meaning of an ErrorResponse.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Its SQLSTATE is one of these, or begins with it. None: whatever it is.
    pub(super) codes: &'static [&'static str],
    /// In whatever case all words of one of these stand in its message. None: whatever does.
    pub(super) words: &'static [&'static [&'static str]],
    pub(crate) kind: ErrorKind,
    /// `{parameter}` stands for the one that the message names.
    pub(crate) cause: &'static str,
    /// One at most.
    pub(super) remedy: &'static [&'static str],
}

/// Rows of codes, words in brackets, the kind, the cause, and a remedy if the kind's own does
/// not fit. The first that fits holds.
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

pub(super) const FEWER_CLIENTS: &str =
    "lower `max_connections` or the function's concurrency, or raise the pooler's limit";

pub(super) const POOL_IN_USE: &str = "the pooler had no free server connection in time";

pub(crate) const SHORTER: &str = "look for long transactions, or raise the pool size";

pub(super) const NO_SERVER: &str = "the pooler cannot reach its server";

pub(super) const LET_IT_IN: &str =
    "check that the server is running, and the password that the pooler uses";

impl Refusal {
    pub(crate) fn remedy(&self) -> &'static str {
        self.remedy.first().copied().unwrap_or(self.kind.remedy())
    }

    fn fits(&self, code: &str, text: &str) -> bool {
        let begins = |begin: &&str| code.starts_with(begin);
        let stands = |words: &&str| text.contains(&words.to_ascii_lowercase());
        (self.codes.is_empty() || self.codes.iter().any(begins))
            && (self.words.is_empty() || self.words.iter().any(|all| all.iter().all(stands)))
    }
}

/// What an ErrorResponse means; `at_start`: it answers the start-up packet.
///
/// Poolers put nearly everything under a few codes. Their words are no interface and change
/// from one release to the next: a text that is not known falls back to its code.
pub(crate) fn refusal(
    code: &str,
    message: &str,
    routine: &str,
    at_start: bool,
) -> &'static Refusal {
    let poolers = ["08P01", "08006", "XX000", "53300", "0A000", "28000"];
    let pooler = at_start || poolers.contains(&code);
    let rows = |wanted: bool, rows: &'static [Refusal]| rows.iter().filter(move |_| wanted);
    let text = format!("{message}\n{routine}").to_ascii_lowercase();
    ALL.iter()
        .flat_map(|provider| rows(pooler, provider.refusals))
        .chain(rows(at_start, postgresql::AT_START))
        .chain(postgresql::REFUSALS)
        .find(|refusal| refusal.fits(code, &text))
        .unwrap_or(&postgresql::OTHERS[usize::from(at_start)])
}
