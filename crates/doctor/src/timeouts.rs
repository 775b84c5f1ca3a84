//! Settings that are sent at the start, and what the server ends by itself.

use std::time::Duration;

use antifreeze::Session;
use antifreeze::config::{Pooler, Settings};
use antifreeze::internal::{self, setting};

use super::facts::Facts;
use super::report::{Check, Step};
use super::text::quoted;

const STATEMENT: &str = "statement_timeout";
const IDLE: &str = "idle_in_transaction_session_timeout";

/// Whether what we sent has arrived: a pooler may forget it in silence.
pub(super) fn start_up(facts: &Facts, config: &Settings) -> Vec<Check> {
    if !internal::has_startup_options(config) {
        let none = "none is sent: this path takes none";
        return vec![Check::note(Step::StartUp, none)];
    }
    if !internal::sends_settings(config) {
        return vec![Check::note(Step::StartUp, "only those of the URL are sent")];
    }
    let lost = lost(facts, config);
    vec![match lost.as_slice() {
        [] => Check::well(Step::StartUp, "all settings were taken"),
        lost => Check::finding(
            Step::StartUp,
            format!(
                "{} did not arrive: something in between drops them",
                lost.join(", ")
            ),
            "it is a pooler (ignore_startup_parameters): set ANTIFREEZE_POOLER=transaction \
             or session, and the timeouts with ALTER ROLE",
        ),
    }]
}

/// What we sent and the server does not have. What is sent may be less than what is
/// configured: no timeout is longer than a call.
fn lost(facts: &Facts, config: &Settings) -> Vec<&'static str> {
    let sent = internal::startup_timeouts(config).into_iter();
    let lost = sent.filter(|(name, value)| {
        let is = facts.value(name);
        is.is_some_and(|is| is != value.to_string())
    });
    lost.map(|(name, _)| name).collect()
}

/// Tells the server what every session of an invocation tells it behind its start-up, and
/// looks what has become of it: what is seen is what they get.
///
/// Nothing is told where something drops what was sent: it is a pooler, and what one client
/// sets there may reach others. A server that refuses it is no reason to look at nothing
/// more: then they have none of it either.
pub(super) async fn tell(session: &Session, config: &Settings, facts: &mut Facts) {
    if session.pooler() != Pooler::None || !lost(facts, config).is_empty() {
        return;
    }
    let told = internal::told_timeouts(config);
    if told.is_empty() {
        return;
    }
    let sql = setting(told.iter().copied());
    let Ok(mut settings) = Facts::settings_after(&sql, session).await else {
        return;
    };
    for (name, _) in told {
        if let Some(setting) = settings.get_mut(name) {
            setting.source = "antifreeze".to_owned();
        }
    }
    facts.settings = settings;
}

/// What ends a session that nobody ends.
pub(super) fn in_force(facts: &Facts, config: &Settings) -> Check {
    let shown = [
        STATEMENT,
        IDLE,
        "idle_session_timeout",
        "transaction_timeout",
    ];
    let shown = shown.iter().filter_map(|name| {
        let setting = facts.settings.get(*name)?;
        let value = match setting.value.parse() {
            Ok(0_u64) => "off".to_owned(),
            Ok(value) => format!("{} ({})", time(value), setting.source),
            Err(_) => setting.value.clone(),
        };
        Some(format!("{name} {value}"))
    });
    let shown: Vec<_> = shown.collect();
    let wanted = [
        (STATEMENT, config.statement_timeout),
        (IDLE, config.idle_in_transaction_timeout),
    ];
    let missing: Vec<String> = wanted
        .iter()
        .filter(|(name, time)| facts.value(name) == Some("0") && !time.is_zero())
        .map(|(name, value)| {
            format!(
                "ALTER ROLE {} SET {name} = '{}ms';",
                quoted(&facts.role),
                value.max(&Duration::from_millis(1)).as_millis()
            )
        })
        .collect();
    match missing.is_empty() {
        true => Check::well(Step::Timeouts, shown.join(", ")),
        false => Check::finding(
            Step::Timeouts,
            format!(
                "{}: a function that vanishes keeps its locks until somebody ends its session",
                shown.join(", ")
            ),
            missing.join(" "),
        ),
    }
}

/// Milliseconds, as the server would write them.
fn time(milliseconds: u64) -> String {
    match milliseconds {
        ms if ms % 60_000 == 0 => format!("{}min", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}
