//! The parameters of a connection string, by libpq's names (docs/configuration.md has the
//! table).

use std::fmt;

use super::{Origin, foreign, keywords, spelling, url, values};
use crate::error::{Error, Result};

/// What a URL, a keyword string, variables or the code say.
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
pub(super) enum Fate {
    /// It is read.
    Read,
    /// It changes nothing here, whatever it says.
    Ignored,
    /// Any other value asks for what we do not do, and why not.
    Only(&'static [&'static str], &'static str),
    Refused(&'static str),
}

use Fate::{Ignored, Only, Read, Refused};

const NO_GSS: &str = "GSSAPI is not spoken";
const BOTH_TLS: &str = "TLS 1.2 and 1.3 are both offered, and the newer is taken";
const PROTOCOL: &str = "the driver speaks version 3.0 of the protocol";

/// libpq's (manual, "Parameter Key Words"), Prisma's ("PostgreSQL connector", "Arguments"),
/// and what Supabase's integration with Vercel (`supa`, `workaround`) and node-postgres
/// (`uselibpqcompat`) mark URLs with.
const KNOWN: &[(&str, Fate)] = &[
    (
        "host hostaddr port dbname user password options application_name \
         fallback_application_name connect_timeout keepalives keepalives_idle \
         keepalives_interval keepalives_count tcp_user_timeout target_session_attrs \
         load_balance_hosts sslmode ssl sslrootcert sslcert sslkey sslnegotiation sslsni \
         channel_binding require_auth \
         pgbouncer connection_limit pool_timeout schema statement_cache_size",
        Read,
    ),
    (
        "sslcompression gsslib krbsrvname supa workaround uselibpqcompat",
        Ignored,
    ),
    (
        "client_encoding",
        Only(
            &["auto", "utf8", "utf-8", "unicode"],
            "the driver speaks UTF8 alone",
        ),
    ),
    (
        "sslcertmode",
        Only(
            &["allow"],
            "leave sslcert and sslkey out where no certificate is to be sent",
        ),
    ),
    (
        "ssl_min_protocol_version",
        Only(&["tlsv1", "tlsv1.1", "tlsv1.2"], BOTH_TLS),
    ),
    ("ssl_max_protocol_version", Only(&["tlsv1.3"], BOTH_TLS)),
    ("min_protocol_version", Only(&["3.0"], PROTOCOL)),
    (
        "max_protocol_version",
        Only(&["3.0", "3.2", "latest"], PROTOCOL),
    ),
    ("gssencmode", Only(&["disable", "prefer"], NO_GSS)),
    ("gssdelegation", Only(&["0"], NO_GSS)),
    (
        "replication",
        Only(
            &["false", "off", "no", "0"],
            "the driver does not speak the replication protocol",
        ),
    ),
    (
        "passfile",
        Refused("no password file is read: give the password itself"),
    ),
    (
        "service servicefile",
        Refused("no service file is read: name host, user and database themselves"),
    ),
    (
        "sslpassword",
        Refused("an encrypted key is not read: decrypt the key that sslkey names"),
    ),
    (
        "sslcrl sslcrldir",
        Refused("certificates are not looked up in revocation lists"),
    ),
    ("sslkeylogfile", Refused("keys of TLS are written nowhere")),
    (
        "requirepeer",
        Refused("the owner of a unix socket is not asked for"),
    ),
    ("requiressl", Refused("write sslmode=require")),
    (
        "scram_client_key scram_server_key",
        Refused("SCRAM begins with the password here"),
    ),
    (
        "oauth_issuer oauth_client_id oauth_client_secret oauth_scope",
        Refused("OAuth is not spoken: use a password, a token or a certificate"),
    ),
];

/// Each with what becomes of it.
pub(super) fn known() -> impl Iterator<Item = (&'static str, &'static Fate)> {
    let all = KNOWN.iter();
    all.flat_map(|(names, fate)| names.split_whitespace().map(move |name| (name, fate)))
}

impl Parameters {
    /// Splits a URL or a keyword string.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        values::check_whole(text)?;
        if text.starts_with(['"', '\'', '`']) {
            return Err(Error::configuration(
                "begins with a quotation mark: take the quotes away",
            ));
        }
        let parameters = match url::parse(text)? {
            Some(parameters) => parameters,
            None => {
                let list = keywords::parse(text).map_err(|error| match text.contains("://") {
                    false => error,
                    true => Error::configuration(
                        "has something in front of postgres://: take away what is before it",
                    ),
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

    /// The same, of what the code says: errors about the whole of it have no other
    /// subject.
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

    /// The same, of what a variable says.
    pub(super) fn of_variable(variable: &'static str, text: &str) -> Result<Self> {
        let mut parameters =
            Parameters::parse(text).map_err(|error| named(Origin::Variable(variable), error))?;
        for parameter in &mut parameters.list {
            parameter.origin = Origin::Variable(variable);
        }
        Ok(parameters)
    }

    /// Two words on one matter, of which the weaker must not win.
    fn check_ssl(&self) -> Result<()> {
        let said = |given: &&Parameter| given.name == "sslmode" && !given.value.is_empty();
        let modes = self.list.iter().filter(said);
        let mut modes = modes.map(|given| given.value.as_str());
        let mode = modes.next();
        if modes.any(|other| Some(other) != mode) {
            return Err(Error::configuration(
                "sslmode stands there twice, with different values: keep one of them",
            ));
        }
        match mode {
            Some("disable" | "allow" | "prefer") if self.get("ssl").is_some() => {
                Err(Error::configuration(
                    "ssl contradicts sslmode, which does without TLS: keep one of them",
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

    /// Adds all that `others` say.
    pub(super) fn extend(&mut self, others: Parameters) {
        self.list.extend(others.list);
        self.secret |= others.secret;
    }

    /// A password stands among the parameters, perhaps with an `&` or a space in it that
    /// makes another parameter of the rest.
    pub(super) fn hide_names(&mut self) {
        self.secret = true;
    }

    fn last(&self, name: &str) -> Option<&Parameter> {
        let said = |given: &&Parameter| given.name == name && !given.value.is_empty();
        self.list.iter().rev().find(said)
    }

    /// Where the value in force was said.
    pub(super) fn origin(&self, name: &str) -> Origin {
        self.last(name)
            .map(|given| given.origin)
            .unwrap_or_default()
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let value = self.last(name)?.value.as_str();
        // Only in these may a blank at the ends be meant.
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

    /// Each is known, may be meant as it stands, and wants nothing that we do not do.
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
        let shown = match is_known(&given.name) {
            true => &given.name,
            false => "(not shown, since it may be part of a password)",
        };
        match given.origin {
            // It has a setter of its own: nothing has slipped into it from its neighbours.
            Origin::Code => values::check_filled(&given.name, shown, &given.value),
            _ => values::check(&given.name, shown, &given.value),
        }
    }

    fn check_fate(&self, given: &Parameter) -> Result<()> {
        let value = &given.value;
        let known = known().find(|(known, _)| *known == given.name);
        let Some((name, fate)) = known else {
            return Err(self.unknown(&given.name));
        };
        let why = match fate {
            Read | Ignored => return Ok(()),
            Only(values, _)
                if value.is_empty() || values.contains(&&*value.trim().to_lowercase()) =>
            {
                return Ok(());
            }
            Only(values, why) => format!("{why} (it may be {})", values.join(", ")),
            Refused(why) => (*why).to_owned(),
        };
        Err(Error::configuration(format!(
            "{name} cannot be honoured: {why}"
        )))
    }

    /// An `error` about one of them, with the variable that holds it.
    pub(super) fn explain(&self, error: Error) -> Error {
        let message = error.to_string();
        let mut words = message.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let subject = words.next().unwrap_or_default();
        named(self.origin(subject), error)
    }

    fn unknown(&self, name: &str) -> Error {
        if let Some((name, advice)) = foreign::advice(name) {
            return Error::configuration(format!("{name} is another driver's parameter: {advice}"));
        }
        let near = spelling::nearest(name, known().map(|(known, _)| known));
        let near = near.map(|near| format!(" (did you mean {near}?)"));
        let near = near.unwrap_or_default();
        // No setting of the server is written in the way of Java's.
        let settings = ["DateStyle", "TimeZone", "IntervalStyle"];
        let is_lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
        let remedy = match is_lower || settings.contains(&name) {
            true => "a setting of the server goes into options, as -c name=value",
            false => "leave it out",
        };
        let name = match !self.secret && is_word(name) {
            true => name,
            false => "(not shown, since it may be part of a password)",
        };
        Error::configuration(format!(
            "unknown connection parameter {name}{near}; {remedy}"
        ))
    }
}

/// With the variable that it is about.
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

/// A parameter by this name, whatever its case: ours, or another driver's.
pub(super) fn is_known(name: &str) -> bool {
    let mut all = known();
    all.any(|(known, _)| known.eq_ignore_ascii_case(name)) || foreign::advice(name).is_some()
}

/// What is given by this name is not to be shown, nor what an unescaped character has
/// made another parameter of.
pub(super) fn holds_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["pass", "pwd", "secret", "token", "key"]
        .iter()
        .any(|word| name.contains(word))
}

/// As parameters and variables are called; a password that was given alone has capitals
/// or digits in the midst.
fn is_word(name: &str) -> bool {
    let all = |fits: fn(&u8) -> bool| name.bytes().all(|byte| byte == b'_' || fits(&byte));
    name.len() <= 40 && (all(u8::is_ascii_lowercase) || all(u8::is_ascii_uppercase))
}
