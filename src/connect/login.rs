//! Asks the credentials provider, once for a connection, and again if the server refuses the
//! answer.

use super::Target;
use crate::config::Settings;
use crate::credentials::{Attempt, BoxError, Credentials, Login};
use crate::error::{Error, ErrorKind, Result};
use crate::provider::NO_CREDENTIALS;

/// The logins of one connection.
pub(super) struct Logins<'a> {
    config: &'a Settings,
    /// What was tried, and with what.
    tried: Option<(Attempt, Login)>,
    /// What to try instead.
    renewed: Option<(Attempt, Login)>,
    was_renewed: bool,
}

impl<'a> Logins<'a> {
    pub(super) fn new(config: &'a Settings) -> Self {
        Logins {
            config,
            tried: None,
            renewed: None,
            was_renewed: false,
        }
    }

    /// Has `server` log in as the provider says, if there is one.
    pub(super) async fn apply(
        &mut self,
        target: &Target,
        server: &mut tokio_postgres::Config,
    ) -> Result<()> {
        let Some(credentials) = self.config.credentials.as_deref() else {
            return Ok(());
        };
        let attempt = attempt(self.config, target);
        let login = match self.renewed.take() {
            Some((meant_for, login)) if meant_for == attempt => login,
            // Nothing yet, or another host answered this time.
            _ => ask(credentials, &attempt).await?,
        };
        login.apply(server);
        self.tried = Some((attempt, login));
        Ok(())
    }

    /// Whether another connection may fare better than the one that ended with `error`.
    pub(super) async fn renew(&mut self, error: &Error) -> bool {
        if self.was_renewed || !is_refusal(error) {
            return false;
        }
        let Some(credentials) = self.config.credentials.as_deref() else {
            return false;
        };
        let Some((attempt, refused)) = self.tried.take() else {
            return false;
        };
        self.was_renewed = true;
        let again = Attempt {
            refused: Some(refused),
            ..attempt.clone()
        };
        // What the server said is told if the provider cannot answer now.
        match ask(credentials, &again).await {
            Ok(login) if !again.has_refused(&login) => {
                self.renewed = Some((attempt, login));
                true
            }
            _ => false,
        }
    }
}

fn attempt(config: &Settings, target: &Target) -> Attempt {
    let user = config.server.get_user().map(str::to_owned);
    let (host, port) = match target {
        Target::Tcp { address, host, .. } => (host.clone(), address.port()),
        #[cfg(unix)]
        Target::Unix(path) => (path.display().to_string(), 0),
    };
    Attempt {
        host,
        port,
        user,
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

/// The server, or a pooler, does not take the user, or not with this password. A secret
/// may name another user, too.
fn is_refusal(error: &Error) -> bool {
    let refused = matches!(
        error.kind(),
        ErrorKind::Authentication | ErrorKind::RoleMissing
    );
    refused && error.sqlstate().is_some()
}
