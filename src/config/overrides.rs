//! An operator's levers: `ANTIFREEZE_*` variables, which win over the code.

use std::time::Duration;

use super::{
    Config, ConnectionLifetime, Endpoint, Environment, LoadShed, Path, backstops, spelling,
};
use crate::error::{Error, Result};
use crate::provider::PATHS;

const MAX_CONNECTIONS: &str = "ANTIFREEZE_MAX_CONNECTIONS";
const LIFETIME: &str = "ANTIFREEZE_LIFETIME";
pub(super) const ENDPOINT: &str = "ANTIFREEZE_ENDPOINT";
pub(super) const PATH: &str = "ANTIFREEZE_PATH";
const LOAD_SHED: &str = "ANTIFREEZE_LOAD_SHED";
const CONNECT: &str = "ANTIFREEZE_CONNECT_TIMEOUT";
const STATEMENT: &str = "ANTIFREEZE_STATEMENT_TIMEOUT";
const ACQUIRE: &str = "ANTIFREEZE_ACQUIRE_TIMEOUT";
const IDLE_IN_TRANSACTION: &str = "ANTIFREEZE_IDLE_IN_TRANSACTION_TIMEOUT";
const TRANSACTION: &str = "ANTIFREEZE_TRANSACTION_TIMEOUT";
const IDLE_SESSION: &str = "ANTIFREEZE_IDLE_SESSION_TIMEOUT";
const FUNCTION: &str = "ANTIFREEZE_FUNCTION_TIMEOUT";
pub(super) const WARM_UP: &str = "ANTIFREEZE_WARM_UP";
const HEALTH_TOKEN: &str = "ANTIFREEZE_HEALTH_TOKEN";

/// All that there are.
const NAMES: [&str; 14] = [
    MAX_CONNECTIONS,
    LIFETIME,
    ENDPOINT,
    PATH,
    LOAD_SHED,
    CONNECT,
    STATEMENT,
    ACQUIRE,
    IDLE_IN_TRANSACTION,
    TRANSACTION,
    IDLE_SESSION,
    FUNCTION,
    WARM_UP,
    HEALTH_TOKEN,
];

/// What the operator wants.
#[derive(Default)]
pub(super) struct Overrides {
    pub(super) endpoint: Option<Endpoint>,
    path: Option<Path>,
    lifetime: Option<ConnectionLifetime>,
    load_shed: Option<LoadShed>,
    max_connections: Option<usize>,
    connect_timeout: Option<Duration>,
    statement_timeout: Option<Duration>,
    acquire_timeout: Option<Duration>,
    idle_in_transaction_timeout: Option<Duration>,
    transaction_timeout: Option<Duration>,
    idle_session_timeout: Option<Duration>,
    function_timeout: Option<Duration>,
    health_token: Option<String>,
}

/// By their names in variables.
pub(super) const LIFETIMES: [(&str, ConnectionLifetime); 2] = [
    ("per-invocation", ConnectionLifetime::PerInvocation),
    ("per-event-loop", ConnectionLifetime::PerEventLoop),
];

pub(super) const ENDPOINTS: [(&str, Endpoint); 2] =
    [("direct", Endpoint::Direct), ("pooled", Endpoint::Pooled)];

impl Overrides {
    pub(super) fn read(environment: &Environment) -> Result<Self> {
        check_spelling(environment)?;
        let sheds = [
            ("off", LoadShed::Off),
            ("first-use", LoadShed::FirstUse),
            ("door", LoadShed::Door),
        ];
        let connect_timeout = environment.duration(CONNECT)?;
        if connect_timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(Error::configuration(format!(
                "{CONNECT} is zero: nothing connects in no time"
            )));
        }
        // It is used later; what is shown in the log has to be a number by then.
        environment.warm_up()?;
        Ok(Overrides {
            endpoint: one_of(environment, ENDPOINT, &ENDPOINTS)?,
            path: one_of(environment, PATH, &PATHS)?,
            lifetime: one_of(environment, LIFETIME, &LIFETIMES)?,
            load_shed: one_of(environment, LOAD_SHED, &sheds)?,
            max_connections: environment.count(MAX_CONNECTIONS, 1)?,
            connect_timeout,
            statement_timeout: environment.duration(STATEMENT)?,
            acquire_timeout: environment.duration(ACQUIRE)?,
            idle_in_transaction_timeout: environment.duration(IDLE_IN_TRANSACTION)?,
            transaction_timeout: environment.duration(TRANSACTION)?,
            idle_session_timeout: environment.duration(IDLE_SESSION)?,
            function_timeout: environment.duration(FUNCTION)?,
            health_token: environment.secret(HEALTH_TOKEN)?,
        })
    }

    /// All but the endpoint, which decides what the others are about.
    pub(super) fn apply(&self, config: &mut Config) {
        if let Some(path) = self.path {
            config.follow(path);
            config.detected = None;
        }
        set(&mut config.lifetime, self.lifetime);
        set(&mut config.load_shed, self.load_shed);
        set(&mut config.max_connections, self.max_connections);
        set(&mut config.connect_timeout, self.connect_timeout);
        set(&mut config.statement_timeout, self.statement_timeout);
        set(&mut config.acquire_timeout, self.acquire_timeout);
        set(
            &mut config.idle_in_transaction_timeout,
            self.idle_in_transaction_timeout,
        );
        set(&mut config.transaction_timeout, self.transaction_timeout);
        set(&mut config.idle_session_timeout, self.idle_session_timeout);
        config.function_timeout = self.function_timeout.or(config.function_timeout);
        if let Some(token) = &self.health_token {
            config.health_token = Some(token.clone());
        }
        let timeouts = self.server_timeouts().into_iter();
        config.operators = timeouts.map(|(_, setting)| setting).collect();
    }

    /// Those that are set, each with the server's name for it.
    pub(super) fn server_timeouts(&self) -> Vec<(&'static str, &'static str)> {
        let all = [
            (self.statement_timeout, (STATEMENT, backstops::STATEMENT)),
            (
                self.idle_in_transaction_timeout,
                (IDLE_IN_TRANSACTION, backstops::IDLE_IN_TRANSACTION),
            ),
            (
                self.transaction_timeout,
                (TRANSACTION, backstops::TRANSACTION),
            ),
            (
                self.idle_session_timeout,
                (IDLE_SESSION, backstops::IDLE_SESSION),
            ),
        ];
        let set = all.into_iter().filter(|(value, _)| value.is_some());
        set.map(|(_, names)| names).collect()
    }
}

/// Where somebody has said something.
pub(super) fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// Those that are set, each with its value, which was understood. The token's is not shown.
pub(super) fn in_force(environment: &Environment) -> Vec<(&'static str, String)> {
    let shown = NAMES.iter().filter_map(|&name| {
        let value = environment.get(name)?;
        let value = if name == HEALTH_TOKEN {
            "..".to_owned()
        } else {
            value
        };
        Some((name, value))
    });
    shown.collect()
}

/// As `NAME=value`, one after the other.
pub(super) fn shown(levers: &[(&'static str, String)]) -> String {
    let shown = levers.iter().map(|(name, value)| format!("{name}={value}"));
    shown.collect::<Vec<_>>().join(" ")
}

/// Variables that look like ours and are not.
pub(super) fn unknown(environment: &Environment) -> Vec<String> {
    let names = environment.names().into_iter();
    names
        .filter(|name| name.starts_with("ANTIFREEZE_") && !NAMES.contains(&name.as_str()))
        .collect()
}

/// A name that is nearly one of ours is a slip, and whoever made it believes that the
/// setting is in force. One that resembles none may be a newer version's, which has to be
/// set before that version is deployed, and stays while it is rolled back: no error.
fn check_spelling(environment: &Environment) -> Result<()> {
    let slips = unknown(environment).into_iter();
    let mut slips = slips.filter_map(|name| Some((spelling::nearest(&name, NAMES)?, name)));
    match slips.next() {
        None => Ok(()),
        Some((meant, name)) => Err(Error::configuration(format!(
            "{} is none of antifreeze's variables: did you mean {meant}?",
            visible(&name)
        ))),
    }
}

/// A name that the environment may have in any form: what makes it another one is seen.
fn visible(name: &str) -> String {
    match name.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => name.to_owned(),
        false => format!("{name:?}"),
    }
}

fn one_of<T: Copy>(
    environment: &Environment,
    name: &str,
    values: &[(&str, T)],
) -> Result<Option<T>> {
    let Some(value) = environment.get(name) else {
        return Ok(None);
    };
    let known = values.iter().find(|(known, _)| *known == value.trim());
    match known {
        Some((_, known)) => Ok(Some(*known)),
        None => {
            let wanted: Vec<_> = values.iter().map(|(known, _)| *known).collect();
            Err(Error::configuration(format!(
                "{} is none of {}",
                spelling::shown(name, &value),
                wanted.join(", ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_misspelt_is_named_with_what_was_wanted() {
        for (name, value, wanted) in [
            (MAX_CONNECTIONS, "0", "a number of connections, 1 or more"),
            (MAX_CONNECTIONS, "few", "a number of connections, 1 or more"),
            (
                LIFETIME,
                "forever",
                "none of per-invocation, per-event-loop",
            ),
            (ENDPOINT, "unpooled", "none of direct, pooled"),
            (PATH, "pgbouncer", "none of direct, transaction-pooler"),
            (CONNECT, "soon", "a duration"),
            (CONNECT, "0s", "zero"),
            (STATEMENT, "-1s", "a duration"),
            (ACQUIRE, "5 s", "a duration"),
            (IDLE_IN_TRANSACTION, "1d", "a duration"),
            (ENDPOINT, "postgres://app:hunter2@h", "none of direct"),
            (CONNECT, "postgres://app:hunter2@h", "a duration"),
            (WARM_UP, "postgres://app:hunter2@h", "a number"),
            (HEALTH_TOKEN, "", "set and empty"),
            (HEALTH_TOKEN, " \n", "set and empty"),
        ] {
            let environment = Environment::of(&[(name, value)]);
            let error = Overrides::read(&environment).err().expect(name).to_string();
            assert!(error.starts_with(name), "{error}");
            assert!(error.contains(wanted), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_slip_is_an_error_and_a_stranger_is_none() {
        for (name, meant) in [
            ("ANTIFREEZE_LIFETME", LIFETIME),
            ("ANTIFREEZE_MAX_CONECTIONS", MAX_CONNECTIONS),
            ("ANTIFREEZE_PAHT", PATH),
            ("ANTIFREEZE_path", PATH),
            ("ANTIFREEZE_LIFET\nIME", LIFETIME),
            ("ANTIFREEZE_LIFETIME ", LIFETIME),
        ] {
            let environment = Environment::of(&[(name, "hunter2")]);
            let error = Overrides::read(&environment).err().expect(name).to_string();
            let named = visible(name);
            let expected =
                format!("{named} is none of antifreeze's variables: did you mean {meant}?");
            assert_eq!(error, expected);
            assert!(!error.starts_with(&format!("{meant} ")), "{error}");
        }
        let stranger = Environment::of(&[("ANTIFREEZE_COLOUR", "blue")]);
        assert!(Overrides::read(&stranger).is_ok());
        // A version that does not know the one yet must not take it for the other.
        for name in NAMES {
            let others = NAMES.into_iter().filter(|other| *other != name);
            assert_eq!(spelling::nearest(name, others), None);
        }
    }

    #[test]
    fn strangers_are_found_and_ours_are_shown() {
        let environment = Environment::of(&[
            ("ANTIFREEZE_LIFETIME", "per-invocation"),
            ("ANTIFREEZE_COLOUR", "blue"),
            ("ANTIFREEZE_WARM_UP", "2"),
            ("ANTIFREEZE_HEALTH_TOKEN", "hunter2-hunter2-hunter2"),
            ("OTHER", "x"),
        ]);
        assert_eq!(unknown(&environment), ["ANTIFREEZE_COLOUR"]);
        assert_eq!(
            in_force(&environment),
            [
                (LIFETIME, "per-invocation".to_owned()),
                (WARM_UP, "2".to_owned()),
                (HEALTH_TOKEN, "..".to_owned()),
            ]
        );
    }
}
