//! What the engineer on call sees: who left it open, spans, metrics, statements.

#[path = "../common/mod.rs"]
mod common;

mod dashboards;
mod left_open;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "metrics")]
mod secrets;
mod spans;
mod statements;
