//! The parameters of a connection string, by libpq's names: which there are and what
//! becomes of each (docs/configuration.md has the table).

use super::{foreign, keywords, spelling, url, values};
use crate::error::{Error, Result};

/// What a URL, a keyword string or variables say.
#[derive(Default)]
pub(super) struct Parameters {
    list: Vec<(String, String)>,
    /// A name may be a piece of a password: it is not to be quoted.
    secret: bool,
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
const NO_OAUTH: &str = "OAuth is not spoken: use a password, a token or a certificate";
const NO_CRL: &str = "certificates are not looked up in revocation lists";

/// libpq's (manual, "Parameter Key Words"), then those of others.
pub(super) const KNOWN: &[(&str, Fate)] = &[
    ("host", Read),
    ("hostaddr", Read),
    ("port", Read),
    ("dbname", Read),
    ("user", Read),
    ("password", Read),
    ("options", Read),
    ("application_name", Read),
    ("fallback_application_name", Read),
    ("connect_timeout", Read),
    ("keepalives", Read),
    ("keepalives_idle", Read),
    ("keepalives_interval", Read),
    ("keepalives_count", Read),
    ("tcp_user_timeout", Read),
    ("target_session_attrs", Read),
    ("load_balance_hosts", Read),
    ("sslmode", Read),
    ("ssl", Read),
    ("sslrootcert", Read),
    ("sslcert", Read),
    ("sslkey", Read),
    ("sslnegotiation", Read),
    ("sslsni", Read),
    ("channel_binding", Read),
    ("require_auth", Read),
    (
        "client_encoding",
        Only(
            &["auto", "utf8", "utf-8", "unicode"],
            "the driver speaks UTF8 alone",
        ),
    ),
    ("sslcompression", Ignored),
    (
        "sslcertmode",
        Only(
            &["allow"],
            "leave sslcert and sslkey out where no certificate is to be sent",
        ),
    ),
    (
        "ssl_min_protocol_version",
        Only(
            &["tlsv1", "tlsv1.1", "tlsv1.2"],
            "TLS 1.2 and 1.3 are both offered, and the newer is taken",
        ),
    ),
    (
        "ssl_max_protocol_version",
        Only(
            &["tlsv1.3"],
            "TLS 1.2 and 1.3 are both offered, and the newer is taken",
        ),
    ),
    (
        "min_protocol_version",
        Only(&["3.0"], "the driver speaks version 3.0 of the protocol"),
    ),
    (
        "max_protocol_version",
        Only(
            &["3.0", "3.2", "latest"],
            "the driver speaks version 3.0 of the protocol",
        ),
    ),
    ("gssencmode", Only(&["disable", "prefer"], NO_GSS)),
    ("gssdelegation", Only(&["0"], NO_GSS)),
    ("gsslib", Ignored),
    ("krbsrvname", Ignored),
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
        "service",
        Refused("no service file is read: name host, user and database themselves"),
    ),
    (
        "servicefile",
        Refused("no service file is read: name host, user and database themselves"),
    ),
    (
        "sslpassword",
        Refused("an encrypted key is not read: decrypt the key that sslkey names"),
    ),
    ("sslcrl", Refused(NO_CRL)),
    ("sslcrldir", Refused(NO_CRL)),
    ("sslkeylogfile", Refused("keys of TLS are written nowhere")),
    (
        "requirepeer",
        Refused("the owner of a unix socket is not asked for"),
    ),
    ("requiressl", Refused("write sslmode=require")),
    (
        "scram_client_key",
        Refused("SCRAM begins with the password here"),
    ),
    (
        "scram_server_key",
        Refused("SCRAM begins with the password here"),
    ),
    ("oauth_issuer", Refused(NO_OAUTH)),
    ("oauth_client_id", Refused(NO_OAUTH)),
    ("oauth_client_secret", Refused(NO_OAUTH)),
    ("oauth_scope", Refused(NO_OAUTH)),
    // Prisma's ("PostgreSQL connector", "Arguments").
    ("pgbouncer", Read),
    ("connection_limit", Read),
    ("pool_timeout", Read),
    ("schema", Read),
    ("statement_cache_size", Read),
    // Supabase's integration with Vercel marks its URLs with these.
    ("supa", Ignored),
    ("workaround", Ignored),
    // How node-postgres is told to read sslmode as libpq does.
    ("uselibpqcompat", Ignored),
];

impl Parameters {
    /// Splits a URL or a keyword string.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if values::is_placeholder(text) {
            return Err(Error::configuration(
                "is still a placeholder: put the real value in its place, or have the template \
                 filled in",
            ));
        }
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
                let secret = list.iter().any(|(name, _)| holds_secret(name));
                Parameters { list, secret }
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

    /// Two words on one matter, of which the weaker must not win.
    fn check_ssl(&self) -> Result<()> {
        let modes = self
            .list
            .iter()
            .filter(|(name, value)| name == "sslmode" && !value.is_empty());
        let mut modes = modes.map(|(_, mode)| mode.as_str());
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

    /// Adds a value, which wins over earlier ones. To libpq, what is empty is not set.
    pub(super) fn add(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        if !value.is_empty() {
            self.list.push((name.to_owned(), value));
        }
    }

    /// A password stands among the parameters, perhaps with an `&` or a space in it that
    /// makes another parameter of the rest.
    pub(super) fn hide_names(&mut self) {
        self.secret = true;
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut from_last = self.list.iter().rev();
        let (_, value) = from_last.find(|(known, value)| known == name && !value.is_empty())?;
        Some(value)
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// Each is known, may be meant as it stands, and wants nothing that we do not do.
    pub(super) fn check(&self) -> Result<()> {
        for (name, value) in &self.list {
            let shown = match is_known(name) {
                true => name,
                false => "one of the parameters",
            };
            values::check(name, shown, value)?;
        }
        for (name, value) in &self.list {
            let known = KNOWN.iter().find(|(known, _)| known == name);
            let Some((name, fate)) = known else {
                return Err(self.unknown(name));
            };
            let refused = |why: &str| {
                Err(Error::configuration(format!(
                    "{name} cannot be honoured: {why}"
                )))
            };
            match fate {
                Read | Ignored => {}
                Only(values, _) if value.is_empty() || values.contains(&&*value.to_lowercase()) => {
                }
                Only(values, why) => {
                    return refused(&format!("{why} (it may be {})", values.join(", ")));
                }
                Refused(why) => return refused(why),
            }
        }
        Ok(())
    }

    fn unknown(&self, name: &str) -> Error {
        if let Some((name, advice)) = foreign::advice(name) {
            return Error::configuration(format!("{name} is another driver's parameter: {advice}"));
        }
        let near = spelling::nearest(name, KNOWN.iter().map(|(known, _)| *known));
        let near = near.map(|near| format!(" (did you mean {near}?)"));
        let near = near.unwrap_or_default();
        let name = match !self.secret && is_word(name) {
            true => name,
            false => "one of the parameters",
        };
        Error::configuration(format!(
            "{name} is no parameter that antifreeze knows{near}; a setting of the server goes into \
             options, as -c name=value"
        ))
    }
}

/// A parameter by this name, whatever its case: ours, or another driver's.
pub(super) fn is_known(name: &str) -> bool {
    let mut known = KNOWN.iter();
    known.any(|(known, _)| known.eq_ignore_ascii_case(name)) || foreign::advice(name).is_some()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<Parameters> {
        let parameters = Parameters::parse(text)?;
        parameters.check()?;
        Ok(parameters)
    }

    fn refusal(text: &str) -> String {
        match checked(text) {
            Ok(_) => panic!("{text} is taken"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_known_is_taken() {
        for text in [
            "host=db client_encoding=UTF8 gssencmode=prefer krbsrvname=postgres",
            "sslcompression=1 ssl_min_protocol_version=TLSv1.2 max_protocol_version=latest",
            "replication=false client_encoding='' sslcertmode=allow",
            "postgres://db/x?supa=base-pooler.x&uselibpqcompat=true",
            "postgres://db/x?pgbouncer=true&connection_limit=1&pool_timeout=2&schema=public",
            "  postgres://db  ",
            "",
        ] {
            assert!(checked(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_is_not_done_is_refused_with_its_reason() {
        for (parameter, word) in [
            ("gssencmode=require", "GSSAPI"),
            ("client_encoding=latin1", "UTF8"),
            ("replication=database", "replication"),
            ("ssl_min_protocol_version=TLSv1.3", "TLS 1.2 and 1.3"),
            ("sslcrl=a.crl", "revocation"),
            ("sslpassword=hunter2", "decrypt"),
            ("passfile=/x", "password file"),
            ("service=x", "service file"),
            ("requirepeer=x", "unix socket"),
            ("oauth_issuer=https://x", "OAuth"),
            ("scram_client_key=hunter2", "password"),
            ("requiressl=1", "sslmode=require"),
            ("min_protocol_version=3.2", "3.0"),
        ] {
            let name = parameter.split('=').next().expect("a name");
            for text in [parameter.to_owned(), format!("postgres://db?{parameter}")] {
                let refusal = refusal(&text);
                assert!(refusal.starts_with(name), "{refusal}");
                assert!(refusal.contains(word), "{refusal}");
                assert!(!refusal.contains("hunter2"), "{refusal}");
            }
        }
    }

    #[test]
    fn what_is_unknown_is_named_unless_it_may_be_a_piece_of_a_password() {
        for (text, word) in [
            (
                "postgres://u:p@db/x?ssl_mode=require",
                "ssl_mode is no parameter",
            ),
            (
                "postgres://u:p@db/x?ssl_mode=require",
                "did you mean sslmode?",
            ),
            ("postgres://u:p@db/x?work_mem=1", "work_mem is no parameter"),
            ("host=db sslmod=require", "did you mean sslmode?"),
            ("password=a hunter2=b", "one of the parameters is no"),
            (
                "postgres://db/x?password=a&hunter2=b",
                "one of the parameters is no",
            ),
            ("postgres://db/x?%68\u{e4}=b", "one of the parameters is no"),
            ("PASSWORD=a hunter2=b", "one of the parameters is no"),
            ("hunter2==", "one of the parameters is no"),
            ("kX7hunter=", "one of the parameters is no"),
        ] {
            let refusal = refusal(text);
            assert!(refusal.contains(word), "{text}: {refusal}");
            assert!(!refusal.contains("hunter2"), "{refusal}");
        }
    }

    #[test]
    fn the_parameters_of_others_are_translated() {
        for (parameter, word) in [
            ("currentSchema=shop", "write schema instead"),
            ("currentschema=shop", "write schema instead"),
            (
                "sslaccept=strict",
                "sslaccept=strict is sslmode=verify-full",
            ),
            ("socketTimeout=10", "statement_timeout"),
            ("stringtype=unspecified", "leave it out"),
            ("reWriteBatchedInserts=true", "leave it out"),
            ("connectionTimeoutMillis=5000", "connect_timeout"),
            ("Username=app", "write user instead"),
        ] {
            for text in [parameter.to_owned(), format!("postgres://db?{parameter}")] {
                let refusal = refusal(&text);
                assert!(refusal.contains(word), "{refusal}");
                assert!(!refusal.contains("goes into options"), "{refusal}");
            }
        }
    }

    #[test]
    fn of_two_words_on_tls_the_weaker_does_not_win() {
        for text in [
            "postgres://db?sslmode=verify-full&ssl=true",
            "postgres://db?ssl=true&sslmode=require",
            "sslmode=require sslmode=require",
        ] {
            assert!(checked(text).is_ok(), "{text}");
        }
        for text in [
            "postgres://db?sslmode=disable&ssl=true",
            "postgres://db?ssl=true&sslmode=prefer",
            "postgres://db?ssl=true&sslmode=allow",
            "postgres://db?sslmode=verify-full&sslmode=require",
            "sslmode=verify-full sslmode=disable",
        ] {
            let refusal = refusal(text);
            assert!(refusal.contains("keep one of them"), "{text}: {refusal}");
        }
    }

    #[test]
    fn what_was_pasted_with_too_much_is_said() {
        for (text, word) in [
            ("\"postgres://u:hunter2@db/x\"", "quotes"),
            (
                "psql 'postgres://u:hunter2@db/x'",
                "in front of postgres://",
            ),
            (
                "DATABASE_URL=postgres://u:hunter2@db/x",
                "DATABASE_URL is no parameter",
            ),
            ("postgres://u:[YOUR-PASSWORD]@db/x", "placeholder"),
            ("postgres://u:%5BYOUR-PASSWORD%5D@db/x", "placeholder"),
            ("postgres://u:<db_password>@db/x", "placeholder"),
            ("host=db password=YOUR_PASSWORD", "placeholder"),
            (
                "postgres://u:hunter2@${HOST}:${PORT}/x",
                "host is still a placeholder",
            ),
            (
                "postgres://u:hunter2@db:${PORT}/x",
                "port is still a placeholder",
            ),
            ("${DATABASE_URL}", "is still a placeholder"),
            ("[REDACTED]", "is still a placeholder"),
            ("undefined", "is still a placeholder"),
        ] {
            let refusal = refusal(text);
            assert!(refusal.contains(word), "{text}: {refusal}");
            assert!(!refusal.contains("hunter2"), "{refusal}");
        }
        assert!(checked("postgres://u:[x]@db").is_ok());
    }

    #[test]
    fn the_last_value_wins_and_an_empty_one_is_none() {
        let parameters = Parameters::parse("user=a user=b user='' host=''").expect("fine");
        assert_eq!(parameters.get("user"), Some("b"));
        assert_eq!(parameters.get("host"), None);
    }
}
