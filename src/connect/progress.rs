//! Reports the steps of connecting, for the doctor.

use std::time::Duration;

use super::Target;
use crate::tally::Tally;
use crate::tls::Encrypted;

/// A step that was taken.
pub enum Progress<'a> {
    /// The name of a host stands for these addresses.
    Resolved {
        /// In the order in which they are tried.
        targets: &'a [Target],
        /// How long asking took.
        took: Duration,
    },
    /// TCP has shaken hands.
    Dialled {
        /// Where.
        target: &'a Target,
        /// How long it took.
        round_trip: Duration,
    },
    /// The session will be in the clear.
    InTheClear {
        /// Where.
        target: &'a Target,
    },
    /// TLS has shaken hands.
    Encrypted {
        /// What was agreed on.
        encrypted: &'a Encrypted,
    },
}

/// How to connect, where it is done otherwise than for an invocation.
#[derive(Clone, Copy)]
pub struct Manner<'a> {
    /// Once, and with what a pooler refuses told and not left out.
    pub(crate) strict: bool,
    /// Named statements are sent as they are, whatever the path.
    pub(crate) named: bool,
    /// Is told of each step.
    pub(crate) watch: &'a (dyn Fn(Progress<'_>) + Send + Sync),
    /// Counts what was given up half-way, until the server has closed it.
    pub(crate) leaving: Option<&'a Tally>,
}

impl<'a> Manner<'a> {
    /// As for an invocation.
    pub const USUAL: Manner<'static> = Manner {
        strict: false,
        named: false,
        watch: &|_| {},
        leaving: None,
    };

    /// Once, and with what a pooler refuses told and not left out.
    #[must_use]
    pub fn strict(self) -> Self {
        Manner {
            strict: true,
            ..self
        }
    }

    /// With named statements sent as they are, whatever the path.
    #[must_use]
    pub fn named(self) -> Self {
        Manner {
            named: true,
            ..self
        }
    }

    /// With `watch` told of each step.
    #[must_use]
    pub fn watched(self, watch: &'a (dyn Fn(Progress<'_>) + Send + Sync)) -> Self {
        Manner { watch, ..self }
    }
}
