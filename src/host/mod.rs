//! What the hosts have of their own.

#[cfg(feature = "axum")]
pub(crate) mod axum;
#[cfg(feature = "lambda")]
pub(crate) mod event;
#[cfg(feature = "lambda")]
pub(crate) mod lambda;
#[cfg(feature = "vercel")]
pub(crate) mod vercel;
