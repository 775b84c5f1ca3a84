//! Errors of connecting, up to the beginning of a session.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::time::Duration;

use super::driver::is_lost;
use super::meaning::{Said, shown};
use super::{Error, ErrorKind};
use crate::provider::{Host, PASSWORD_UNANSWERED};

/// How far connecting had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The name was being looked up.
    Resolve,
    /// TCP was shaking hands.
    Connect,
    /// The server was asked whether it takes TLS (SSLRequest).
    AskTls,
    /// TLS was shaking hands.
    Tls,
    /// The provider of the password was being asked.
    Credentials,
    /// The start-up packet was sent, and perhaps a password.
    Authenticate,
}

/// The address that was dialled, and what it tells.
#[derive(Clone, Copy)]
pub(crate) struct Dialled<'a> {
    pub(crate) target: &'a (dyn fmt::Display + Sync),
    /// The name that it was found by.
    pub(crate) host: &'a str,
    /// This very machine.
    pub(crate) loopback: bool,
    /// Of all that the name stands for there is no IPv4 address.
    pub(crate) only_ipv6: bool,
    /// The container or host that the process runs in, where `localhost` is the process itself.
    pub(crate) inside: Option<&'static str>,
}

/// The target of a login: address, user and database.
#[derive(Clone, Copy)]
pub(crate) struct Goal<'a> {
    pub(crate) target: &'a (dyn fmt::Display + Sync),
    pub(crate) user: Option<&'a str>,
    pub(crate) database: Option<&'a str>,
    /// The password is that of a provider.
    pub(crate) provided: bool,
}

/// A lost SYN has no answer before this: the first is repeated after 1 s
/// (RFC 6298, section 2).
const LONG_ENOUGH: Duration = Duration::from_secs(1);

const IPV6: &str = "it has an IPv6 address only: name one with IPv4, or give the function IPv6";

const MOVED: &str = "check the directory of the socket, and that the server runs on this machine";

const NO_ANSWER: &str = "PostgreSQL answers an SSLRequest at once: check the port, and that every proxy in between passes it on; on a private network sslmode=disable avoids it";

const NO_SESSION: &str = "check the log of the pooler, which may not reach its own server; if the server is only slow, raise `connect_timeout` or the function's timeout";

const UNNAMED: &str = "no user is given, so the operating system's user name was used; ";

impl Error {
    /// The name has no address.
    pub(crate) fn not_resolved(host: &str, error: io::Error) -> Self {
        let unresolved = Error::caused(
            ErrorKind::NameNotResolved,
            format!("the host name {} cannot be resolved", shown(host)),
        );
        let unresolved = match Host::of(host).unreachable {
            Some(remedy) => unresolved.with_remedy(remedy),
            None => unresolved,
        };
        unresolved.with_source(error)
    }

    /// TCP, or the unix socket, did not connect.
    pub(crate) fn not_connected(at: Dialled<'_>, error: io::Error) -> Self {
        let target = at.target;
        let not_connected = match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                let refused = format!("connection to {target} refused: nothing listens there");
                let refused = Error::caused(ErrorKind::Refused, refused);
                match at.inside.filter(|_| at.loopback) {
                    Some(inside) => refused.with_remedy(format!(
                        "inside {inside} {} is {inside} itself: name the database's own host",
                        at.host
                    )),
                    None => refused,
                }
            }
            io::ErrorKind::NotFound => Error::new(
                ErrorKind::Refused,
                format!("the socket {target} does not exist"),
            )
            .with_remedy(MOVED),
            io::ErrorKind::TimedOut => blocked(at, None),
            io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::AddrNotAvailable
                if at.only_ipv6 =>
            {
                Error::new(ErrorKind::Unreachable, format!("no route to {target}"))
                    .with_remedy(ipv6(at.host))
            }
            _ => Error::caused(
                ErrorKind::Unreachable,
                format!("{target} cannot be connected to"),
            ),
        };
        not_connected.with_source(error)
    }

    /// The time was over.
    pub(crate) fn connecting_took(phase: Phase, after: Duration, at: Option<Dialled<'_>>) -> Self {
        let silent = at.filter(|_| phase == Phase::Connect && after >= LONG_ENOUGH);
        if let Some(at) = silent {
            return blocked(at, Some(after));
        }
        let target = match &at {
            Some(at) => at.target,
            None => &"the database",
        };
        let late = Error::caused(
            ErrorKind::ConnectTimeout,
            format!("timed out after {after:.1?} while connecting to {target}, during {phase}"),
        );
        match phase {
            Phase::Credentials => late.with_remedy(PASSWORD_UNANSWERED),
            Phase::AskTls => late.with_remedy(NO_ANSWER),
            Phase::Authenticate => late.with_remedy(NO_SESSION),
            _ => late,
        }
    }

    /// The server, or a pooler, did not begin the session.
    pub(crate) fn not_started(goal: Goal<'_>, error: tokio_postgres::Error) -> Self {
        let (kind, cause, remedy) = match error.as_db_error() {
            Some(said) => {
                let said = Said {
                    at_start: true,
                    provided: goal.provided,
                    ..Said::by(said)
                };
                let meaning = said.meaning();
                let cause = meaning.cause_with(said.code);
                (meaning.kind, Cow::Owned(cause), meaning.remedy)
            }
            None if is_lost(&error) => (
                ErrorKind::Closed,
                "the connection was closed before the session began".into(),
                "see the log of the server, or of the pooler in between",
            ),
            None => match error.to_string().as_str() {
                "authentication error" => (
                    ErrorKind::Authentication,
                    "the authentication method is not supported".into(),
                    "see the source for the method; use scram-sha-256",
                ),
                // The one thing that tokio-postgres can miss this late.
                "invalid configuration" => (
                    ErrorKind::Authentication,
                    "a password is required, and none is set".into(),
                    "add one to the URL or to its variable",
                ),
                _ => (
                    ErrorKind::Database,
                    "the answer is not PostgreSQL's protocol".into(),
                    "check the port",
                ),
            },
        };
        let near = near_miss(kind, goal).unwrap_or_default();
        let remedy = if goal.user.is_none() && is_about_the_user(kind) {
            format!("{UNNAMED}{near}{remedy}")
        } else {
            near + remedy
        };
        Error::new(kind, format!("cannot connect to {goal}: {cause}"))
            .with_remedy(remedy)
            .with_source(error)
    }
}

fn blocked(at: Dialled<'_>, after: Option<Duration>) -> Error {
    let within = after.map(|after| format!(" within {after:.1?}"));
    let blocked = Error::caused(
        ErrorKind::NetworkBlocked,
        format!("no answer from {}{}", at.target, within.unwrap_or_default()),
    );
    if at.only_ipv6 {
        blocked.with_remedy(ipv6(at.host))
    } else {
        blocked
    }
}

fn ipv6(host: &str) -> &'static str {
    Host::of(host).unreachable.unwrap_or(IPV6)
}

/// A name may be almost right. Nobody can be asked for the others before the session has
/// begun; but that capitals were not meant is the usual case.
fn near_miss(kind: ErrorKind, goal: Goal<'_>) -> Option<String> {
    let name = match kind {
        ErrorKind::RoleMissing => goal.user?,
        ErrorKind::DatabaseMissing => match goal.database {
            Some(name) => name,
            None => {
                return Some("the URL names no database, so the user name was used; ".to_owned());
            }
        },
        _ => return None,
    };
    if name.trim() != name || name.contains(char::is_control) {
        return Some("its name contains a space or a line break, which is not shown; ".to_owned());
    }
    let lower = name.to_lowercase();
    (lower != name).then(|| {
        format!("names are case-sensitive here, and CREATE without quotes folds them to lower case: try {lower}; or ")
    })
}

/// Another user may fare better.
fn is_about_the_user(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Authentication
            | ErrorKind::RoleMissing
            | ErrorKind::DatabaseMissing
            | ErrorKind::TenantNotFound
    )
}

impl fmt::Display for Goal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.fmt(f)?;
        if let Some(user) = self.user {
            write!(f, " as {}", shown(user))?;
        }
        match self.database {
            Some(database) => write!(f, ", database {}", shown(database)),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Resolve => "name resolution",
            Phase::Connect => "the TCP handshake",
            Phase::AskTls => "the TLS request (SSLRequest)",
            Phase::Tls => "the TLS handshake",
            Phase::Credentials => "the request for credentials",
            Phase::Authenticate => "startup and authentication",
        })
    }
}

#[cfg(test)]
mod tests;
