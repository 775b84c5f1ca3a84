//! Holds and checks connection parameters, by libpq's names (docs/configuration.md has the
//! table).

use std::fmt;

use super::names::{Support, holds_secret, is_known, is_word, known, support};
use super::origin::Origin;
use super::{foreign, keywords, spelling, url, values};
use crate::error::{Error, Result};

/// The parameters that a URL, a keyword string, variables or the code set.
#[derive(Clone, Default)]
pub(super) struct Parameters {
    list: Vec<Parameter>,
    /// A name may be a piece of a password, which contained an `&` or a space: names of
    /// unknown parameters are not shown.
    secret: bool,
}

#[derive(Clone)]
struct Parameter {
    name: String,
    value: String,
    origin: Origin,
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
        let (address, rest) = match url::parse(text)? {
            Some(url) => (url.address, url.query),
            None => {
                let list = keywords::parse(text).map_err(|error| {
                    if text.contains("://") {
                        Error::configuration("contains text before postgres://: remove it")
                    } else {
                        error
                    }
                })?;
                (Vec::new(), list)
            }
        };
        let mut parameters = Parameters {
            secret: rest.iter().any(|(name, _)| holds_secret(name)),
            list: Vec::new(),
        };
        for (name, value) in address.into_iter().chain(rest) {
            parameters.list.push(Parameter {
                name,
                value,
                origin: Origin::Url,
            });
        }
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
        let is_mode = |given: &&Parameter| given.name == "sslmode" && !given.value.is_empty();
        let modes = self.list.iter().filter(is_mode);
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

    /// Adds a value, which wins over earlier ones. To libpq, what is empty is not set.
    pub(super) fn set(&mut self, name: &str, value: impl Into<String>, origin: Origin) {
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

    fn last(&self, name: &str) -> Option<&Parameter> {
        let is_set = |given: &&Parameter| given.name == name && !given.value.is_empty();
        self.list.iter().rev().find(is_set)
    }

    /// Returns where the value in force was set.
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

    /// Checks that each parameter is known, well-formed and supported.
    pub(super) fn check(&self) -> Result<()> {
        for check in [Self::check_value, Self::check_support] {
            for given in &self.list {
                check(self, given).map_err(|error| named(given.origin, error))?;
            }
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
            // It was set alone: its value cannot contain another parameter by mistake.
            Origin::Code => values::check_filled(&given.name, shown, &given.value),
            _ => values::check(&given.name, shown, &given.value),
        }
    }

    fn check_support(&self, given: &Parameter) -> Result<()> {
        let (name, value) = (&given.name, given.value.trim().to_lowercase());
        let why = match support(name) {
            None => return Err(self.unknown(name)),
            Some(Support::Taken) => return Ok(()),
            Some(Support::Limited("", why)) => why.to_owned(),
            Some(Support::Limited(values, why)) => {
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
        // Names in camel case are those of Java's drivers; the server has three.
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

/// Prefixes an error with the variable that it is about.
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
