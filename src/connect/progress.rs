//! How far connecting has come, for who wants to see each step: the doctor.

use std::time::Duration;

use super::Target;
use crate::tally::Tally;
use crate::tls::Encrypted;

/// A step that was taken.
#[cfg_attr(not(feature = "doctor"), allow(dead_code))]
pub(crate) enum Progress<'a> {
    /// The name of a host stands for these addresses.
    Resolved {
        targets: &'a [Target],
        took: Duration,
    },
    /// TCP has shaken hands.
    Dialled {
        target: &'a Target,
        round_trip: Duration,
    },
    /// The session will be in the clear.
    InTheClear { target: &'a Target },
    /// TLS has shaken hands.
    Encrypted { encrypted: &'a Encrypted },
}

/// How to connect, where it is done otherwise than for an invocation.
#[derive(Clone, Copy)]
pub(crate) struct Manner<'a> {
    /// Named statements are sent as they are, whatever the path.
    pub(crate) named: bool,
    pub(crate) watch: &'a (dyn Fn(Progress<'_>) + Send + Sync),
    /// Counts what was given up half-way, until the server has closed it.
    pub(crate) leaving: Option<&'a Tally>,
}

impl Manner<'_> {
    pub(crate) const USUAL: Manner<'static> = Manner {
        named: false,
        watch: &|_| {},
        leaving: None,
    };
}
