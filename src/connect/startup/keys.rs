//! Keeps the keys that SCRAM derives from a password: deriving them takes 1 ms of computing.

use std::fmt;
use std::num::NonZeroU32;
use std::str;
use std::sync::Arc;

use crate::lock::Mutex;
use ring::{digest, hmac, pbkdf2};
use zeroize::Zeroizing;

/// The most keys that are kept. A server has one salt for each role; PgBouncer makes one up for
/// each process.
const MOST: usize = 4;

/// The keys derived from the password in use: those of another are discarded.
#[derive(Default)]
pub struct Keys(Mutex<Vec<Entry>>);

struct Entry {
    /// The hash of the password.
    password: Zeroizing<[u8; 32]>,
    salt: Vec<u8>,
    iterations: NonZeroU32,
    keys: Arc<Derived>,
}

/// ClientKey and ServerKey (RFC 5802, section 3).
pub(super) struct Derived {
    pub(super) client: Zeroizing<[u8; 32]>,
    pub(super) server: Zeroizing<[u8; 32]>,
}

impl Keys {
    /// Returns the keys for this password, salt and number of iterations.
    pub(super) fn derive(
        &self,
        password: &[u8],
        salt: &[u8],
        iterations: NonZeroU32,
    ) -> Arc<Derived> {
        let hash = digest::digest(&digest::SHA256, password);
        let kept = {
            let mut entries = self.0.lock();
            entries.retain(|entry| entry.password[..] == *hash.as_ref());
            let known = |entry: &&Entry| entry.salt == salt && entry.iterations == iterations;
            entries
                .iter()
                .find(known)
                .map(|entry| Arc::clone(&entry.keys))
        };
        kept.unwrap_or_else(|| {
            let keys = Arc::new(Derived::new(password, salt, iterations));
            let mut entries = self.0.lock();
            if entries.len() == MOST {
                entries.remove(0);
            }
            entries.push(Entry {
                password: zeroizing(hash.as_ref()),
                salt: salt.to_owned(),
                iterations,
                keys: Arc::clone(&keys),
            });
            keys
        })
    }

    /// Discards all keys.
    #[cfg(any(test, feature = "lambda"))]
    pub(in crate::connect) fn clear(&self) {
        self.0.lock().clear();
    }
}

impl Derived {
    fn new(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        let mut salted = Zeroizing::new([0; 32]);
        let password = normalized(password);
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            salt,
            &password,
            &mut *salted,
        );
        let key = hmac::Key::new(hmac::HMAC_SHA256, &salted[..]);
        Derived {
            client: zeroizing(hmac::sign(&key, b"Client Key").as_ref()),
            server: zeroizing(hmac::sign(&key, b"Server Key").as_ref()),
        }
    }
}

fn zeroizing(bytes: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut kept = Zeroizing::new([0; 32]);
    kept.copy_from_slice(bytes);
    kept
}

/// Normalises a password by SASLprep, as the server did when it was set: one that is not UTF-8 or
/// contains prohibited characters is used as it is.
fn normalized(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let prepared = str::from_utf8(password)
        .ok()
        .and_then(|text| stringprep::saslprep(text).ok());
    Zeroizing::new(match prepared {
        Some(text) => text.into_owned().into_bytes(),
        None => password.to_owned(),
    })
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn iterations(iterations: u32) -> NonZeroU32 {
        NonZeroU32::new(iterations).expect("not zero")
    }

    #[test]
    fn keys_are_derived_once_for_each_salt() {
        let keys = Keys::default();
        let first = keys.derive(b"secret", b"salt", iterations(2));
        for (salt, count, kept) in [(b"salt", 2, true), (b"salt", 3, false), (b"tlas", 2, false)] {
            let derived = keys.derive(b"secret", salt, iterations(count));
            assert_eq!(Arc::ptr_eq(&first, &derived), kept, "{salt:?} {count}");
            assert_eq!(first.client == derived.client, kept);
        }
    }

    #[test]
    fn keys_of_another_password_are_discarded() {
        let keys = Keys::default();
        let first = Arc::downgrade(&keys.derive(b"secret", b"salt", iterations(2)));
        assert!(first.upgrade().is_some());
        let other = Arc::downgrade(&keys.derive(b"rotated", b"salt", iterations(2)));
        assert!(first.upgrade().is_none());
        keys.clear();
        assert!(other.upgrade().is_none());
    }

    #[test]
    fn number_of_kept_keys_is_limited() {
        let keys = Keys::default();
        for salt in 0..10_u8 {
            keys.derive(b"secret", &[salt], iterations(2));
        }
        assert_eq!(keys.0.lock().len(), MOST);
    }

    #[test]
    fn secrets_are_not_in_debug() {
        let keys = Keys::default();
        keys.derive(b"secret", b"salt", iterations(2));
        assert_eq!(format!("{keys:?}"), "Keys { .. }");
    }

    /// The vectors of `stringprep` and what PostgreSQL does with passwords that are not text.
    #[test]
    fn passwords_are_normalized() {
        for (password, expected) in [
            (&b"pencil"[..], &b"pencil"[..]),
            ("I\u{ad}X".as_bytes(), b"IX"),
            ("\u{aa}".as_bytes(), b"a"),
            (b"\xff\xfe", b"\xff\xfe"),
            (b"a\x07b", b"a\x07b"),
        ] {
            assert_eq!(normalized(password).as_slice(), expected, "{password:?}");
        }
    }
}
