//! Replaces passwords in statements, which other sessions run.

/// Replaces passwords in a statement: literals after the word `password`, those of connection
/// strings (`password=..`), and those of URLs.
pub(super) fn redacted(statement: &str) -> String {
    let mut shown = String::new();
    let mut rest = statement;
    loop {
        let lower = rest.to_ascii_lowercase();
        let word = lower
            .find("password")
            .map(|at| (at + "password".len(), false));
        let url = lower.find("://").map(|at| (at + 3, true));
        let next = [word, url].into_iter().flatten().min();
        let Some((at, is_url)) = next else {
            return shown + rest;
        };
        let (before, after) = rest.split_at(at);
        shown += before;
        let (kept, secret) = if is_url {
            in_url(after)
        } else {
            after_word(after)
        };
        shown += &after[..kept];
        if secret > 0 {
            shown += "***";
        }
        rest = &after[kept + secret..];
    }
}

/// Returns the lengths of what precedes the password in `user:password@host`, and of it.
fn in_url(text: &str) -> (usize, usize) {
    let end = text.find(|c: char| c.is_whitespace() || "/'\"".contains(c));
    let authority = &text[..end.unwrap_or(text.len())];
    // What was cut off at 500 characters may be a password, too.
    let user = authority
        .rsplit_once('@')
        .map_or(authority, |(user, _)| user);
    match user.find(':') {
        Some(colon) if authority.contains('@') || end.is_none() => {
            (colon + 1, user.len() - colon - 1)
        }
        _ => (0, 0),
    }
}

/// Returns the lengths of what precedes the password after the word, and of it.
fn after_word(text: &str) -> (usize, usize) {
    if let Some((begin, value)) = json_value(text) {
        return (begin, end_of(value, '"'));
    }
    if let Some(inner) = text.strip_prefix('(') {
        return (1, end_of_parenthesis(inner));
    }
    if let Some(values) = values_of_columns(text) {
        return (text.len() - values.len(), values.len());
    }
    let value = text.trim_start_matches([' ', '\t', '\n', '\r', '=', '>', ':']);
    let begin = text.len() - value.len();
    let is_assigned = text[..begin].contains('=');
    // E'it\'s', U&'..' and N'..' are literals, too.
    let prefix = ["E'", "e'", "U&'", "u&'", "N'", "n'"];
    let prefix = prefix.iter().find(|prefix| value.starts_with(**prefix));
    let begin = begin + prefix.map_or(0, |prefix| prefix.len() - 1);
    let value = &text[begin..];
    if let Some(quotes) = nested(value) {
        let inner = &value[quotes..];
        return (begin + quotes, end_of_nested(inner, quotes));
    }
    if let Some(literal) = value.strip_prefix('\'') {
        return (begin + 1, end_of_literal(literal));
    }
    if let Some(tag) = dollar_tag(value) {
        let inner = &value[tag.len()..];
        return (begin + tag.len(), inner.find(tag).unwrap_or(inner.len()));
    }
    // What is computed is computed from it.
    let computed = after_parenthesis(value).filter(|inner| is_assigned && has_literal(inner));
    if let Some(inner) = computed {
        return (text.len() - inner.len(), end_of_parenthesis(inner));
    }
    if is_assigned {
        let mut depth = 0;
        let end = value.find(|c: char| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth < 0 || c.is_whitespace() || "'\",;&".contains(c)
        });
        return (begin, end.unwrap_or(value.len()));
    }
    (0, 0)
}

/// Returns the text behind `": "`, the end of a name in JSON and the beginning of a text.
fn json_value(text: &str) -> Option<(usize, &str)> {
    let value = text.strip_prefix('"')?.trim_start().strip_prefix(':')?;
    let value = value.trim_start().strip_prefix('"')?;
    Some((text.len() - value.len(), value))
}

/// Returns what follows `values (`, if the word is one of the columns in front of it: all rows.
fn values_of_columns(text: &str) -> Option<&str> {
    let (columns, behind) = text.split_once(')')?;
    let in_list = |c: char| c.is_alphanumeric() || c.is_whitespace() || "_,\"".contains(c);
    let (word, values) = behind.trim_start().split_at_checked("values".len())?;
    let is_list = columns.chars().all(in_list) && word.eq_ignore_ascii_case("values");
    values.trim_start().strip_prefix('(').filter(|_| is_list)
}

/// Returns the text behind the parenthesis of `function(` or `(`.
fn after_parenthesis(value: &str) -> Option<&str> {
    let in_name = |c: char| c.is_alphanumeric() || "_.\"".contains(c);
    let inner = value.trim_start_matches(in_name).trim_start();
    inner.strip_prefix('(')
}

/// Returns whether a literal is the first argument, of a function inside too.
fn has_literal(mut inner: &str) -> bool {
    while let Some(next) = after_parenthesis(inner.trim_start()) {
        inner = next;
    }
    let value = inner
        .trim_start()
        .trim_start_matches(['E', 'e', 'U', 'u', '&', 'N', 'n']);
    value.starts_with('\'') || dollar_tag(value).is_some()
}

/// Returns the length up to the parenthesis that closes.
fn end_of_parenthesis(inner: &str) -> usize {
    let (mut depth, mut rest) = (0, inner);
    loop {
        let Some(at) = rest.find(['\'', '$', '(', ')']) else {
            return inner.len();
        };
        let (c, after) = (rest.as_bytes()[at], &rest[at + 1..]);
        rest = match c {
            b'\'' => after.get(end_of_literal(after) + 1..).unwrap_or_default(),
            b'$' => match dollar_tag(&rest[at..]) {
                Some(tag) => {
                    let literal = &rest[at + tag.len()..];
                    literal.split_once(tag).map_or("", |(_, behind)| behind)
                }
                None => after,
            },
            b')' if depth == 0 => return inner.len() - after.len() - 1,
            b'(' => {
                depth += 1;
                after
            }
            _ => {
                depth -= 1;
                after
            }
        };
    }
}

/// Returns the length of a literal without its quotes. 'it''s' is one literal.
fn end_of_literal(literal: &str) -> usize {
    end_of(literal, '\'')
}

fn end_of(literal: &str, quote: char) -> usize {
    let mut escaped = false;
    let mut chars = literal.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c != quote => {}
            _ if chars.peek().is_some_and(|(_, next)| *next == quote) => escaped = true,
            _ => return at,
        }
    }
    literal.len()
}

/// Returns the number of quotes before a literal inside another literal, where each quote is
/// doubled: `''x''`. Only `''` itself is an empty literal.
fn nested(value: &str) -> Option<usize> {
    let rest = value.trim_start_matches('\'');
    let quotes = value.len() - rest.len();
    let is_empty = rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r', ',', ';', ')']);
    (quotes >= 2 && quotes % 2 == 0 && !is_empty).then_some(quotes)
}

/// Returns the length until as many quotes follow each other; a backslash escapes them.
fn end_of_nested(inner: &str, quotes: usize) -> usize {
    let end = "'".repeat(quotes);
    let mut from = 0;
    while let Some(at) = inner[from..].find(&end) {
        let at = from + at;
        if !inner[..at].ends_with('\\') {
            return at;
        }
        from = at + quotes;
    }
    inner.len()
}

/// Returns the tag that begins a dollar-quoted literal: `$$`, `$body$`. `$1` is none.
fn dollar_tag(value: &str) -> Option<&str> {
    let end = value.strip_prefix('$')?.find('$')? + 2;
    let name = &value[1..end - 1];
    let is_name = name.chars().all(|c| c.is_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    is_name.then(|| &value[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_statements_are_replaced() {
        for (statement, expected) in [
            ("select 1", "select 1"),
            (
                "alter role a password 'x''y' login",
                "alter role a password '***' login",
            ),
            (
                "ALTER ROLE a PASSWORD E'x\\'y';",
                "ALTER ROLE a PASSWORD E'***';",
            ),
            (
                "alter role a password 'cut of",
                "alter role a password '***",
            ),
            (
                "connection 'host=a password=x user=b'",
                "connection 'host=a password=*** user=b'",
            ),
            (
                "select 'postgres://a:x@y:z@h:1/d'",
                "select 'postgres://a:***@h:1/d'",
            ),
            ("select 'http://h:1/d'", "select 'http://h:1/d'"),
            ("select 'postgres://a:x", "select 'postgres://a:***"),
            (
                "ALTER ROLE a PASSWORD $$x$$ LOGIN",
                "ALTER ROLE a PASSWORD $$***$$ LOGIN",
            ),
            (
                "alter role a password $p1$x$$y$p1$;",
                "alter role a password $p1$***$p1$;",
            ),
            (
                "alter role a password $$cut of",
                "alter role a password $$***",
            ),
            (
                "alter role a password U&'\\0078''y' login",
                "alter role a password U&'***' login",
            ),
            (
                "alter role a password '''x' login",
                "alter role a password '***' login",
            ),
            (
                "select dblink('host=a password=''x y'' user=b', 'select 1')",
                "select dblink('host=a password=''***'' user=b', 'select 1')",
            ),
            (
                "select dblink('password=''x\\''y''')",
                "select dblink('password=''***''')",
            ),
            (
                "do 'begin execute ''alter role a password ''''x'''' login''; end'",
                "do 'begin execute ''alter role a password ''''***'''' login''; end'",
            ),
            (
                "do $$ begin execute 'alter role a password ''x'''; end $$",
                "do $$ begin execute 'alter role a password ''***'''; end $$",
            ),
            (
                "select connect(password => 'x')",
                "select connect(password => '***')",
            ),
            (
                "select login(password := 'x')",
                "select login(password := '***')",
            ),
            (
                "set a.password = ''; select 'x'",
                "set a.password = ''; select 'x'",
            ),
            (
                "select password::text from users where id = $1",
                "select password::text from users where id = $1",
            ),
            ("alter role a password $1", "alter role a password $1"),
            ("select password from users", "select password from users"),
            (
                "update users set password = crypt('x', gen_salt('bf')) where id = 1",
                "update users set password = crypt(***) where id = 1",
            ),
            (
                "select from users where password = crypt('x)', password) and id = 1",
                "select from users where password = crypt(***) and id = 1",
            ),
            (
                "update users set password = encode(digest('a' || 'x', 'sha256'), 'hex'), b = 1",
                "update users set password = encode(***), b = 1",
            ),
            (
                "update users set password = ( 'x' )",
                "update users set password = (***)",
            ),
            (
                r#"insert into e values ('{"password": "x\"y", "a": 1}')"#,
                r#"insert into e values ('{"password": "***", "a": 1}')"#,
            ),
            (
                "connection 'host=h password=Ab(12)cd' publication p",
                "connection 'host=h password=***' publication p",
            ),
            (
                "update users set password = crypt(E'a\\'x)y', b), c = 1",
                "update users set password = crypt(***), c = 1",
            ),
            (
                "update users set password = crypt($$x)y$$, b), c = 1",
                "update users set password = crypt(***), c = 1",
            ),
            (
                "update users set password = crypt('cut of",
                "update users set password = crypt(***",
            ),
            ("select set_password('a', 'x')", "select set_password(***)"),
            (
                "insert into users (password, name) values ('x', 'a'), ('y', 'b')",
                "insert into users (password, name) values (***",
            ),
            (
                "create index on users (password, name)",
                "create index on users (password, name)",
            ),
            (
                "set password_encryption = 'md5'",
                "set password_encryption = 'md5'",
            ),
        ] {
            assert_eq!(redacted(statement), expected);
        }
    }
}
