//! What a cluster should be like.

use super::{Installation, Postgres, cluster::Cluster};
use crate::{
    Result,
    background::blocking,
    certificates::{Authority, Identity},
};

/// How PostgreSQL checks who connects over TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Auth {
    /// Not at all.
    #[default]
    Trust,
    /// SCRAM-SHA-256 with the password [`Postgres::PASSWORD`].
    Scram,
}

/// What [`Postgres::builder`] collects.
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until it is started"]
pub struct Builder {
    pub(super) installation: Option<Installation>,
    pub(super) settings: Vec<(String, String)>,
    pub(super) rules: Vec<String>,
    pub(super) auth: Auth,
    pub(super) tls: Tls,
}

#[derive(Debug, Default)]
pub(super) enum Tls {
    #[default]
    Off,
    On,
    Custom {
        authority_pem: String,
        identity: Identity,
    },
}

impl Builder {
    /// The server to run; otherwise what [`Installation::find`] finds.
    pub fn installation(mut self, installation: Installation) -> Self {
        self.installation = Some(installation);
        self
    }

    /// A setting for `postgresql.conf`, stronger than the lab's own.
    pub fn setting(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.settings.push((name.into(), value.to_string()));
        self
    }

    /// How clients prove who they are; [`Auth::Trust`] otherwise.
    pub fn auth(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    /// A line for `pg_hba.conf`, before the lab's own: `hostnossl all all all
    /// reject` insists on TLS, `hostssl all all all cert` on a client certificate.
    pub fn rule(mut self, line: impl Into<String>) -> Self {
        self.rules.push(line.into());
        self
    }

    /// Offers TLS with a fresh certificate for `localhost` and `127.0.0.1`. Clients
    /// without TLS are still welcome: see [`rule`](Builder::rule).
    pub fn tls(mut self, on: bool) -> Self {
        self.tls = if on { Tls::On } else { Tls::Off };
        self
    }

    /// Offers TLS with this certificate, and accepts client certificates of
    /// `authority`.
    pub fn tls_with(mut self, authority: &Authority, identity: Identity) -> Self {
        self.tls = Tls::Custom {
            authority_pem: authority.pem().to_owned(),
            identity,
        };
        self
    }

    /// Makes the cluster and waits until it accepts connections.
    ///
    /// # Errors
    /// When no server is found, or it does not start: the error holds the end of
    /// its log.
    pub async fn start(self) -> Result<Postgres> {
        blocking(|| self.start_blocking()).await
    }

    /// Like [`start`](Builder::start), where there is no tokio.
    ///
    /// # Errors
    /// Those of [`start`](Builder::start).
    pub fn start_blocking(self) -> Result<Postgres> {
        Cluster::start(self).map(Postgres::new)
    }
}
