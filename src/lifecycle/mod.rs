//! Opens connections at the start of a process, and closes them at its end.

mod close;
#[cfg(feature = "vercel")]
mod linger;
#[cfg(feature = "lambda")]
mod snapshot;
mod warm_up;

pub(crate) use close::close_idle;
pub use close::{Close, Closed};
#[cfg(feature = "vercel")]
pub(crate) use linger::{Linger, Requests};
#[cfg(feature = "lambda")]
pub(crate) use snapshot::SnapStart;
pub use warm_up::{WarmUp, WarmedUp};
