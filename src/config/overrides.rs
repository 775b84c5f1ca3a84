//! Lists the overrides (`ANTIFREEZE_*`) that are set, and finds misspelt ones.

use super::table::OVERRIDES;
use super::{Environment, spelling};
use crate::error::{Error, Result};

/// Lists the overrides that are set, with their values; that of the token is not shown.
pub(super) fn in_force(environment: &Environment) -> Vec<(&'static str, String)> {
    let shown = OVERRIDES.iter().filter_map(|&name| {
        let value = environment.get(name)?;
        let is_secret = name == "ANTIFREEZE_HEALTH_TOKEN";
        Some((name, if is_secret { "..".to_owned() } else { value }))
    });
    shown.collect()
}

/// Formats variables as `NAME=value`.
pub(super) fn formatted(variables: &[(&'static str, String)]) -> String {
    let shown = variables
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    shown.collect::<Vec<_>>().join(" ")
}

/// Lists the variables that begin like an override and are not one.
pub(super) fn unknown(environment: &Environment) -> Vec<String> {
    let ours = |name: &&str| name.starts_with("ANTIFREEZE_") && !OVERRIDES.contains(name);
    let unknown = environment.names().filter(ours);
    unknown.map(str::to_owned).collect()
}

/// Rejects a name that is nearly that of an override: the operator believes that the setting is in
/// force. Another name may be that of a newer version, set before its deployment or left after a
/// rollback: that is not an error.
pub(super) fn check_spelling(environment: &Environment) -> Result<()> {
    let slips = unknown(environment).into_iter();
    let near = |name: &str| spelling::nearest(name, OVERRIDES.iter().copied());
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
