//! Configures when an invocation is rejected.

use serde::{Deserialize, Serialize};

/// Rejects an invocation that needs a connection while the server is full or away, if its
/// deadline is nearer than the next attempt.
///
/// The invocation fails without waiting; over HTTP it is a 503 with `Retry-After`, for an event
/// an error that can be retried ([`ErrorKind::LoadShed`](crate::ErrorKind::LoadShed)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LoadShed {
    /// Never: the invocation waits until its deadline.
    Off,
    /// When the invocation asks for a connection: a handler that needs no database still
    /// runs.
    #[default]
    FirstUse,
    /// Before the handler begins, whether it would ask for a connection or not; and also
    /// while the server was last seen to be nearly full, with more than 95 % of its slots
    /// taken.
    BeforeHandler,
}
