//! Runs all checks, in order.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use antifreeze::config::{Pooler, Settings};
use antifreeze::{Error, Session};

use super::facts::Facts;
use super::maintenance::Maintenance;
use super::report::{Check, Report, Step};
use super::routes::Routes;
use super::text::milliseconds;
use super::{configuration, connect, locks, pooler, region, sequences, server, slots, timeouts};

/// Thresholds above which [`examine`] reports a finding.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// How long a session may be idle in a transaction. Default: 10 s.
    pub idle_in_transaction: Duration,
    /// How long a transaction may be open, or prepared. Default: 60 s.
    pub transaction: Duration,
    /// How many transactions old the oldest transaction ID may be. Default: one billion, half
    /// of what there are; Amazon's documents ("Vacuum", RDS) raise the alarm there.
    pub transaction_age: u64,
    /// How many bytes of WAL a replication slot may hold. Default: 5 GB.
    pub retained_wal: u64,
    /// The file of each variable that was read from one instead of the environment.
    pub files: BTreeMap<String, String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            idle_in_transaction: Duration::from_secs(10),
            transaction: Duration::from_secs(60),
            transaction_age: 1_000_000_000,
            retained_wal: 5 << 30,
            files: BTreeMap::new(),
        }
    }
}

/// Collects checks, and passes each to the caller's callback as it is made.
pub(super) struct Findings<'a> {
    inner: Mutex<Inner<'a>>,
}

struct Inner<'a> {
    report: Report,
    on_check: &'a mut (dyn FnMut(&Check) + Send),
}

impl Findings<'_> {
    pub(super) fn add(&self, check: Check) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (inner.on_check)(&check);
        inner.report.checks.push(check);
    }

    pub(super) fn add_all(&self, checks: impl IntoIterator<Item = Check>) {
        for check in checks {
            self.add(check);
        }
    }
}

/// Runs all checks, from the configuration to the locks. Calls `on_check` with each check as
/// soon as it is made, since some take a while.
///
/// If a step fails that later ones depend on, the examination ends there, and
/// [`Report::verdict`] is [`Failed`](super::Verdict::Failed).
pub async fn examine(
    routes: &Routes,
    options: &Options,
    on_check: &mut (dyn FnMut(&Check) + Send),
) -> Report {
    let findings = Findings {
        inner: Mutex::new(Inner {
            report: Report::default(),
            on_check,
        }),
    };
    findings.add_all(configuration::check(routes.database().settings(), options));
    if let Some((session, config)) = connect::connect(routes, &findings).await {
        if let Err(error) = examine_session(&session, &config, options, &findings).await {
            let (text, remedy) = connect::cause_and_remedy(&error);
            findings.add(Check::failed(Step::Server, text, remedy));
        }
        session.close(super::CLOSE_TIMEOUT).await;
    }
    let inner = findings.inner.into_inner();
    inner.unwrap_or_else(PoisonError::into_inner).report
}

/// Runs the checks that need a session.
async fn examine_session(
    session: &Session,
    config: &Settings,
    options: &Options,
    findings: &Findings<'_>,
) -> Result<(), Error> {
    let round_trip = round_trip(session).await?;
    let mut facts = Facts::ask(session).await?;
    findings.add(server::server(&facts));
    findings.add(server::writable(&facts));
    findings.add(Check::ok(Step::RoundTrip, milliseconds(round_trip)));
    findings.add_all(timeouts::start_up(&facts, config));
    timeouts::apply(session, config, &mut facts).await;
    let missing = match config.pooler {
        Pooler::None => None,
        _ => pooler::is_missing(session, &facts, config),
    };
    let mut in_force = timeouts::in_force(&facts, config);
    if missing.is_some() {
        // They are sent as soon as the configuration is right.
        in_force = Check::note(in_force.step, in_force.text);
    }
    findings.add(in_force);
    findings.add_all(server::visibility(&facts));
    findings.add_all(slots::slots(&facts));
    findings.add(slots::idle_in_transaction(&facts, options));
    findings.add(slots::transactions(&facts, options));
    findings.add_all(locks::prepared(&facts, options));
    findings.add_all(locks::locks(&facts));
    findings.add_all(maintenance(session, options).await);
    if missing.is_some() {
        findings.add_all(missing);
    } else if config.pooler != Pooler::None {
        findings.add_all(pooler::statements(config).await);
        findings.add_all(pooler::session_state(session, config).await);
        findings.add_all(pooler::held(config).await);
    }
    findings.add_all(region::region(config, round_trip));
    findings.add_all(pooler::recommended(&facts, config));
    Ok(())
}

/// Runs the checks of maintenance. A server without the views that they read, such as one that
/// is compatible with PostgreSQL, has other means for it.
async fn maintenance(session: &Session, options: &Options) -> Vec<Check> {
    let asked = Maintenance::ask(session).await;
    let sequences = sequences::sequences(session).await;
    match asked {
        Ok(maintenance) => maintenance.checks(options, sequences),
        Err(error) => {
            let (text, _) = connect::cause_and_remedy(&error);
            let text = format!("not tested: {text}");
            let mut checks = vec![Check::note(Step::Wraparound, text)];
            checks.extend(sequences);
            checks
        }
    }
}

/// Measures three round trips and returns the shortest.
async fn round_trip(session: &Session) -> Result<Duration, Error> {
    let mut shortest = Duration::MAX;
    for _ in 0..3 {
        let begin = std::time::Instant::now();
        session.simple_query("").await?;
        shortest = shortest.min(begin.elapsed());
    }
    Ok(shortest)
}
