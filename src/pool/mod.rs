//! Pools connections, which stay open between invocations.
//!
//! There is a pool for each tokio runtime: a connection is driven by the runtime that it was
//! opened on, and used on no other. The pool does not depend on invocations.

mod checkout;
mod lease;
mod pools;
mod stale;

pub(crate) use checkout::Permit;
pub(crate) use lease::{Lease, Reservation};
pub(crate) use pools::{Pool, Pools};

#[cfg(all(test, unix))]
mod tests;
