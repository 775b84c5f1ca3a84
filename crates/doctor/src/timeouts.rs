//! Checks the settings that are sent at start-up, and the timeouts in force.

use std::time::Duration;

use antifreeze::Session;
use antifreeze::config::{Pooler, Settings};
use antifreeze::internal::{self, setting};

use super::facts::Facts;
use super::report::{Check, Step};
use super::text::quoted;

const STATEMENT: &str = "statement_timeout";
const IDLE: &str = "idle_in_transaction_session_timeout";

/// Checks whether the settings sent at start-up are in force: a pooler may drop them without
/// an error.
pub(super) fn start_up(facts: &Facts, config: &Settings) -> Vec<Check> {
    if internal::timeouts(config).is_empty() {
        let has_schema = config.schema.is_some() && config.pooler == Pooler::None;
        let text = if has_schema || config.server.get_options().is_some() {
            "no timeouts but those in the URL are sent"
        } else {
            "no settings are sent: the pooler does not accept any"
        };
        return vec![Check::note(Step::StartUp, text)];
    }
    let lost = lost(facts, config);
    vec![match lost.as_slice() {
        [] => Check::ok(Step::StartUp, "all settings are in force"),
        lost => Check::finding(
            Step::StartUp,
            format!(
                "{} sent but not in force: a pooler drops them",
                lost.join(", ")
            ),
            "PgBouncer does this with ignore_startup_parameters: set ANTIFREEZE_POOLER=\
             transaction or session, and set the timeouts with ALTER ROLE",
        ),
    }]
}

/// Returns the timeouts that were sent at start-up and are not in force. One that is sent may be
/// shorter than the configured one: none is longer than the invocation.
fn lost(facts: &Facts, config: &Settings) -> Vec<&'static str> {
    let sent = internal::timeouts(config).into_iter();
    let sent = sent.filter(|(name, _)| [STATEMENT, IDLE].contains(name));
    let lost = sent.filter(|(name, value)| {
        let is = facts.value(name);
        is.is_some_and(|is| is != value.to_string())
    });
    lost.map(|(name, _)| name).collect()
}

/// Applies the settings that each session of an invocation sets after start-up, and reads
/// them back, so that the report shows what an invocation gets.
///
/// Sets nothing where start-up settings were dropped: a pooler is in between, and what one
/// client sets may reach others. A server that refuses them does not end the examination:
/// it refuses them in an invocation too.
pub(super) async fn apply(session: &Session, config: &Settings, facts: &mut Facts) {
    if session.pooler() != Pooler::None || !lost(facts, config).is_empty() {
        return;
    }
    let timeouts = internal::timeouts(config);
    if timeouts.is_empty() {
        return;
    }
    let sql = setting(timeouts.iter().copied());
    let Ok(mut settings) = Facts::settings_after(&sql, session).await else {
        return;
    };
    for (name, _) in timeouts {
        if let Some(setting) = settings.get_mut(name) {
            setting.source = "antifreeze".to_owned();
        }
    }
    facts.settings = settings;
}

/// Checks the timeouts with which the server ends sessions that a function has abandoned.
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
    if missing.is_empty() {
        Check::ok(Step::Timeouts, shown.join(", "))
    } else {
        Check::finding(
            Step::Timeouts,
            format!(
                "{}: the session of a function that has ended keeps its locks",
                shown.join(", ")
            ),
            missing.join(" "),
        )
    }
}

/// Formats milliseconds as the server does.
fn time(milliseconds: u64) -> String {
    match milliseconds {
        ms if ms % 60_000 == 0 => format!("{}min", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}
