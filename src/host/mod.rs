//! Integrations with hosts: Lambda, Vercel, axum, signals.

#[cfg(feature = "axum")]
pub(crate) mod axum;
#[cfg(feature = "lambda")]
pub(crate) mod event;
#[cfg(feature = "lambda")]
pub(crate) mod lambda;
pub(crate) mod signal;
mod start;
#[cfg(feature = "vercel")]
pub(crate) mod vercel;

#[cfg(feature = "lambda")]
pub use event::{EventError, EventFuture};
#[cfg(feature = "vercel")]
pub use vercel::VercelFuture;
