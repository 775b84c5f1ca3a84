//! Parses a connection URL.
//!
//! As libpq does (manual, "Connection URIs"), but stricter about `@`, `#`, `/` and
//! `?`: an unescaped one in the password moves everything after it to another part, which
//! errors and logs would show. So there may be one `@`, and only before the first of the
//! others; then no other part contains a piece of a password.

use crate::error::{Error, Result};
use crate::provider;

/// How to write characters that have a meaning in a URL.
const ESCAPE: &str = "in user, password and database `@` is written %40, `#` %23, `/` %2F, `?` \
                      %3F, `:` %3A, `%` %25 and a space %20";

/// The parameters of a URL, by libpq's names.
#[cfg_attr(test, derive(Debug))]
pub(super) struct Url {
    /// Those before the `?`.
    pub(super) address: Vec<(String, String)>,
    /// Those behind it.
    pub(super) query: Vec<(String, String)>,
}

/// Parses `text`, if it is a URL at all.
pub(super) fn parse(text: &str) -> Result<Option<Url>> {
    // JDBC may do without the slashes, too.
    if text
        .get(..5)
        .is_some_and(|start| start.eq_ignore_ascii_case("jdbc:"))
    {
        return Err(Error::configuration(
            "begins with jdbc:, the prefix of Java: write postgresql://user:password@host/database, \
             without `jdbc:`",
        ));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Ok(None);
    };
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.:".contains(c);
    if scheme.is_empty() || !scheme.chars().all(is_scheme) {
        // It may belong to a value in a keyword string.
        return Ok(None);
    }
    // SQLAlchemy names the driver behind a `+`.
    let (scheme, _driver) = scheme.split_once('+').unwrap_or((scheme, ""));
    if provider::is_own_scheme(scheme) {
        return Err(Error::configuration(provider::OWN_SERVICE));
    }
    let ours = ["postgres", "postgresql"];
    if !ours.iter().any(|ours| scheme.eq_ignore_ascii_case(ours)) {
        return Err(Error::configuration(
            "does not begin with postgres:// or postgresql://, the schemes of PostgreSQL",
        ));
    }
    if rest.contains("{{ ") {
        return Err(Error::configuration(
            "contains `{{`, a placeholder: fill in the template",
        ));
    }
    if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(wrong("contains a space or a line break"));
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    if authority.matches('@').count() > 1 {
        return Err(wrong("contains a second `@`"));
    }
    if let Some(first) = tail.chars().next().filter(|_| tail.contains('@')) {
        return Err(wrong(&format!("contains an `@` after a `{first}`")));
    }
    if tail.contains('#') {
        return Err(wrong("contains a `#`"));
    }

    let mut address = Vec::new();
    let mut add = |name: &str, value: String| address.push((name.to_owned(), value));
    let hosts = match authority.split_once('@') {
        None => authority,
        Some((user, hosts)) => {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            add("user", decoded(user)?);
            add("password", decoded(password)?);
            hosts
        }
    };
    let (names, ports) = read_hosts(hosts)?;
    add("host", names);
    add("port", ports);
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    add("dbname", decoded(path.strip_prefix('/').unwrap_or(path))?);
    let query = read_query(query)?;
    Ok(Some(Url { address, query }))
}

/// `a:1,[::1]:2,c` becomes libpq's lists, `a,::1,c` and `1,2,`.
fn read_hosts(hosts: &str) -> Result<(String, String)> {
    let mut names = Vec::new();
    let mut ports = Vec::new();
    for host in hosts.split(',') {
        let (name, port) = match host.strip_prefix('[') {
            None => host.split_once(':').unwrap_or((host, "")),
            Some(host) => match host.split_once(']') {
                Some((name, after)) if !name.contains(':') && !after.contains(']') => {
                    return Err(wrong(
                        "contains a host in brackets that is not an IPv6 address: replace a placeholder \
                         together with its brackets",
                    ));
                }
                Some((name, "")) => (name, ""),
                Some((name, after)) if after.starts_with(':') => (name, &after[1..]),
                _ => return Err(wrong("contains a `[` that is not closed before the port")),
            },
        };
        if port.contains(':') {
            return Err(wrong(
                "contains a host with several `:`: write an IPv6 address in brackets, [::1]",
            ));
        }
        let name = decoded(name)?;
        if name.contains(',') {
            return Err(wrong("contains a `,` in a host"));
        }
        names.push(name);
        ports.push(decoded(port)?);
    }
    let has_port = ports.iter().any(|port| !port.is_empty());
    let ports = if has_port {
        ports.join(",")
    } else {
        String::new()
    };
    Ok((names.join(","), ports))
}

fn read_query(query: &str) -> Result<Vec<(String, String)>> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let decode = |pair: &str| match pair.split_once('=') {
        Some((name, value)) => Ok((decoded(name)?, decoded(value)?)),
        None => Err(wrong("contains a parameter without `=` after the `?`")),
    };
    pairs.map(decode).collect()
}

fn wrong(what: &str) -> Error {
    Error::configuration(format!(
        "{what}: percent-encode special characters: {ESCAPE}"
    ))
}

fn decoded(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        match (digit(), digit()) {
            (Some(high), Some(low)) if high + low > 0 => bytes.push((high * 16 + low) as u8),
            _ => return Err(wrong("contains a `%` that does not begin an escape")),
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong("contains escapes that are not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_forms_are_parsed() {
        for (text, expected) in [
            ("postgres://", &[][..]),
            ("postgres://db", &[("host", "db")]),
            ("postgresql://db", &[("host", "db")]),
            ("POSTGRES://Db", &[("host", "Db")]),
            ("postgresql+asyncpg://db", &[("host", "db")]),
            ("postgres+psycopg2://db", &[("host", "db")]),
            (
                "postgres://App:P%40s%3As@db:5433/Shop",
                &[
                    ("user", "App"),
                    ("password", "P@s:s"),
                    ("host", "db"),
                    ("port", "5433"),
                    ("dbname", "Shop"),
                ],
            ),
            ("postgres://u@db/", &[("user", "u"), ("host", "db")]),
            (
                "postgres://u:a:b@db",
                &[("user", "u"), ("password", "a:b"), ("host", "db")],
            ),
            ("postgres:///shop", &[("dbname", "shop")]),
            (
                "postgres://[::1]:5433/shop",
                &[("host", "::1"), ("port", "5433"), ("dbname", "shop")],
            ),
            ("postgres://[fe80::1%25eth0]", &[("host", "fe80::1%eth0")]),
            ("postgres://a,b:2,c", &[("host", "a,b,c"), ("port", ",2,")]),
            (
                "postgres://[::1]:1,[::2]",
                &[("host", "::1,::2"), ("port", "1,")],
            ),
            (
                "postgres://%2Fvar%2Frun%2Fpg/shop",
                &[("host", "/var/run/pg"), ("dbname", "shop")],
            ),
            (
                "postgres://localhost/shop?host=/cloudsql/a&application_name=x%20y&",
                &[
                    ("host", "localhost"),
                    ("dbname", "shop"),
                    ("host", "/cloudsql/a"),
                    ("application_name", "x y"),
                ],
            ),
            (
                "postgres://db?user=u&options=-c%20a%3Db&ssl=true",
                &[
                    ("host", "db"),
                    ("user", "u"),
                    ("options", "-c a=b"),
                    ("ssl", "true"),
                ],
            ),
        ] {
            let url = parse(text).expect(text).expect("a URL");
            let all = url.address.iter().chain(&url.query);
            let set = all.filter(|(_, value)| !value.is_empty());
            let found: Vec<_> = set
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn text_without_a_scheme_is_not_a_url() {
        for text in ["", "host=db", "options='a://b'", "://x"] {
            assert!(parse(text).expect(text).is_none(), "{text}");
        }
    }

    #[test]
    fn invalid_url_is_explained_without_quoting_it() {
        for (text, word) in [
            ("mysql://u:hunter2@db/x", "does not begin with postgres://"),
            ("jdbc:postgresql://db/x?password=hunter2", "without `jdbc:`"),
            ("JDBC:postgresql:x?password=hunter2", "without `jdbc:`"),
            ("postgres://u:hunter2@[HOST]:5432/x", "a placeholder"),
            ("postgres://u:{{ hunter2 }}@db/x", "a placeholder"),
            (
                "prisma+postgres://db/?api_key=hunter2",
                "Prisma's own service",
            ),
            ("postgres://u:hun@ter2@db/x", "second `@`"),
            ("postgres://u:hunter2#x@db/x", "after a `#`"),
            ("postgres://u:hunter2/x@db/x", "after a `/`"),
            ("postgres://u:hunter2?x@db/x", "after a `?`"),
            ("postgres://u:hunter2@db/x#y", "a `#`"),
            ("postgres://u:hunter2@db/x?user=a@b", "after a `/`"),
            ("postgres://u:hunter2 x@db/x", "a space"),
            ("postgres://u:hunter2\n@db/x", "a line break"),
            ("postgres://u:hunter2%@db/x", "`%`"),
            ("postgres://u:hunter2%zz@db/x", "`%`"),
            ("postgres://u:hunter2%00@db/x", "`%`"),
            ("postgres://u:hunter2%ff@db/x", "not UTF-8"),
            ("postgres://u:hunter2@::1/x", "[::1]"),
            ("postgres://u:hunter2@[::1/x", "not closed"),
            ("postgres://u:hunter2@[::1]x/x", "not closed"),
            ("postgres://u:hunter2@db/x?sslmode", "without `=`"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
            assert!(!error.contains("hun"), "{error}");
        }
    }
}
