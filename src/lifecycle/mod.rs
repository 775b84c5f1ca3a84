//! The start and the end of a process: connections opened early, and closed at last.

mod close;
#[cfg(feature = "lambda")]
mod snapshot;
mod warm_up;

pub(crate) use close::close_idle;
pub use close::{Close, Closed};
#[cfg(feature = "lambda")]
pub(crate) use snapshot::Snapshot;
pub use warm_up::{WarmUp, WarmedUp};
