//! Holds and checks connection parameters, by libpq's names (docs/configuration.md has the
//! table).

use std::fmt;

use super::{Origin, foreign, keywords, spelling, url, values};
use crate::error::{Error, Result};

/// The parameters that a URL, a keyword string, variables or the code set.
#[derive(Clone, Default)]
pub(super) struct Parameters {
    list: Vec<Parameter>,
    /// A name may be a piece of a password: it is not to be quoted.
    secret: bool,
}

#[derive(Clone)]
struct Parameter {
    name: String,
    value: String,
    origin: Origin,
}

/// What becomes of a parameter.
enum Fate {
    /// It is read, or changes nothing here whatever its value is.
    Taken,
    /// Only these values are accepted, and why.
    Limited(&'static str, &'static str),
}

/// libpq's (manual, "Parameter Key Words"), Prisma's ("PostgreSQL connector", "Arguments"),
/// and JDBC's `ssl`.
const READ: &str = "host hostaddr port dbname user password options application_name \
    fallback_application_name connect_timeout keepalives keepalives_idle keepalives_interval \
    keepalives_count tcp_user_timeout target_session_attrs load_balance_hosts sslmode ssl \
    sslrootcert sslcert sslkey sslnegotiation sslsni channel_binding require_auth pgbouncer \
    connection_limit pool_timeout schema statement_cache_size";

/// libpq's that concern features that are not supported, and the marks that Supabase's
/// integration with Vercel (`supa`, `workaround`) and node-postgres (`uselibpqcompat`) put
/// into URLs.
const IGNORED: &str = "sslcompression gsslib krbsrvname supa workaround uselibpqcompat";

/// Rows of libpq's parameters, the values that are accepted, if there are any, and why no
/// other is.
const LIMITED: &str = "\
client_encoding | auto, utf8, utf-8, unicode | the driver supports UTF8 only
sslcertmode | allow | to send no certificate, leave sslcert and sslkey out
ssl_min_protocol_version | tlsv1, tlsv1.1, tlsv1.2 | TLS 1.2 and 1.3 are both offered, and the newer is used
ssl_max_protocol_version | tlsv1.3 | TLS 1.2 and 1.3 are both offered, and the newer is used
min_protocol_version | 3.0 | the driver supports version 3.0 of the protocol
max_protocol_version | 3.0, 3.2, latest | the driver supports version 3.0 of the protocol
gssencmode | disable, prefer | GSSAPI is not supported
gssdelegation | 0 | GSSAPI is not supported
replication | false, off, no, 0 | the driver does not support the replication protocol
passfile | | a password file is not read: give the password itself
service servicefile | | a service file is not read: give host, user and database
sslpassword | | an encrypted key is not read: decrypt the key that sslkey names
sslcrl sslcrldir | | certificate revocation lists are not read
sslkeylogfile | | TLS keys are not written to files
requirepeer | | the owner of a unix socket is not checked
requiressl | | write sslmode=require
scram_client_key scram_server_key | | SCRAM needs the password
oauth_issuer oauth_client_id oauth_client_secret oauth_scope | | OAuth is not supported: use a password, a token or a certificate
";

/// The names of the parameters that are known.
pub(super) fn known() -> impl Iterator<Item = &'static str> {
    let limited = LIMITED.lines().filter_map(|row| row.split(" |").next());
    let all = [READ, IGNORED].into_iter().chain(limited);
    all.flat_map(str::split_whitespace)
}

/// What becomes of the parameter of this name, if it is known.
fn fate(name: &str) -> Option<Fate> {
    let has = |names: &str| names.split_whitespace().any(|known| known == name);
    if has(READ) || has(IGNORED) {
        return Some(Fate::Taken);
    }
    LIMITED.lines().find_map(|row| {
        let (names, rest) = row.split_once(" |")?;
        let (values, why) = rest.split_once("| ")?;
        has(names).then_some(Fate::Limited(values.trim(), why))
    })
}

impl Parameters {
    /// Splits a URL or a keyword string.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        values::check_whole(text)?;
        if text.starts_with(['"', '\'', '`']) {
            return Err(Error::configuration(
                "begins with a quotation mark: remove the quotes",
            ));
        }
        let parameters = match url::parse(text)? {
            Some(parameters) => parameters,
            None => {
                let list = keywords::parse(text).map_err(|error| {
                    if text.contains("://") {
                        Error::configuration("contains text before postgres://: remove it")
                    } else {
                        error
                    }
                })?;
                let mut parameters = Parameters::default();
                for (name, value) in list {
                    parameters.secret |= holds_secret(&name);
                    let origin = Origin::Url;
                    parameters.list.push(Parameter {
                        name,
                        value,
                        origin,
                    });
                }
                parameters
            }
        };
        parameters.check_ssl()?;
        Ok(parameters)
    }

    /// Splits a text that the code gives: errors about the whole of it begin with "the URL".
    pub(super) fn parse_code(text: &str) -> Result<Self> {
        if text.trim().is_empty() {
            return Err(Error::configuration(
                "the URL is empty: write postgres://user:password@host/database, or \
                 postgres://localhost for the server of this machine",
            ));
        }
        Parameters::parse(text).map_err(|error| match error.to_string() {
            // About one of its parameters.
            message if message.starts_with("ssl") => error,
            message => Error::configuration(format!("the URL {message}")),
        })
    }

    /// Splits the value of a variable, which errors name.
    pub(super) fn of_variable(variable: &'static str, text: &str) -> Result<Self> {
        let mut parameters =
            Parameters::parse(text).map_err(|error| named(Origin::Variable(variable), error))?;
        for parameter in &mut parameters.list {
            parameter.origin = Origin::Variable(variable);
        }
        Ok(parameters)
    }

    /// Refuses two values that contradict each other: the weaker one must not win.
    fn check_ssl(&self) -> Result<()> {
        let said = |given: &&Parameter| given.name == "sslmode" && !given.value.is_empty();
        let modes = self.list.iter().filter(said);
        let mut modes = modes.map(|given| given.value.as_str());
        let mode = modes.next();
        if modes.any(|other| Some(other) != mode) {
            return Err(Error::configuration(
                "sslmode is set twice, with different values: keep one of them",
            ));
        }
        match mode {
            Some("disable" | "allow" | "prefer") if self.get("ssl").is_some() => {
                Err(Error::configuration(
                    "ssl contradicts sslmode, which allows connections without TLS: keep one of them",
                ))
            }
            _ => Ok(()),
        }
    }

    /// Adds a value of a URL or keyword string, which wins over earlier ones.
    pub(super) fn add(&mut self, name: &str, value: impl Into<String>) {
        self.say(name, value, Origin::Url);
    }

    /// Adds a value, which wins over earlier ones. To libpq, what is empty is not set.
    pub(super) fn say(&mut self, name: &str, value: impl Into<String>, origin: Origin) {
        let (name, value) = (name.to_owned(), value.into());
        if !value.is_empty() {
            self.list.push(Parameter {
                name,
                value,
                origin,
            });
        }
    }

    /// Adds all `others`, which win over earlier ones.
    pub(super) fn extend(&mut self, others: Parameters) {
        self.list.extend(others.list);
        self.secret |= others.secret;
    }

    /// Hides the names of unknown parameters: a password among the parameters may contain an
    /// `&` or a space, and the rest of it is then read as a name.
    pub(super) fn hide_names(&mut self) {
        self.secret = true;
    }

    fn last(&self, name: &str) -> Option<&Parameter> {
        let said = |given: &&Parameter| given.name == name && !given.value.is_empty();
        self.list.iter().rev().find(said)
    }

    /// Where the value in force was set.
    pub(super) fn origin(&self, name: &str) -> Origin {
        self.last(name)
            .map(|given| given.origin)
            .unwrap_or_default()
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let value = self.last(name)?.value.as_str();
        // Only in these may a space at either end be intended.
        match name {
            "user" | "password" | "dbname" | "schema" | "options" | "application_name" => {
                Some(value)
            }
            _ => Some(value.trim()),
        }
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.list.iter();
        all.map(|given| (given.name.as_str(), given.value.as_str()))
    }

    /// Checks that each parameter is known, well-formed and supported.
    pub(super) fn check(&self) -> Result<()> {
        for given in &self.list {
            let checked = self.check_value(given);
            checked.map_err(|error| named(given.origin, error))?;
        }
        for given in &self.list {
            let checked = self.check_fate(given);
            checked.map_err(|error| named(given.origin, error))?;
        }
        Ok(())
    }

    fn check_value(&self, given: &Parameter) -> Result<()> {
        let shown = if is_known(&given.name) {
            &given.name
        } else {
            "a connection parameter"
        };
        match given.origin {
            // It has a setter of its own: nothing has slipped into it from its neighbours.
            Origin::Code => values::check_filled(&given.name, shown, &given.value),
            _ => values::check(&given.name, shown, &given.value),
        }
    }

    fn check_fate(&self, given: &Parameter) -> Result<()> {
        let (name, value) = (&given.name, given.value.trim().to_lowercase());
        let why = match fate(name) {
            None => return Err(self.unknown(name)),
            Some(Fate::Taken) => return Ok(()),
            Some(Fate::Limited("", why)) => why.to_owned(),
            Some(Fate::Limited(values, why)) => {
                if given.value.is_empty() || values.split(", ").any(|known| known == value) {
                    return Ok(());
                }
                format!("{why} (accepted values: {values})")
            }
        };
        Err(Error::configuration(format!(
            "{name} is not supported: {why}"
        )))
    }

    /// Names the variable that holds the parameter which `error` is about.
    pub(super) fn explain(&self, error: Error) -> Error {
        let message = error.to_string();
        let mut words = message.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let subject = words.next().unwrap_or_default();
        named(self.origin(subject), error)
    }

    fn unknown(&self, name: &str) -> Error {
        if let Some((name, advice)) = foreign::advice(name) {
            return Error::configuration(format!(
                "{name} is a parameter of another driver: {advice}"
            ));
        }
        let near = spelling::nearest(name, known());
        let near = near.map(|near| format!(" (did you mean {near}?)"));
        let near = near.unwrap_or_default();
        // No setting of the server is written in the way of Java's.
        let settings = ["DateStyle", "TimeZone", "IntervalStyle"];
        let is_lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
        let remedy = if is_lower || settings.contains(&name) {
            "a setting of the server goes into options, as -c name=value"
        } else {
            "leave it out"
        };
        let name = if !self.secret && is_word(name) {
            name
        } else {
            "(its name may be a piece of the password and is not shown)"
        };
        Error::configuration(format!(
            "unknown connection parameter {name}{near}; {remedy}"
        ))
    }
}

/// Puts the variable in front of an error.
fn named(origin: Origin, error: Error) -> Error {
    match origin {
        Origin::Variable(name) => Error::configuration(format!("{name}: {error}")),
        _ => error,
    }
}

impl fmt::Debug for Parameters {
    /// Names alone: a value may be the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.list.iter().map(|given| &given.name);
        f.debug_list().entries(names).finish()
    }
}

/// Whether this is the name of a parameter, here or in another driver, in any case.
pub(super) fn is_known(name: &str) -> bool {
    known().any(|known| known.eq_ignore_ascii_case(name)) || foreign::advice(name).is_some()
}

/// Whether a parameter of this name holds a secret: its value is not shown, nor the names of
/// unknown parameters, which may be the rest of it.
pub(super) fn holds_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["pass", "pwd", "secret", "token", "key"]
        .iter()
        .any(|word| name.contains(word))
}

/// Whether `name` is formed like those of parameters and variables. A password that was
/// given alone mixes cases or contains digits.
fn is_word(name: &str) -> bool {
    let all = |fits: fn(&u8) -> bool| name.bytes().all(|byte| byte == b'_' || fits(&byte));
    name.len() <= 40 && (all(u8::is_ascii_lowercase) || all(u8::is_ascii_uppercase))
}
