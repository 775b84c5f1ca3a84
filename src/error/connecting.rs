//! Describes errors of connecting, up to the start of a session.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::time::Duration;

use super::driver::is_lost;
use super::meaning::{ErrorResponse, printable};
use super::{Error, ErrorKind};
use crate::provider::{Host, PASSWORD_UNANSWERED};

/// The phase in which connecting failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The resolver looked up the host name.
    Resolve,
    /// The TCP handshake was in progress.
    Connect,
    /// The client had asked whether the server supports TLS (SSLRequest).
    AskTls,
    /// The TLS handshake was in progress.
    Tls,
    /// The credentials provider was asked.
    Credentials,
    /// The startup packet was sent, and perhaps a password.
    Authenticate,
}

/// The address that was dialled, and what is known of it.
#[derive(Clone, Copy)]
pub(crate) struct DialledTarget<'a> {
    pub(crate) target: &'a (dyn fmt::Display + Sync),
    /// The host name that resolved to it.
    pub(crate) host: &'a str,
    /// A loopback address.
    pub(crate) loopback: bool,
    /// The host name has no IPv4 address.
    pub(crate) only_ipv6: bool,
    /// The container or host that the process runs in, where `localhost` is the process itself.
    pub(crate) inside: Option<&'static str>,
}

/// The target of a login: address, user and database.
#[derive(Clone, Copy)]
pub(crate) struct LoginTarget<'a> {
    pub(crate) target: &'a (dyn fmt::Display + Sync),
    pub(crate) user: Option<&'a str>,
    pub(crate) database: Option<&'a str>,
    /// The password is that of a credentials provider.
    pub(crate) provided: bool,
}

/// The least time without an answer that indicates a firewall: a lost SYN is repeated after 1 s
/// (RFC 6298, section 2).
const BLOCKED_AFTER: Duration = Duration::from_secs(1);

const IPV6: &str = "the host has IPv6 addresses only: use one with an IPv4 address, or enable IPv6 for the function";

const NO_SOCKET: &str =
    "check the server's unix_socket_directories, and that the server runs on this machine";

const NO_ANSWER: &str = "check the port, and that proxies in between forward the SSLRequest; on a private network \
     sslmode=disable avoids it";

const NO_SESSION: &str = "check in the log of the pooler that it reaches its server; if the server is slow, raise \
     `connect_timeout` or the function's timeout";

const UNNAMED: &str = "no user is given, so the operating system's user name was used; ";

impl Error {
    /// The host name has no address.
    pub(crate) fn not_resolved(host: &str, error: io::Error) -> Self {
        let kind = ErrorKind::NameNotResolved;
        let cause = format!("the host name {} cannot be resolved", printable(host));
        let remedy = Host::of(host).unreachable.unwrap_or(kind.remedy());
        Error::new(kind, cause)
            .with_remedy(remedy)
            .with_source(error)
    }

    /// The TCP or unix socket did not connect.
    pub(crate) fn not_connected(at: DialledTarget<'_>, error: io::Error) -> Self {
        use io::ErrorKind as Io;
        let target = at.target;
        let not_connected = match error.kind() {
            Io::ConnectionRefused => {
                let cause = format!("connection to {target} refused: nothing listens there");
                let refused = Error::caused(ErrorKind::Refused, cause);
                match at.inside.filter(|_| at.loopback) {
                    // A container, unlike a function, may have a server inside.
                    Some(inside) if inside.starts_with("the ") => refused.with_remedy(format!(
                        "{}; inside {inside}, {} is {inside} itself: if the server is elsewhere, \
                         set its host",
                        ErrorKind::Refused.remedy(),
                        at.host
                    )),
                    Some(inside) => refused.with_remedy(format!(
                        "inside {inside}, {} is {inside} itself: set the host of the database",
                        at.host
                    )),
                    None => refused,
                }
            }
            Io::NotFound => {
                let cause = format!("the socket {target} does not exist");
                Error::new(ErrorKind::Refused, cause).with_remedy(NO_SOCKET)
            }
            Io::TimedOut => blocked(at, None),
            Io::NetworkUnreachable | Io::HostUnreachable | Io::AddrNotAvailable if at.only_ipv6 => {
                let cause = format!("no route to {target}");
                Error::new(ErrorKind::Unreachable, cause).with_remedy(ipv6(at.host))
            }
            _ => Error::caused(
                ErrorKind::Unreachable,
                format!("cannot connect to {target}"),
            ),
        };
        not_connected.with_source(error)
    }

    /// Connecting timed out.
    pub(crate) fn connecting_took(
        phase: Phase,
        after: Duration,
        at: Option<DialledTarget<'_>>,
    ) -> Self {
        let silent = at.filter(|_| phase == Phase::Connect && after >= BLOCKED_AFTER);
        if let Some(at) = silent {
            return blocked(at, Some(after));
        }
        let kind = ErrorKind::ConnectTimeout;
        let remedy = match phase {
            Phase::Credentials => PASSWORD_UNANSWERED,
            Phase::AskTls => NO_ANSWER,
            Phase::Authenticate => NO_SESSION,
            _ => kind.remedy(),
        };
        let target = at.as_ref().map_or(&"the database" as _, |at| at.target);
        let cause =
            format!("timed out after {after:.1?} while connecting to {target}, during {phase}");
        Error::new(kind, cause).with_remedy(remedy)
    }

    /// The server or a pooler rejected the session.
    pub(crate) fn not_started(goal: LoginTarget<'_>, error: tokio_postgres::Error) -> Self {
        let (kind, cause, remedy) = match error.as_db_error() {
            Some(error) => {
                let response = ErrorResponse {
                    at_start: true,
                    provided: goal.provided,
                    ..ErrorResponse::from(error)
                };
                let meaning = response.meaning();
                let cause = meaning.cause_with(response.code);
                (meaning.kind, Cow::Owned(cause), meaning.remedy)
            }
            None if is_lost(&error) => (
                ErrorKind::Closed,
                "the connection was closed before the session began".into(),
                "check the log of the server, or of the pooler in between",
            ),
            None => match error.to_string().as_str() {
                "authentication error" => (
                    ErrorKind::Authentication,
                    "the authentication method is not supported".into(),
                    "use scram-sha-256; `source()` has the method that the server requested",
                ),
                // At this point only a missing password makes tokio-postgres say this.
                "invalid configuration" => (
                    ErrorKind::Authentication,
                    "the server requires a password, and none is set".into(),
                    "add it to the URL, or set PGPASSWORD if the PG* variables are used",
                ),
                _ => (
                    ErrorKind::Database,
                    "the server's answer violates PostgreSQL's protocol".into(),
                    "check the port, and the proxies in between",
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

fn blocked(at: DialledTarget<'_>, after: Option<Duration>) -> Error {
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

/// Suggests a correction of the user or database name. The existing names cannot be queried
/// before a session has begun; the usual mistake is capital letters.
fn near_miss(kind: ErrorKind, goal: LoginTarget<'_>) -> Option<String> {
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
        return Some("the name contains a space or a line break, which is not shown; ".to_owned());
    }
    let lower = name.to_lowercase();
    (lower != name).then(|| {
        format!(
            "names are case-sensitive here, and CREATE without quotes folds them to lower case: try \
             {lower}; or "
        )
    })
}

/// Returns whether another user may succeed.
fn is_about_the_user(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Authentication
            | ErrorKind::RoleMissing
            | ErrorKind::DatabaseMissing
            | ErrorKind::TenantNotFound
    )
}

impl fmt::Display for LoginTarget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.fmt(f)?;
        if let Some(user) = self.user {
            write!(f, " as {}", printable(user))?;
        }
        match self.database {
            Some(database) => write!(f, ", database {}", printable(database)),
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
