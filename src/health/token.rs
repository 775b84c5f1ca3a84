//! Checks the bearer token that gives access to the details of the health report.

use std::fmt;

use http::{HeaderMap, header};
use ring::hmac;
use ring::rand::SystemRandom;

use crate::error::{Error, Result};

/// A token that a client has to present. Only an HMAC tag of it is kept, under a random key of
/// this process: tags are compared in constant time, and reveal nothing about the token.
pub(super) struct Token {
    key: hmac::Key,
    tag: hmac::Tag,
}

impl Token {
    pub(super) fn new(token: &str) -> Result<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let key = key.map_err(|_| {
            Error::configuration(
                "the operating system returned no random numbers, which `health_token` needs: unset it",
            )
        })?;
        let tag = hmac::sign(&key, token.as_bytes());
        Ok(Token { key, tag })
    }

    /// Returns whether `Authorization: Bearer ..` (RFC 6750, section 2.1) presents the token.
    pub(super) fn is_presented(&self, headers: &HeaderMap) -> bool {
        let value = headers.get(header::AUTHORIZATION);
        let value = value.map_or(&[][..], |value| value.as_bytes());
        let Some(space) = value.iter().position(|&byte| byte == b' ') else {
            return false;
        };
        let (scheme, token) = value.split_at(space);
        scheme.eq_ignore_ascii_case(b"bearer")
            && hmac::verify(&self.key, token.trim_ascii(), self.tag.as_ref()).is_ok()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const TOKEN: &str = "hunter2-hunter2-hunter2";

    #[test]
    fn only_the_exact_token_is_accepted() {
        let token = Token::new(TOKEN).expect("a key");
        let presented = |value: &str| {
            let value = HeaderValue::from_str(value).expect("a value");
            token.is_presented(&HeaderMap::from_iter([(header::AUTHORIZATION, value)]))
        };
        assert!(!token.is_presented(&HeaderMap::new()));
        for (value, expected) in [
            ("Bearer hunter2-hunter2-hunter2", true),
            ("bearer  hunter2-hunter2-hunter2 ", true),
            ("Bearer hunter2-hunter2-hunter", false),
            ("Bearer hunter2-hunter2-hunter2x", false),
            ("Bearer Hunter2-hunter2-hunter2", false),
            ("Bearer", false),
            ("Bearer ", false),
            ("", false),
            ("hunter2-hunter2-hunter2", false),
            ("Basic hunter2-hunter2-hunter2", false),
        ] {
            assert_eq!(presented(value), expected, "{value}");
        }
        assert!(!format!("{token:?}").contains("hunter2"));
    }
}
