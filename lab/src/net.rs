//! Ports on loopback.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, Hasher, RandomState},
    net::{Ipv4Addr, TcpListener},
    sync::{Mutex, PoisonError},
};

use crate::{Error, Result};

/// Below the ranges that kernels take for outgoing connections (Linux 32768 and
/// up, macOS 49152 and up): a server can always come back on its port, and a
/// client that tries a port whose server is down cannot connect to itself.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The ports that were given out here: one that is free for a moment, since its server has not
/// started or is down, is not given to another.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Listens on a free port of 127.0.0.1.
pub(crate) fn listen() -> Result<TcpListener> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    if given.len() > PORTS.len() / 2 {
        given.clear();
    }
    for _ in 0..1000 {
        let port = PORTS.start + (random() % u64::from(PORTS.end - PORTS.start)) as u16;
        if !given.insert(port) {
            continue;
        }
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok(listener);
        }
    }
    Err(Error::new(format!(
        "found no free port on 127.0.0.1 between {} and {}: end some of what listens there",
        PORTS.start, PORTS.end
    )))
}

/// A port of 127.0.0.1 that was free a moment ago, for a server that binds it itself.
///
/// # Errors
/// When none is free.
pub fn free_port() -> Result<u16> {
    let listener = listen()?;
    match listener.local_addr() {
        Ok(address) => Ok(address.port()),
        Err(error) => Err(Error::because("a listener without an address", error)),
    }
}

/// A number that differs between processes and calls; not for secrets.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
