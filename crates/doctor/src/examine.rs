//! The order of the examination.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use antifreeze::config::{Pooler, Settings};
use antifreeze::{Error, Session};

use super::facts::Facts;
use super::report::{Check, Report, Step};
use super::text::milliseconds;
use super::ways::Ways;
use super::{pooler, reach, region, server, slots, timeouts};

/// From when on something is a finding.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// A session that idles in a transaction for longer. Default: 10 s.
    pub idle_in_transaction: Duration,
    /// A transaction that is open for longer. Default: 60 s.
    pub transaction: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            idle_in_transaction: Duration::from_secs(10),
            transaction: Duration::from_secs(60),
        }
    }
}

/// Where checks go as they are made.
pub(super) struct Findings<'a> {
    inner: Mutex<Inner<'a>>,
}

struct Inner<'a> {
    report: Report,
    told: &'a mut (dyn FnMut(&Check) + Send),
}

impl Findings<'_> {
    pub(super) fn add(&self, check: Check) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (inner.told)(&check);
        inner.report.checks.push(check);
    }

    pub(super) fn add_all(&self, checks: impl IntoIterator<Item = Check>) {
        for check in checks {
            self.add(check);
        }
    }
}

/// Looks at everything, from the configuration to the locks. `told` hears of each check as
/// it is made: some take a while.
///
/// It ends early where the rest cannot be looked at; the report says so.
pub async fn examine(
    ways: &Ways,
    options: &Options,
    told: &mut (dyn FnMut(&Check) + Send),
) -> Report {
    let findings = Findings {
        inner: Mutex::new(Inner {
            report: Report::default(),
            told,
        }),
    };
    findings.add_all(reach::configuration(ways.database().settings()));
    if let Some((session, config)) = reach::reach(ways, &findings).await {
        if let Err(error) = look(&session, &config, options, &findings).await {
            let (text, remedy) = reach::parted(&error);
            findings.add(Check::failed(Step::Server, text, remedy));
        }
        session.close(super::GOODBYE).await;
    }
    let inner = findings.inner.into_inner();
    inner.unwrap_or_else(PoisonError::into_inner).report
}

/// What a session can see.
async fn look(
    session: &Session,
    config: &Settings,
    options: &Options,
    findings: &Findings<'_>,
) -> Result<(), Error> {
    let round_trip = round_trip(session).await?;
    let mut facts = Facts::ask(session).await?;
    findings.add(server::server(&facts));
    findings.add(server::writable(&facts));
    findings.add(Check::well(Step::RoundTrip, milliseconds(round_trip)));
    findings.add_all(timeouts::start_up(&facts, config));
    timeouts::tell(session, config, &mut facts).await;
    findings.add(timeouts::in_force(&facts, config));
    findings.add_all(server::visibility(&facts));
    findings.add_all(slots::slots(&facts));
    findings.add(slots::idle_in_transaction(&facts, options));
    findings.add(slots::transactions(&facts, options));
    findings.add_all(slots::locks(&facts));
    if config.pooler != Pooler::None {
        findings.add_all(pooler::statements(config).await);
        findings.add_all(pooler::session_state(session, config).await);
    }
    findings.add(region::region(config, round_trip));
    findings.add_all(pooler::would_serve(&facts, config));
    Ok(())
}

/// The shortest of three.
async fn round_trip(session: &Session) -> Result<Duration, Error> {
    let mut shortest = Duration::MAX;
    for _ in 0..3 {
        let begin = std::time::Instant::now();
        session.simple_query("").await?;
        shortest = shortest.min(begin.elapsed());
    }
    Ok(shortest)
}
