//! Reads the values of settings: from connection parameters, from the overrides
//! (`ANTIFREEZE_*`), and from the limits as services in Go name them.

use std::str::FromStr;
use std::time::Duration;

use super::parameters::Parameters;
use super::words::Words;
use super::{Environment, TargetSessionAttrs, duration, spelling};
use crate::error::{Error, Result};

/// Stands for no limit: longer than any invocation.
pub(super) const UNLIMITED: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads a text.
pub(super) fn text(given: &Parameters, name: &str) -> Result<Option<String>> {
    Ok(given.get(name).map(str::to_owned))
}

/// Reads which of several hosts is accepted.
pub(super) fn attributes(given: &Parameters, name: &str) -> Result<Option<TargetSessionAttrs>> {
    given.get(name).map(str::parse).transpose()
}

/// Reads a number of statements.
pub(super) fn statements(given: &Parameters, name: &str) -> Result<Option<usize>> {
    number(given, name, "a number of statements")
}

/// Reads a number of connections, 1 or more.
pub(super) fn connections(given: &Parameters, name: &str) -> Result<Option<usize>> {
    let wanted = "a number of connections, 1 or more";
    match number(given, name, wanted)? {
        Some(0) => Err(wrong(name, wanted)),
        number => Ok(number),
    }
}

/// Reads a limit in whole seconds, as libpq and Prisma have it: zero is no limit.
pub(super) fn limit(given: &Parameters, name: &str) -> Result<Option<Duration>> {
    let seconds = number::<i64>(given, name, "a number of seconds")?;
    Ok(seconds.map(|seconds| match u64::try_from(seconds) {
        Ok(seconds @ 1..) => Duration::from_secs(seconds).min(UNLIMITED),
        _ => UNLIMITED,
    }))
}

/// Reads a number.
pub(super) fn number<T: FromStr>(
    given: &Parameters,
    name: &str,
    wanted: &str,
) -> Result<Option<T>> {
    let number = given.get(name).map(|value| value.trim().parse());
    number.transpose().map_err(|_| wrong(name, wanted))
}

/// Returns an error that does not show the value: it may be a piece of an unescaped password.
pub(super) fn wrong(name: &str, wanted: &str) -> Error {
    Error::configuration(format!("{name} is not valid: expected {wanted}"))
}

/// Reads a number, 0 or more.
pub(super) fn count(environment: &Environment, name: &str) -> Result<Option<usize>> {
    at_least(environment, name, 0)
}

/// Reads a number, 1 or more.
pub(super) fn at_least_one(environment: &Environment, name: &str) -> Result<Option<usize>> {
    at_least(environment, name, 1)
}

fn at_least(environment: &Environment, name: &str, least: usize) -> Result<Option<usize>> {
    let wanted = format!("is not a number of connections, {least} or more");
    let parse = |text: &str| text.trim().parse().ok().filter(|&count| count >= least);
    parsed(environment, name, &wanted, parse)
}

/// Reads a duration, zero included.
pub(super) fn duration(environment: &Environment, name: &str) -> Result<Option<Duration>> {
    let wanted = format!("is not {}", duration::WANTED);
    parsed(environment, name, &wanted, duration::parse)
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
    parsed(environment, name, &wanted, |text| T::of(text.trim()))
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

fn parsed<T>(
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
