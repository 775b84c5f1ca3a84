//! Restricts the authentication methods that a server may ask for (manual, "Database
//! Connection Control Functions", `require_auth`).

use std::fmt;
use std::str::FromStr;

use crate::config::spelling::shown;
use crate::error::{Error, Result};

/// An authentication method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// The password itself.
    Password,
    /// The password, hashed with MD5.
    Md5,
    /// SCRAM-SHA-256, with or without channel binding.
    Scram,
    /// Nothing, or a client certificate.
    None,
    /// A method that only libpq supports.
    Foreign(&'static str),
}

impl Method {
    /// libpq's names.
    const NAMES: [(&'static str, Method); 7] = [
        ("password", Method::Password),
        ("md5", Method::Md5),
        ("scram-sha-256", Method::Scram),
        ("none", Method::None),
        ("gss", Method::Foreign("gss")),
        ("sspi", Method::Foreign("sspi")),
        ("oauth", Method::Foreign("oauth")),
    ];
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Method::NAMES.iter().find(|(_, method)| method == self);
        f.write_str(named.map_or("", |(name, _)| name))
    }
}

/// The authentication methods that the server may ask for, as libpq's
/// `require_auth`: a list of `none`, `password`, `md5` and `scram-sha-256`, or a list
/// of those that it may not ask for, each with a `!` in front.
///
/// A method that is listed is also taken where it would not be safe: `password` and
/// `md5` over TLS that is not verified, or over none.
///
/// ```
/// let required: antifreeze::config::RequireAuth = "scram-sha-256".parse()?;
/// let forbidden: antifreeze::config::RequireAuth = "!password,!md5".parse()?;
/// # let _ = (required, forbidden);
/// # Ok::<(), antifreeze::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequireAuth {
    methods: Vec<Method>,
    /// The methods are forbidden, and all others are permitted.
    pub(super) negated: bool,
}

impl RequireAuth {
    /// Returns whether `method` is permitted, if it is listed.
    pub(super) fn permits(&self, method: Method) -> Option<bool> {
        self.methods.contains(&method).then_some(!self.negated)
    }
}

impl FromStr for RequireAuth {
    type Err = Error;

    /// # Errors
    ///
    /// An unknown method, names with and without `!` in one list, or no method left that is
    /// supported.
    fn from_str(text: &str) -> Result<Self> {
        let given = shown("require_auth", text);
        let mut required = RequireAuth {
            methods: Vec::new(),
            negated: text.trim_start().starts_with('!'),
        };
        for name in text.split(',').map(str::trim) {
            let (negated, bare) = match name.strip_prefix('!') {
                Some(bare) => (true, bare),
                None => (false, name),
            };
            let Some(&(_, method)) = Method::NAMES.iter().find(|(known, _)| *known == bare) else {
                return Err(Error::configuration(format!(
                    "{given} is not valid: expected a list of none, password, md5, \
                     scram-sha-256, all of them or none with a ! in front"
                )));
            };
            if negated != required.negated {
                return Err(Error::configuration(format!(
                    "{given}: either all have a ! in front, or none"
                )));
            }
            required.methods.push(method);
        }
        let permits = |method| required.permits(method).unwrap_or(required.negated);
        if ![Method::Password, Method::Md5, Method::Scram, Method::None]
            .map(permits)
            .contains(&true)
        {
            return Err(Error::configuration(format!(
                "{given} leaves nothing that this driver can do: none, password, \
                 md5, scram-sha-256"
            )));
        }
        Ok(required)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Tls;

    #[test]
    fn cleartext_password_needs_a_safe_channel() {
        use Method::{Md5, None as Nothing, Password, Scram};
        for (required, method, unsafely, safely) in [
            (None, Password, false, true),
            (None, Md5, false, true),
            (None, Scram, true, true),
            (None, Nothing, true, true),
            (Some("password"), Password, true, true),
            (Some("password"), Md5, false, false),
            (Some("md5,scram-sha-256"), Md5, true, true),
            (Some("md5, scram-sha-256"), Scram, true, true),
            (Some("scram-sha-256"), Nothing, false, false),
            (Some("!md5"), Md5, false, false),
            (Some("!md5"), Password, false, true),
            (Some("!md5,!none"), Scram, true, true),
            (Some("!md5,!none"), Nothing, false, false),
            (Some("gss,scram-sha-256"), Scram, true, true),
        ] {
            let tls = Tls {
                require_auth: required.map(|text| text.parse().expect(text)),
                ..Tls::default()
            };
            let shown = format!("{required:?} {method}");
            assert_eq!(tls.permits(method, false), unsafely, "{shown}");
            assert_eq!(tls.permits(method, true), safely, "{shown}");
        }
    }

    #[test]
    fn contradicting_methods_are_named() {
        for (text, word) in [
            ("scram", "expected a list of"),
            ("", "expected a list of"),
            ("md5,,none", "expected a list of"),
            ("md5,!none", "either all"),
            ("!md5,none", "either all"),
            ("gss,sspi", "leaves nothing"),
            ("!none,!password,!md5,!scram-sha-256", "leaves nothing"),
        ] {
            let error = text.parse::<RequireAuth>().expect_err(text).to_string();
            assert!(
                error.contains(word) && error.contains("require_auth"),
                "{error}"
            );
        }
    }
}
