//! Checks each step from the configuration to an open session.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::SystemTime;

use antifreeze::config::Settings;
use antifreeze::internal::{self, ConnectOptions, Handshake, Progress, Target};
use antifreeze::{Error, ErrorKind, Result, Session};

use super::EXPIRES_SOON;
use super::examine::Findings;
use super::report::{Check, Step};
use super::routes::{DIRECT, POOLED, Route, Routes};
use super::text::{format_seconds, milliseconds};
use super::{database_name, pooler};

/// Opens a session and reports each step; returns `None` if no session can be opened.
pub(super) async fn connect(
    routes: &Routes,
    findings: &Findings<'_>,
) -> Option<(Session, Settings)> {
    let reached = AtomicU8::new(0);
    let watch = |progress: Progress<'_>| {
        let (stage, check) = match progress {
            Progress::Resolved { targets, took } => (1, name(targets, took)),
            Progress::Dialled { target, round_trip } => {
                let answers = format!("{target} answers in {}", milliseconds(round_trip));
                (2, Check::ok(Step::Tcp, answers))
            }
            Progress::InTheClear { target } => (3, in_the_clear(target)),
            Progress::Encrypted { encrypted } => (3, tls(&encrypted.describe())),
        };
        reached.store(stage, Ordering::Relaxed);
        findings.add(check);
    };
    let options = ConnectOptions {
        watch: &watch,
        ..ConnectOptions::DEFAULT
    };
    let mut full = |error: &Error| findings.add(no_slot(error));
    let opened = routes.open_in(options, &mut full).await;
    let stage = reached.load(Ordering::Relaxed);
    match opened {
        // A pooler that the configuration does not mention: examine the rest as a pooler.
        Err(error) if error.kind() == ErrorKind::ParameterRefused => {
            let (text, remedy) = cause_and_remedy(&error);
            findings.add(Check::finding(Step::StartUp, text, remedy));
            let routes = routes.pooled().ok()?;
            let opened = routes.open(&mut full).await;
            let without = |login| {
                Check::note(
                    Step::Authentication,
                    format!("without these settings: {login}"),
                )
            };
            let (session, mut config) =
                opened_by(&routes, opened, stage, &without, findings).await?;
            let connector = internal::connector(routes.database());
            if let Some(pooler) = connector.announced_pooler() {
                internal::follow(&mut config, pooler);
            }
            Some((session, config))
        }
        opened => {
            let usual = |login| Check::ok(Step::Authentication, login);
            opened_by(routes, opened, stage, &usual, findings).await
        }
    }
}

/// Reports by which route a session was opened, or why none could be. `describe` makes the
/// check of a login by the configured route.
async fn opened_by(
    routes: &Routes,
    opened: Result<(Session, &Route)>,
    stage: u8,
    describe: &(dyn Fn(String) -> Check + Send + Sync),
    findings: &Findings<'_>,
) -> Option<(Session, Settings)> {
    let config = routes.database().settings();
    match opened {
        Ok((session, route)) => {
            let used = route.database.settings().clone();
            findings.add(if std::ptr::eq(route.database.settings(), config) {
                describe(login(config))
            } else {
                Check::note(
                    Step::Authentication,
                    format!("by {}: {}", route.name, login(&used)),
                )
            });
            Some((session, used))
        }
        Err(error) if error.kind() == ErrorKind::TooManyConnections => {
            let waited = format_seconds(routes.wait_limit().as_secs_f64());
            let (cause, _) = cause_and_remedy(&error);
            let none = format!("{cause}; no connection slot became free within {waited}");
            findings.add(Check::failed(
                Step::Slots,
                none,
                super::slots::RESERVED_ROUTES,
            ));
            findings.add_all(pooler::held(config).await);
            None
        }
        Err(error) => {
            findings.add(failed(&error, stage, config).await);
            if !error.is_unavailable() {
                return None;
            }
            let (session, route) = routes.open_other().await?;
            let remedy = match route.name.as_str() {
                DIRECT => "set ANTIFREEZE_ENDPOINT=direct to use it, without a new build",
                POOLED => "set ANTIFREEZE_ENDPOINT=pooled to use it, without a new build",
                _ => "the checks below were made there",
            };
            let works = format!("{} works", route.name);
            findings.add(Check::note(Step::Path, works).remedied(remedy));
            Some((session, route.database.settings().clone()))
        }
    }
}

fn name(targets: &[Target], took: std::time::Duration) -> Check {
    let host = targets
        .first()
        .and_then(Target::host)
        .unwrap_or("a unix socket");
    let mut addresses: Vec<String> = Vec::new();
    for target in targets {
        match target {
            Target::Tcp { address, .. } => addresses.push(address.ip().to_string()),
            #[cfg(unix)]
            Target::Unix(pooler) => addresses.push(pooler.display().to_string()),
        }
    }
    let text = match addresses.as_slice() {
        [address] if address == host => format!("{host} is an IP address"),
        addresses => format!(
            "{host} resolves to {} (in {})",
            addresses.join(", "),
            milliseconds(took)
        ),
    };
    Check::ok(Step::Name, text)
}

fn in_the_clear(target: &Target) -> Check {
    if target.is_local() {
        Check::ok(Step::Tls, "not encrypted: the server is on this machine")
    } else {
        Check::finding(
            Step::Tls,
            "not encrypted: anyone on the network path can read and change the traffic",
            "set sslmode=verify-full, and turn TLS on at the server if it is off",
        )
    }
}

fn tls(handshake: &Handshake) -> Check {
    let mut text = handshake.version.clone();
    let mut expires = None;
    if let Some(certificate) = &handshake.certificate {
        text += &format!(
            ", certificate for {} issued by {}, valid until {}",
            certificate.names.join(", "),
            certificate.issuer,
            certificate.until_day
        );
        let left = certificate.until.duration_since(SystemTime::now());
        if left.map_or(true, |left| left < EXPIRES_SOON) {
            expires = Some(certificate.until_day.as_str());
        }
    }
    match (handshake.chain_verified, handshake.name_verified) {
        (true, true) => text += "; issuer and host name are verified",
        (true, false) => text += "; the issuer is verified, the host name is not",
        _ => text += "; it is not verified",
    }
    if !handshake.chain_verified {
        let remedy =
            "set sslmode=verify-full, and sslrootcert if the issuer is not a public authority";
        return Check::finding(Step::Tls, text, remedy);
    }
    match expires {
        Some(day) => Check::finding(Step::Tls, text, format!("renew it before {day}")),
        None => Check::ok(Step::Tls, text),
    }
}

fn login(config: &Settings) -> String {
    let user = config
        .server
        .get_user()
        .unwrap_or("the operating system's user");
    let database = config.server.get_dbname().unwrap_or(user);
    format!("logged in as {user} to database {database}")
}

fn no_slot(error: &Error) -> Check {
    let (text, remedy) = cause_and_remedy(error);
    Check::finding(Step::Slots, text, remedy)
}

/// Reports the step at which connecting failed, and why.
async fn failed(error: &Error, stage: u8, config: &Settings) -> Check {
    let step = match error.kind() {
        ErrorKind::NameNotResolved => Step::Name,
        ErrorKind::Refused | ErrorKind::NetworkBlocked => Step::Tcp,
        ErrorKind::Tls => Step::Tls,
        ErrorKind::Authentication | ErrorKind::RoleMissing | ErrorKind::TenantNotFound => {
            Step::Authentication
        }
        ErrorKind::DatabaseMissing => Step::Database,
        ErrorKind::TooManyConnections => Step::Slots,
        ErrorKind::ParameterRefused => Step::StartUp,
        ErrorKind::ServerStarting | ErrorKind::ServerStopping => Step::Server,
        ErrorKind::Configuration => Step::Configuration,
        _ => match stage {
            0 => Step::Name,
            1 => Step::Tcp,
            2 => Step::Tls,
            _ => Step::Authentication,
        },
    };
    let (text, mut remedy) = cause_and_remedy(error);
    if error.kind() == ErrorKind::DatabaseMissing {
        if let Some(suggestion) = database_name::suggestion(config).await {
            remedy = suggestion;
        }
    }
    Check::failed(step, text, remedy)
}

/// Splits an error's line into the cause and the remedy.
pub(super) fn cause_and_remedy(error: &Error) -> (String, String) {
    let line = error.to_string();
    let remedy = error.remedy().to_owned();
    match line.strip_suffix(&remedy) {
        Some(cause) => (cause.trim_end_matches([';', ' ', ':']).to_owned(), remedy),
        // The line itself contains the remedy, as those of configuration errors do.
        None => match line.rsplit_once(": ") {
            Some((cause, remedy)) => (cause.to_owned(), remedy.to_owned()),
            None => (line, remedy),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Status;
    use super::*;
    use antifreeze::internal::CertificateSummary;

    fn certificate(left: Duration, checked: [bool; 2]) -> Check {
        tls(&Handshake {
            version: "TLS 1.3".to_owned(),
            certificate: Some(CertificateSummary {
                subject: String::new(),
                issuer: "CN=an authority".to_owned(),
                names: vec!["db.example.com".to_owned()],
                until: SystemTime::now() + left,
                until_day: "2030-01-01".to_owned(),
            }),
            chain_verified: checked[0],
            name_verified: checked[1],
        })
    }

    #[test]
    fn certificates_that_expire_soon_are_findings() {
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(certificate(15 * day, [true, true]).status, Status::Ok);
        let soon = certificate(13 * day, [true, true]);
        assert_eq!(soon.status, Status::Finding);
        assert_eq!(soon.remedy.as_deref(), Some("renew it before 2030-01-01"));
        let unnamed = certificate(15 * day, [true, false]);
        assert_eq!(unnamed.status, Status::Ok);
        assert!(unnamed.text.contains("the host name is not"));
        // A certificate that is not verified is worse than one that expires.
        let unverified = certificate(day, [false, false]);
        assert!(
            unverified
                .remedy
                .is_some_and(|remedy| remedy.contains("verify-full"))
        );
    }

    #[test]
    fn plain_text_is_accepted_on_loopback_only() {
        for (address, expected) in [
            ("127.0.0.1:5432", Status::Ok),
            ("[::1]:5432", Status::Ok),
            ("10.0.0.1:5432", Status::Finding),
        ] {
            let target = Target::Tcp {
                address: address.parse().expect("an address"),
                host: "db".to_owned(),
                only_ipv6: false,
            };
            assert_eq!(in_the_clear(&target).status, expected, "{address}");
        }
    }
}
