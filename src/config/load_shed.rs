//! Load shedding: which invocations are turned away.

use serde::{Deserialize, Serialize};

/// What becomes of an invocation that needs a connection while the server is full or
/// away, and whose deadline is nearer than the next try.
///
/// It is told without waiting; over HTTP it is a 503 with `Retry-After`, for an event
/// an error that can be retried ([`ErrorKind::LoadShed`](crate::ErrorKind::LoadShed)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LoadShed {
    /// It waits for as long as it can, whatever is known.
    Off,
    /// It is told when it asks for a connection that it cannot have: a handler that can do
    /// without the database still runs.
    #[default]
    FirstUse,
    /// It is told before the handler begins, whether it would ask or not; and also while
    /// the server was just seen to be all but full, with more than 95 % of its slots taken.
    BeforeHandler,
}
