//! Provides the password for every connect.
//!
//! A password in the URL is read once. One that rotates, or a token that lives for
//! minutes, has to be asked for whenever a connection is made:
//! [`Config::credentials`](crate::Config::credentials) sets the provider that is asked.
//!
//! ```
//! use antifreeze::{Config, Database, credentials};
//!
//! let config = Config::from_url("postgres://app@db.example.com/shop")?
//!     .credentials(credentials::File::new("/run/secrets/database-password"));
//! let database = Database::new(config)?;
//! # Ok::<(), antifreeze::Error>(())
//! ```
//!
//! | provider | where the password comes from |
//! | --- | --- |
//! | none | the URL or [`Config::password`](crate::Config::password), once |
//! | [`File`] | a file, read anew at each connect |
//! | [`from_fn`] | a closure |
//! | the crate `antifreeze-aws` | IAM tokens for RDS, Aurora and Aurora DSQL; AWS Secrets Manager |
//! | an implementation of [`Credentials`] | any source |
//!
//! If the server or a pooler refuses the user or the password that it was given, as
//! SQLSTATE 28P01 and 28000 say and older PgBouncers under 08P01, the provider is
//! asked once more, with the refused login, and should skip its cache; the refusal is
//! reported if the answer is the same, or is refused too. Answers are never logged, and no
//! `Debug` shows them.

mod file;
mod from_fn;
pub(crate) mod text;

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

pub use file::File;
pub use from_fn::{FromFn, from_fn};

/// Provides user and password whenever a connection is opened.
///
/// Most need no implementation: [`from_fn`] makes one of a closure.
///
/// Several connections may ask at a time. A provider that asks another service should cache
/// the answer until it is [refused](Attempt::refused).
pub trait Credentials: Send + Sync {
    /// Answers for one connection. The time that it takes counts towards
    /// [`connect_timeout`](crate::Config::connect_timeout); when that is over, the future
    /// is dropped.
    ///
    /// # Errors
    ///
    /// The reason why there is no answer: it becomes the
    /// [`source`](StdError::source) of what the caller of
    /// [`connection()`](crate::connection()) gets, and must not hold a secret.
    fn login<'a>(&'a self, attempt: &'a Attempt) -> LoginFuture<'a>;

    /// Forgets what was fetched, before a snapshot of the process is taken from which many
    /// processes start ([SnapStart](crate::shutdown)). Default: there is nothing to forget.
    fn forget(&self) {}
}

/// What [`Credentials::login`] returns.
pub type LoginFuture<'a> = Pin<Box<dyn Future<Output = Result<Login, BoxError>> + Send + 'a>>;

/// Any error.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// A connection that is being made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// The host, as the configuration names it; for a unix socket, its path.
    pub host: String,
    /// The port; 0 for a unix socket.
    pub port: u16,
    /// The user that the configuration names.
    pub user: Option<String>,
    /// What the server has just refused, if it has: the same again would not help.
    pub refused: Option<Login>,
}

impl Attempt {
    /// Makes the first attempt at `host`, to test an implementation of [`Credentials`].
    pub fn new(host: impl Into<String>, port: u16, user: Option<&str>) -> Self {
        Attempt {
            host: host.into(),
            port,
            user: user.map(str::to_owned),
            refused: None,
        }
    }

    /// Returns whether the server has just refused `login`.
    pub fn has_refused(&self, login: &Login) -> bool {
        self.refused.as_ref() == Some(login)
    }
}

/// A password, and perhaps its user.
///
/// Its `Debug` shows the user alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    user: Option<String>,
    password: Vec<u8>,
}

impl Login {
    /// Makes a login of the user that the configuration names.
    pub fn password(password: impl Into<Vec<u8>>) -> Self {
        Login {
            user: None,
            password: password.into(),
        }
    }

    /// Sets the user, instead of the configured one.
    pub fn of_user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Sets user and password of `server`.
    pub(crate) fn apply(&self, server: &mut tokio_postgres::Config) {
        if let Some(user) = &self.user {
            server.user(user);
        }
        server.password(&self.password);
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_passwords_of_all_providers() {
        let mut attempt = Attempt::new("db", 5432, Some("app"));
        attempt.refused = Some(Login::password("hunter2").of_user("other"));
        let debug = format!("{attempt:?}");
        assert!(
            debug.contains("other") && !debug.contains("hunter2"),
            "{debug}"
        );
        // As bytes, neither.
        assert!(!debug.contains("104"), "{debug}");
    }

    #[test]
    fn login_names_the_user_if_known() {
        for (login, user) in [
            (Login::password("x"), "app"),
            (Login::password("x").of_user("other"), "other"),
        ] {
            let mut server = tokio_postgres::Config::new();
            server.user("app").password("old");
            login.apply(&mut server);
            assert_eq!(server.get_user(), Some(user));
            assert_eq!(server.get_password(), Some(&b"x"[..]));
        }
    }
}
