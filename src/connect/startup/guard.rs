//! Restricts what a server may ask for during authentication.
//!
//! An impostor of the server, or a man in the middle, would get the password otherwise (manual,
//! "Database Connection Control Functions", `require_auth`).

use crate::config::Method;

/// What the server may ask for.
pub(crate) struct Guard<'a> {
    permits: Box<dyn Fn(Method) -> bool + Send + Sync + 'a>,
    /// Authentication has to be bound to the TLS connection.
    pub(super) bound: bool,
}

/// Why a request of the server was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The method is not permitted.
    Method(Method),
    /// Channel binding is required, and is not offered.
    Unbound,
}

impl<'a> Guard<'a> {
    pub(crate) fn new(permits: impl Fn(Method) -> bool + Send + Sync + 'a, bound: bool) -> Self {
        Guard {
            permits: Box::new(permits),
            bound,
        }
    }

    pub(super) fn check(&self, method: Method) -> Result<(), Refusal> {
        if !(self.permits)(method) {
            Err(Refusal::Method(method))
        } else if self.bound && method != Method::Scram {
            Err(Refusal::Unbound)
        } else {
            Ok(())
        }
    }
}
