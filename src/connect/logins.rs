//! Asks the credentials provider for the login of a connection, and again if the server
//! rejects it.

use super::Target;
use crate::config::Settings;
use crate::credentials::{Attempt, BoxError, Credentials, Login};
use crate::error::{Error, ErrorKind, Result};
use crate::provider::NO_CREDENTIALS;

/// The login of one connect, retries included.
pub(super) struct Logins<'a> {
    credentials: &'a dyn Credentials,
    user: Option<&'a str>,
    /// The login, and the attempt that it was asked for.
    login: Option<(Attempt, Login)>,
    was_renewed: bool,
}

impl<'a> Logins<'a> {
    /// `None`: there is no credentials provider.
    pub(super) fn new(config: &'a Settings) -> Option<Self> {
        Some(Logins {
            credentials: config.credentials.as_deref()?,
            user: config.server.get_user(),
            login: None,
            was_renewed: false,
        })
    }

    /// Sets the user and password of `server` to those of the provider.
    pub(super) async fn apply(
        &mut self,
        target: &Target,
        server: &mut tokio_postgres::Config,
    ) -> Result<()> {
        let attempt = attempt(self.user, target);
        let login = match self.login.take() {
            Some((known_for, login)) if known_for == attempt => login,
            // There is none yet, or another host accepted the connection this time.
            _ => ask(self.credentials, &attempt).await?,
        };
        login.apply(server);
        self.login = Some((attempt, login));
        Ok(())
    }

    /// Asks for another login if the server rejected this one with `error`. Returns whether to
    /// connect again.
    pub(super) async fn renew(&mut self, error: &Error) -> bool {
        if self.was_renewed || !is_rejected(error) {
            return false;
        }
        let Some((attempt, refused)) = self.login.take() else {
            return false;
        };
        self.was_renewed = true;
        let again = Attempt {
            refused: Some(refused),
            ..attempt.clone()
        };
        // If the provider fails now, the server's error is returned.
        let login = ask(self.credentials, &again).await.ok();
        self.login = login
            .filter(|login| !again.has_refused(login))
            .map(|login| (attempt, login));
        self.login.is_some()
    }
}

fn attempt(user: Option<&str>, target: &Target) -> Attempt {
    let (host, port) = match target {
        Target::Tcp { address, host, .. } => (host.clone(), address.port()),
        #[cfg(unix)]
        Target::Unix(path) => (path.display().to_string(), 0),
    };
    Attempt {
        host,
        port,
        user: user.map(str::to_owned),
        refused: None,
    }
}

async fn ask(credentials: &dyn Credentials, attempt: &Attempt) -> Result<Login> {
    let failed = |error: BoxError| match error.downcast::<Error>() {
        Ok(ours) => *ours,
        Err(error) => Error::new(ErrorKind::Unreachable, "the credentials provider failed")
            .with_remedy(NO_CREDENTIALS)
            .with_source(error),
    };
    credentials.login(attempt).await.map_err(failed)
}

/// Returns whether the server or a pooler rejected user or password. A new secret may name
/// another user, too.
fn is_rejected(error: &Error) -> bool {
    let kinds = [ErrorKind::Authentication, ErrorKind::RoleMissing];
    kinds.contains(&error.kind()) && error.sqlstate().is_some()
}
