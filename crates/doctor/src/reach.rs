//! From the configuration to a session, each step by itself.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::SystemTime;

use antifreeze::config::Settings;
use antifreeze::internal::{self, Description, Manner, Progress, Target};
use antifreeze::{Error, ErrorKind, Result, Session};

use super::SOON;
use super::examine::Findings;
use super::near;
use super::report::{Check, Step};
use super::text::{milliseconds, plain, seconds};
use super::ways::{DIRECT, POOLED, Way, Ways};

/// What can be said before anything is dialled.
pub(super) fn configuration(config: &Settings) -> Vec<Check> {
    let described = internal::described(config);
    let mut source = match described.variables.as_slice() {
        [] => "from code or the command line".to_owned(),
        variables => format!("the environment has {}", variables.join(", ")),
    };
    if !described.operators.is_empty() {
        source += &format!("; in force: {}", described.operators);
    }
    let mut checks = vec![Check::note(Step::Configuration, source)];
    for name in described.unknown {
        checks.push(Check::finding(
            Step::Configuration,
            format!(
                "{} is none of antifreeze's variables, and does nothing",
                plain(&name)
            ),
            "remove it, unless a newer version that is to be deployed knows it: \
             docs/configuration.md has all there are",
        ));
    }
    let twin = described
        .twin
        .map(|twin| format!("; a {twin} endpoint is known, too"));
    checks.push(Check::note(
        Step::Path,
        format!(
            "{} ({}){}",
            config.pooler.name().replace('-', " "),
            described.pooler,
            twin.unwrap_or_default()
        ),
    ));
    checks
}

/// Gets a session, and tells of each step; `None` if there is none to be had.
pub(super) async fn reach(ways: &Ways, findings: &Findings<'_>) -> Option<(Session, Settings)> {
    let come_to = AtomicU8::new(0);
    let watch = |progress: Progress<'_>| {
        let (stage, check) = match progress {
            Progress::Resolved { targets, took } => (1, name(targets, took)),
            Progress::Dialled { target, round_trip } => {
                let answers = format!("{target} answers in {}", milliseconds(round_trip));
                (2, Check::well(Step::Tcp, answers))
            }
            Progress::InTheClear { target } => (3, in_the_clear(target)),
            Progress::Encrypted { encrypted } => (3, tls(&encrypted.describe())),
        };
        come_to.store(stage, Ordering::Relaxed);
        findings.add(check);
    };
    let manner = Manner::USUAL.watched(&watch);
    let mut full = |error: &Error| findings.add(no_slot(error));
    let opened = ways.open_in(manner, &mut full).await;
    let stage = come_to.load(Ordering::Relaxed);
    match opened {
        // It is a pooler that nobody told us of: the rest can be looked at as what it is.
        Err(error) if error.kind() == ErrorKind::ParameterRefused => {
            let (text, remedy) = parted(&error);
            findings.add(Check::finding(Step::StartUp, text, remedy));
            let ways = ways.pooled().ok()?;
            let opened = ways.open(&mut full).await;
            let without = |who| {
                Check::note(
                    Step::Authentication,
                    format!("without these settings: {who}"),
                )
            };
            let (session, mut config) = arrived(&ways, opened, stage, &without, findings).await?;
            if let Some(told) = internal::announced_pooler(&session) {
                internal::follow(&mut config, told);
            }
            Some((session, config))
        }
        opened => {
            let well = |who| Check::well(Step::Authentication, who);
            arrived(ways, opened, stage, &well, findings).await
        }
    }
}

/// Tells by which way it came to a session, which the configured one is `told` of, or why to
/// none.
async fn arrived(
    ways: &Ways,
    opened: Result<(Session, &Way)>,
    stage: u8,
    told: &(dyn Fn(String) -> Check + Send + Sync),
    findings: &Findings<'_>,
) -> Option<(Session, Settings)> {
    let config = ways.database().settings();
    match opened {
        Ok((session, way)) => {
            let used = way.database.settings().clone();
            findings.add(match std::ptr::eq(way.database.settings(), config) {
                true => told(who(config)),
                false => Check::note(
                    Step::Authentication,
                    format!("by {}: {}", way.name, who(&used)),
                ),
            });
            Some((session, used))
        }
        Err(error) if error.kind() == ErrorKind::TooManyConnections => {
            let waited = seconds(ways.waits().as_secs_f64());
            let none = format!("no slot was to be had within {waited}");
            findings.add(Check::failed(
                Step::Slots,
                none,
                super::slots::WHAT_STILL_WORKS,
            ));
            None
        }
        Err(error) => {
            findings.add(failed(&error, stage, config).await);
            if !error.is_unavailable() {
                return None;
            }
            let (session, way) = ways.open_other().await?;
            let lever = match way.name.as_str() {
                DIRECT => "ANTIFREEZE_ENDPOINT=direct goes there, without a new build",
                POOLED => "ANTIFREEZE_ENDPOINT=pooled goes there, without a new build",
                _ => "what follows was seen from there",
            };
            let works = format!("{} works", way.name);
            findings.add(Check::note(Step::Path, works).remedied(lever));
            Some((session, way.database.settings().clone()))
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
        [address] if address == host => format!("{host} is an address"),
        addresses => format!(
            "{host} is {} (in {})",
            addresses.join(", "),
            milliseconds(took)
        ),
    };
    Check::well(Step::Name, text)
}

fn in_the_clear(target: &Target) -> Check {
    let here = match target {
        Target::Tcp { address, .. } => address.ip().to_canonical().is_loopback(),
        #[cfg(unix)]
        Target::Unix(_) => true,
    };
    match here {
        true => Check::well(Step::Tls, "none, and it is this machine"),
        false => Check::finding(
            Step::Tls,
            "none: whoever is in between reads and writes along",
            "set sslmode=verify-full, and turn TLS on at the server if it has none",
        ),
    }
}

fn tls(description: &Description) -> Check {
    let mut text = description.version.clone();
    let mut ends_soon = None;
    if let Some(shown) = &description.shown {
        text += &format!(
            ", certificate for {} by {}, until {}",
            shown.names.join(", "),
            shown.issuer,
            shown.until_day
        );
        let left = shown.until.duration_since(SystemTime::now());
        if left.map_or(true, |left| left < SOON) {
            ends_soon = Some(shown.until_day.as_str());
        }
    }
    match (description.chain_checked, description.name_checked) {
        (true, true) => text += "; authority and name are as they should be",
        (true, false) => text += "; the authority is as it should be, the name is not looked at",
        _ => text += "; nothing of it is verified",
    }
    if !description.chain_checked {
        let remedy =
            "set sslmode=verify-full, and sslrootcert if the authority is not a public one";
        return Check::finding(Step::Tls, text, remedy);
    }
    match ends_soon {
        Some(day) => Check::finding(Step::Tls, text, format!("renew it before {day}")),
        None => Check::well(Step::Tls, text),
    }
}

fn who(config: &Settings) -> String {
    let user = config.server.get_user().unwrap_or("the system's user");
    let database = config.server.get_dbname().unwrap_or(user);
    format!("logged in as {user} to the database {database}")
}

fn no_slot(error: &Error) -> Check {
    let (text, remedy) = parted(error);
    Check::finding(Step::Slots, text, remedy)
}

/// Where it failed, and why.
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
    let (text, mut remedy) = parted(error);
    if error.kind() == ErrorKind::DatabaseMissing {
        if let Some(meant) = near::database(config).await {
            remedy = meant;
        }
    }
    Check::failed(step, text, remedy)
}

/// The cause and the remedy.
pub(super) fn parted(error: &Error) -> (String, String) {
    let line = error.to_string();
    let remedy = error.remedy().to_owned();
    match line.strip_suffix(&remedy) {
        Some(cause) => (cause.trim_end_matches([';', ' ', ':']).to_owned(), remedy),
        // The line holds one of its own, as errors of the configuration do.
        None => match line.rsplit_once(": ") {
            Some((cause, own)) => (cause.to_owned(), own.to_owned()),
            None => (line, remedy),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Mark;
    use super::*;
    use antifreeze::internal::Shown;

    fn certificate(left: Duration, checked: [bool; 2]) -> Check {
        tls(&Description {
            version: "TLS 1.3".to_owned(),
            shown: Some(Shown {
                subject: String::new(),
                issuer: "CN=an authority".to_owned(),
                names: vec!["db.example.com".to_owned()],
                until: SystemTime::now() + left,
                until_day: "2030-01-01".to_owned(),
            }),
            chain_checked: checked[0],
            name_checked: checked[1],
        })
    }

    #[test]
    fn expiring_certificate_is_a_finding_in_time() {
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(certificate(15 * day, [true, true]).mark, Mark::Well);
        let soon = certificate(13 * day, [true, true]);
        assert_eq!(soon.mark, Mark::Finding);
        assert_eq!(soon.remedy.as_deref(), Some("renew it before 2030-01-01"));
        let unnamed = certificate(15 * day, [true, false]);
        assert_eq!(unnamed.mark, Mark::Well);
        assert!(unnamed.text.contains("the name is not looked at"));
        // That nobody looks is worse than that it ends.
        let unlooked = certificate(day, [false, false]);
        assert!(
            unlooked
                .remedy
                .is_some_and(|remedy| remedy.contains("verify-full"))
        );
    }

    #[test]
    fn plain_text_is_fine_on_loopback_alone() {
        for (address, expected) in [
            ("127.0.0.1:5432", Mark::Well),
            ("[::1]:5432", Mark::Well),
            ("10.0.0.1:5432", Mark::Finding),
        ] {
            let target = Target::tcp(address.parse().expect("an address"), "db");
            assert_eq!(in_the_clear(&target).mark, expected, "{address}");
        }
    }
}
