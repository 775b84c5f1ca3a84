//! Reports what happens, as events and spans of `tracing` and as metrics.
//!
//! None of them contains SQL, values or messages of the server, which may quote values.

mod events;
mod meters;
pub(crate) mod span;

pub(crate) use events::*;
pub use meters::{Kind, METRICS, Metric, Unit};
pub(crate) use meters::{Meters, Stamp};
pub(crate) use span::Peer;
