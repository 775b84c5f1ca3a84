//! Options of connecting, and the steps that it reports to the doctor.

use std::time::Duration;

use super::Target;
use crate::tally::Tally;
use crate::tls::Encrypted;

/// A completed step of connecting.
pub enum Progress<'a> {
    /// A host name was resolved.
    Resolved {
        /// Its addresses, in the order in which they are tried.
        targets: &'a [Target],
        /// How long it took.
        took: Duration,
    },
    /// The TCP handshake is complete.
    Dialled {
        /// The address.
        target: &'a Target,
        /// How long the handshake took.
        round_trip: Duration,
    },
    /// The session will not be encrypted.
    InTheClear {
        /// The address.
        target: &'a Target,
    },
    /// The TLS handshake is complete.
    Encrypted {
        /// What was negotiated.
        encrypted: &'a Encrypted,
    },
}

/// Options of one connect, which differ from those of an invocation for tools and tests.
#[derive(Clone, Copy)]
pub struct ConnectOptions<'a> {
    /// Makes a single attempt, even if the error is transient.
    pub once: bool,
    /// Fails if a pooler rejects a setting, which is omitted otherwise.
    pub strict: bool,
    /// Sends named statements unchanged through a transaction pooler.
    pub named: bool,
    /// The time that the invocation was granted that the session is opened for: the server's
    /// timeouts follow it.
    pub granted: Option<Duration>,
    /// Is called after each step.
    pub watch: &'a (dyn Fn(Progress<'_>) + Send + Sync),
    /// Counts abandoned connections until the server has closed them.
    pub closing: Option<&'a Tally>,
}

impl ConnectOptions<'static> {
    /// The options of an invocation.
    pub const DEFAULT: Self = ConnectOptions {
        once: false,
        strict: false,
        named: false,
        granted: None,
        watch: &|_| {},
        closing: None,
    };
}
