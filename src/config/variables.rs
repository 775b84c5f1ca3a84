//! Reads settings from variables: the overrides (`ANTIFREEZE_*`), which win over the code,
//! and the limits as services in Go name them, which lose to the URL.

use std::time::Duration;

use super::table::OPERATOR;
use super::words::Words;
use super::{Environment, duration, spelling};
use crate::error::{Error, Result};

/// Reads a number, 0 or more.
pub(super) fn count(environment: &Environment, name: &str) -> Result<Option<usize>> {
    number(environment, name, 0)
}

/// Reads a number, 1 or more.
pub(super) fn at_least_one(environment: &Environment, name: &str) -> Result<Option<usize>> {
    number(environment, name, 1)
}

fn number(environment: &Environment, name: &str, least: usize) -> Result<Option<usize>> {
    let wanted = format!("is not a number of connections, {least} or more");
    let parse = |text: &str| text.trim().parse().ok().filter(|&count| count >= least);
    read(environment, name, &wanted, parse)
}

/// Reads a duration, zero included.
pub(super) fn duration(environment: &Environment, name: &str) -> Result<Option<Duration>> {
    let wanted = format!("is not {}", duration::WANTED);
    read(environment, name, &wanted, duration::parse)
}

/// Reads a duration; zero is unlimited, as in Go.
pub(super) fn or_never(environment: &Environment, name: &str) -> Result<Option<Duration>> {
    let time = duration(environment, name)?;
    Ok(time.map(|time| if time.is_zero() { Duration::MAX } else { time }))
}

/// Reads a duration; zero is not set, as in Go.
pub(super) fn unless_zero(environment: &Environment, name: &str) -> Result<Option<Duration>> {
    Ok(duration(environment, name)?.filter(|time| !time.is_zero()))
}

/// Reads one of the words of a setting.
pub(super) fn word<T: Words>(environment: &Environment, name: &str) -> Result<Option<T>> {
    let wanted = format!("is not valid: expected one of {}", T::all());
    read(environment, name, &wanted, |text| T::of(text.trim()))
}

/// Reads a secret, without the line end that files and consoles append. A variable that is
/// set and empty was meant to hold one.
pub(super) fn secret(environment: &Environment, name: &str) -> Result<Option<String>> {
    match environment.raw(name).map(str::trim) {
        Some("") => Err(Error::configuration(format!(
            "{name} is set but empty: give it a value, or unset it"
        ))),
        value => Ok(value.map(str::to_owned)),
    }
}

fn read<T>(
    environment: &Environment,
    name: &str,
    wanted: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>> {
    let Some(text) = environment.get(name) else {
        return Ok(None);
    };
    let wrong = || Error::configuration(format!("{} {wanted}", spelling::shown(name, &text)));
    parse(&text).map(Some).ok_or_else(wrong)
}

/// The overrides that are set, with their values; that of the token is not shown.
pub(super) fn in_force(environment: &Environment) -> Vec<(&'static str, String)> {
    let shown = OPERATOR.iter().filter_map(|&name| {
        let value = environment.get(name)?;
        let is_secret = name == "ANTIFREEZE_HEALTH_TOKEN";
        Some((name, if is_secret { "..".to_owned() } else { value }))
    });
    shown.collect()
}

/// Formats variables as `NAME=value`.
pub(super) fn shown(variables: &[(&'static str, String)]) -> String {
    let shown = variables
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    shown.collect::<Vec<_>>().join(" ")
}

/// Variables that begin like an override and are not one.
pub(super) fn unknown(environment: &Environment) -> Vec<String> {
    let ours = |name: &&str| name.starts_with("ANTIFREEZE_") && !OPERATOR.contains(name);
    let unknown = environment.names().filter(ours);
    unknown.map(str::to_owned).collect()
}

/// Refuses a name that is nearly an override's: the operator believes that the setting is in
/// force. A name that resembles none may be a newer version's, which is set before that
/// version is deployed and stays while it is rolled back: that is not an error.
pub(super) fn check_spelling(environment: &Environment) -> Result<()> {
    let slips = unknown(environment).into_iter();
    let near = |name: &str| spelling::nearest(name, OPERATOR.iter().copied());
    let mut slips = slips.filter_map(|name| Some((near(&name)?, name)));
    match slips.next() {
        None => Ok(()),
        Some((meant, name)) => Err(Error::configuration(format!(
            "unknown variable {}: did you mean {meant}?",
            visible(&name)
        ))),
    }
}

/// The name of a variable, escaped if it contains other characters than visible ASCII.
fn visible(name: &str) -> String {
    if name.bytes().all(|byte| byte.is_ascii_graphic()) {
        name.to_owned()
    } else {
        format!("{name:?}")
    }
}
