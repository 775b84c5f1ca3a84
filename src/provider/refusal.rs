//! What poolers say, in their own words and under whatever code.

use super::ALL;
use crate::kind::ErrorKind;

/// Words with which a pooler or a provider refuses, and what they mean.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// All of them, in whatever case, stand in the message, behind its SQLSTATE and a colon.
    pub(super) words: &'static [&'static str],
    pub(crate) kind: ErrorKind,
    /// `{parameter}` stands for the one that the message names at its end.
    pub(crate) cause: &'static str,
    pub(crate) remedy: &'static str,
}

pub(super) const CLIENTS: &str = "the pooler takes no more clients";

pub(super) const FEWER_CLIENTS: &str =
    "lower `max_connections` or the function's concurrency, or raise the pooler's limit";

pub(super) const POOL_IN_USE: &str =
    "all of the pooler's servers were in use for as long as it waits";

pub(crate) const SHORTER: &str =
    "look for what holds them, such as a long transaction, or give the pooler more of them";

impl Refusal {
    pub(super) const fn new(
        words: &'static [&'static str],
        kind: ErrorKind,
        cause: &'static str,
        remedy: &'static str,
    ) -> Self {
        Refusal {
            words,
            kind,
            cause,
            remedy,
        }
    }

    /// It, or what is behind it, is full.
    pub(super) const fn full(
        words: &'static [&'static str],
        cause: &'static str,
        remedy: &'static str,
    ) -> Self {
        Refusal::new(words, ErrorKind::TooManyConnections, cause, remedy)
    }

    /// It does not reach the server.
    pub(super) const fn no_server(words: &'static [&'static str]) -> Self {
        Refusal::new(
            words,
            ErrorKind::Unreachable,
            "the pooler is there, and cannot reach the server behind it",
            "is the server running, and does the pooler have the right password for it?",
        )
    }
}

/// The refusal that an ErrorResponse is known by.
///
/// The words are no interface and change from one release to the next: a text that is not
/// known falls back to its code.
pub(crate) fn refusal(code: &str, message: &str) -> Option<&'static Refusal> {
    let said = format!("{code}: {message}").to_ascii_lowercase();
    let says = |words: &&str| said.contains(&words.to_ascii_lowercase());
    ALL.iter()
        .flat_map(|provider| provider.refusals)
        .find(|refusal| refusal.words.iter().all(says))
}
