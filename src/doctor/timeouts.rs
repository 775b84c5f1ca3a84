//! Settings that are sent at the start, and what the server ends by itself.

use std::time::Duration;

use super::facts::Facts;
use super::report::{Check, Step};
use super::text::quoted;
use crate::config::Config;

const STATEMENT: &str = "statement_timeout";
const IDLE: &str = "idle_in_transaction_session_timeout";

/// Whether what we sent has arrived: a pooler may forget it in silence.
pub(super) fn start_up(facts: &Facts, config: &Config) -> Vec<Check> {
    if config.startup_options().is_none() {
        let none = "none is sent: this path takes none";
        return vec![Check::note(Step::StartUp, none)];
    }
    if !config.sends_settings() {
        return vec![Check::note(Step::StartUp, "only those of the URL are sent")];
    }
    let own = config.server.get_options().unwrap_or_default();
    let sent = [
        (STATEMENT, config.statement_timeout),
        (IDLE, config.idle_in_transaction_timeout),
    ];
    let sent = sent
        .iter()
        .filter(|(name, time)| !time.is_zero() && !own.contains(name));
    let lost: Vec<&str> = sent
        .filter(|(name, time)| {
            let milliseconds = time.as_millis().to_string();
            facts.value(name).is_some_and(|value| value != milliseconds)
        })
        .map(|(name, _)| *name)
        .collect();
    vec![match lost.as_slice() {
        [] => Check::well(Step::StartUp, "all settings were taken"),
        lost => Check::finding(
            Step::StartUp,
            format!(
                "{} did not arrive: something in between drops them",
                lost.join(", ")
            ),
            "it is a pooler (ignore_startup_parameters): set ANTIFREEZE_PATH=transaction-pooler \
             or session-pooler, and the time-outs with ALTER ROLE",
        ),
    }]
}

/// What ends a session that nobody ends.
pub(super) fn in_force(facts: &Facts, config: &Config) -> Check {
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
        true => Check::well(Step::TimeOuts, shown.join(", ")),
        false => Check::finding(
            Step::TimeOuts,
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
