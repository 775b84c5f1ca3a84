//! What a server says in answer to a start-up packet.

use super::ErrorKind;
use super::sqlstate::{Meaning, Said, advised, parameter, plain};

/// What to do about a password that nobody has typed.
const PROVIDED: &str = "its provider was asked once more, to no avail: does what it answers belong to this user and \
     host, and may this user log in with it (with an IAM token: GRANT rds_iam)?";

impl Said<'_> {
    /// `remedy` is for who wrote the password into a URL.
    pub(super) fn wrong_password(&self, cause: &str, remedy: &'static str) -> Meaning {
        let remedy = if self.provided { PROVIDED } else { remedy };
        advised(ErrorKind::Authentication, cause, remedy)
    }

    /// What the server says in answer to a start-up packet.
    pub(super) fn start(&self) -> Option<Meaning> {
        match self.code {
            "28000" if self.says("no pg_hba.conf entry") => {
                Some(match self.says_any(&["no encryption", "SSL off"]) {
                    true => advised(
                        ErrorKind::Tls,
                        "the server lets nobody in from here without TLS (pg_hba.conf)",
                        "set sslmode=verify-full; if that is set, add a line to pg_hba.conf for \
                         this address, user and database",
                    ),
                    false => advised(
                        ErrorKind::Authentication,
                        "the server lets nobody in from here with this user and database \
                         (pg_hba.conf)",
                        "add a line to its pg_hba.conf, or correct user and database",
                    ),
                })
            }
            "28000" if self.says("role") && self.says("does not exist") => Some(plain(
                ErrorKind::RoleMissing,
                "the role to connect as does not exist",
            )),
            "28000" if self.says("not permitted to log in") => Some(advised(
                ErrorKind::Authentication,
                "the role may not log in",
                "ALTER ROLE .. LOGIN, or connect as another",
            )),
            "28P01" => Some(self.wrong_password(
                "the server does not accept this user with this password",
                "check both, reserved characters of the password percent-encoded; the server says \
                 the same of a role that does not exist",
            )),
            "28000" if self.says("valid client certificate") => Some(advised(
                ErrorKind::Authentication,
                "the server wants a client certificate",
                "set sslcert and sslkey to one that it takes for this user, and an sslmode with \
                 TLS",
            )),
            "28000" if self.provided => {
                Some(self.wrong_password("the server does not accept this user", PROVIDED))
            }
            "28000" => Some(plain(
                ErrorKind::Authentication,
                "the server does not accept this user",
            )),
            "3D000" => Some(plain(
                ErrorKind::DatabaseMissing,
                "the database to connect to does not exist",
            )),
            // "invalid command-line argument", "-c .. requires a value" (postgres.c).
            "42601" if self.at_start => Some(advised(
                ErrorKind::ParameterRefused,
                "the server does not understand `options`",
                "write them as -c name=value, separated by spaces; in a URL a space is %20 and \
                 no `+`: options=-c%20name%3Dvalue",
            )),
            "42704" | "22023" | "42501" | "22P02" | "55P02" | "42602" if self.at_start => {
                let quoted = self.message.split('"').nth(1).and_then(parameter);
                let cause = match quoted {
                    Some(name) => format!("the server does not take {name} at start-up"),
                    None => "the server does not take a parameter at start-up".to_owned(),
                };
                Some(Meaning {
                    kind: ErrorKind::ParameterRefused,
                    cause,
                    remedy: Some("correct it, or take it out of `options` in the URL"),
                })
            }
            "57014" if self.says("authentication") => Some(plain(
                ErrorKind::ConnectTimeout,
                "the server waited too long for the authentication",
            )),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said<'a>(code: &'a str, message: &'a str) -> Said<'a> {
        Said {
            code,
            message,
            ..Said::default()
        }
    }

    #[test]
    fn failed_startup_has_a_kind_and_a_remedy() {
        use ErrorKind as Kind;
        for (code, message, kind) in [
            (
                "3D000",
                "database \"x\" does not exist",
                Kind::DatabaseMissing,
            ),
            ("28000", "role \"x\" does not exist", Kind::RoleMissing),
            (
                "28P01",
                "password authentication failed for user \"x\"",
                Kind::Authentication,
            ),
            (
                "28000",
                "connection requires a valid client certificate",
                Kind::Authentication,
            ),
            (
                "28000",
                "no pg_hba.conf entry for host \"::1\", user \"x\", database \"x\", no encryption",
                Kind::Tls,
            ),
            (
                "28000",
                "no pg_hba.conf entry for host \"::1\", user \"x\", database \"x\", SSL encryption",
                Kind::Authentication,
            ),
        ] {
            assert_eq!(said(code, message).meaning().kind, kind, "{code} {message}");
        }
    }

    #[test]
    fn startup_setting_is_named() {
        let start = Said {
            at_start: true,
            ..said("42704", "unrecognized configuration parameter \"a.b\"")
        };
        assert_eq!(start.meaning().kind, ErrorKind::ParameterRefused);
        assert!(start.meaning().cause.contains("a.b"));
        let options = Said {
            at_start: true,
            ..said(
                "42601",
                "invalid command-line argument for server process: x",
            )
        };
        assert_eq!(options.meaning().kind, ErrorKind::ParameterRefused);
        assert!(options.meaning().cause.contains("`options`"));
        assert_eq!(said("42601", "").meaning().kind, ErrorKind::Database);
        let later = said("42704", "unrecognized configuration parameter \"a.b\"");
        assert_eq!(later.meaning().kind, ErrorKind::Database);
    }
}
