//! Refuses malformed values: two parameters in one, a password in the user's place, a
//! template that was not filled in.
//!
//! Hosts, users and databases appear in errors and in `Debug`, and host names in DNS queries. A
//! value that may contain a password by mistake is rejected before, and not quoted.

use super::names::{holds_secret, is_known, known};
use crate::error::{Error, Result};

/// Refuses a malformed `value` of the parameter `name`, which errors call `shown`.
pub(super) fn check(name: &str, shown: &str, value: &str) -> Result<()> {
    check_filled(name, shown, value)?;
    // A key or certificate is shown nowhere, and ends with `=`.
    let may_be_pem = matches!(name, "sslrootcert" | "sslcert" | "sslkey");
    if may_be_pem && value.contains("-----BEGIN") {
        return Ok(());
    }
    let value = &without_escapes(value);
    if name == "user" && value.contains([':', ';', ',', '&']) {
        return Err(Error::configuration(format!(
            "{shown} contains more than a name: it may include the password: in a URL an unencoded `:` separates the two (user:password@); in a keyword string the password is a parameter of its own"
        )));
    }
    // libpq takes such a `dbname` for a connection string.
    let is_name = matches!(name, "host" | "user" | "dbname" | "schema");
    if is_name && value.contains('=') || holds_parameter(name, value) {
        return Err(Error::configuration(format!(
            "{shown} contains another parameter: separate them by spaces in a keyword string, and \
             by `&` after the `?` of a URL"
        )));
    }
    // Unknown parameters and `dbname` have more specific errors.
    if is_known(name) && !matches!(name, "password" | "dbname") && holds_url(value) {
        return Err(Error::configuration(format!(
            "{shown} contains a URL: give the URL alone, in DATABASE_URL"
        )));
    }
    Ok(())
}

/// Refuses a template that was not filled in.
pub(super) fn check_filled(name: &str, shown: &str, value: &str) -> Result<()> {
    if is_template(name, value) {
        return Err(placeholder(&format!("{shown} ")));
    }
    Ok(())
}

/// Decodes separators that were encoded twice, or outside of a URL.
fn without_escapes(value: &str) -> String {
    let mut plain = value.to_owned();
    for (escape, separator) in [
        ("3A", ":"),
        ("3B", ";"),
        ("2C", ","),
        ("26", "&"),
        ("3D", "="),
    ] {
        plain = plain.replace(&format!("%{escape}"), separator);
        plain = plain.replace(&format!("%{}", escape.to_lowercase()), separator);
    }
    plain
}

/// Returns whether the name of a parameter precedes a `=` inside `value`.
fn holds_parameter(name: &str, value: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    value.match_indices('=').any(|(at, _)| {
        let before = value[..at].trim_end();
        let lead = before.trim_end_matches(is_word);
        let word = &before[lead.len()..];
        let mut ours = known().chain(["username"]);
        if !ours.any(|known| known.eq_ignore_ascii_case(word)) && !holds_secret(word) {
            return false;
        }
        match name {
            // A password may hold anything, but hardly this.
            "password" => lead.trim_end().ends_with([';', ',', '&']),
            // Settings of the server.
            "options" => !lead.trim_end().ends_with("-c") && !lead.ends_with(['-', '.', '_']),
            _ => true,
        }
    })
}

fn holds_url(value: &str) -> bool {
    let behind = value.split_once("://");
    behind.is_some_and(|(_, behind)| behind.contains('@'))
}

/// Returns whether `value` is what providers' pages, templates, JavaScript or logs put in place
/// of a value. A password may contain nearly anything, so only the whole of it counts.
fn is_template(name: &str, value: &str) -> bool {
    let value = value.trim();
    if is_placeholder(value) || name != "password" && is_shell_variable(value) {
        return true;
    }
    match name {
        "host" | "hostaddr" => value.split(['.', ',']).any(is_placeholder),
        "user" | "dbname" | "port" | "schema" => {
            value.contains("${") || value.contains("{{") || value.split('.').any(is_placeholder)
        }
        _ => false,
    }
}

/// Returns whether `text` is a `$NAME` that no shell has replaced.
fn is_shell_variable(text: &str) -> bool {
    let name = text.strip_prefix('$').unwrap_or_default();
    let fits = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    !name.is_empty() && name.bytes().all(fits)
}

/// Refuses a placeholder where a URL or a keyword string belongs.
pub(super) fn check_whole(text: &str) -> Result<()> {
    if is_placeholder(text) || is_shell_variable(text) {
        return Err(placeholder(""));
    }
    Ok(())
}

fn placeholder(subject: &str) -> Error {
    Error::configuration(format!(
        "{subject}is still a placeholder: replace it with the real value, or fill in the template"
    ))
}

/// Returns whether the whole of `text` is a placeholder.
fn is_placeholder(text: &str) -> bool {
    let bare = text.to_lowercase().replace(['-', '_', ' '], "");
    let filled = [("${", "}"), ("$(", ")"), ("{{", "}}"), ("<%", "%>")];
    let is_expression = filled
        .iter()
        .any(|(open, close)| bare.starts_with(open) && bare.ends_with(close));
    if is_expression || bare.len() >= 3 && bare.bytes().all(|byte| byte == b'*') {
        return true;
    }
    let brackets = [('[', ']'), ('<', '>'), ('{', '}')];
    let inner = brackets
        .iter()
        .find_map(|&(open, close)| bare.strip_prefix(open)?.strip_suffix(close));
    let words = [
        "your", "password", "project", "redacted", "hidden", "masked", "secret", "host", "user",
        "database", "dbname", "object", "region",
    ];
    match inner {
        Some(inner) => words.iter().any(|word| inner.contains(word)),
        None => matches!(&*bare, "undefined" | "null" | "yourpassword"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_recognised() {
        for text in [
            "${DATABASE_URL}",
            "$(DB_HOST)",
            "{{ db_host }}",
            "undefined",
            "null",
            "***",
            "*****",
            "[REDACTED]",
            "[YOUR-PROJECT-REF]",
            "[YOUR-PASSWORD]",
            "<db_password>",
            "<host>",
            "[object Object]",
            "YOUR_PASSWORD",
        ] {
            assert!(is_placeholder(text), "{text}");
        }
        for text in ["", "[x]", "**", "a${b}c", "password", "nullable", "[::1]"] {
            assert!(!is_placeholder(text), "{text}");
        }
        for (name, value) in [
            ("host", "db.[YOUR-PROJECT-REF].supabase.co"),
            ("host", "db.undefined.supabase.co"),
            ("user", "postgres.[YOUR-PROJECT-REF]"),
            ("user", "app-${STAGE}"),
            ("dbname", "null"),
            ("port", "${PORT}"),
            ("host", "$DB_HOST"),
        ] {
            let error = check(name, name, value).expect_err(value).to_string();
            assert!(error.starts_with(name) && error.contains("placeholder"));
        }
    }

    #[test]
    fn text_that_is_a_placeholder_is_refused() {
        for text in [
            "${{ secrets.DATABASE_URL }}",
            "$DATABASE_URL",
            "undefined",
            "****",
        ] {
            let error = check_whole(text).expect_err(text).to_string();
            assert!(error.starts_with("is still a placeholder"), "{error}");
        }
        assert!(check_whole("host=db").is_ok());
    }

    #[test]
    fn unusual_values_are_taken() {
        for (name, value) in [
            ("password", "a${b}c"),
            ("password", "$ECRET"),
            ("password", "endpoint=ep-1;secret"),
            ("password", "a=b&c;d,e:f"),
            (
                "options",
                "-c a=b -c tcp_user_timeout=5 --application_name=x",
            ),
            ("options", "-c client_encoding=utf8 endpoint=ep-1"),
            ("application_name", "svc=shop;env=prod"),
            ("dbname", "R&D"),
            ("user", "sa@project.iam"),
            ("user", "DOMAIN\\app"),
            ("host", "/run/my-pg"),
            ("sslkey", "-----BEGIN PRIVATE KEY-----\nuser="),
        ] {
            assert!(check(name, name, value).is_ok(), "{name} {value}");
        }
    }
}
