//! The overrides (`ANTIFREEZE_*`) that are set, and those that are misspelt.

use super::table::OPERATOR;
use super::{Environment, spelling};
use crate::error::{Error, Result};

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
