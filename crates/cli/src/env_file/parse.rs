//! Parses the text of `.env` files.

/// Parses the text of a file: names, values, and whether a value was in single quotes. The
/// grammar is that of npm's dotenv, which Vercel's tools use, but a `#` begins a comment after a
/// blank only, as in dotenvy: URLs contain it.
pub fn parse(text: &str) -> Vec<(&str, String, bool)> {
    let mut variables = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let line = rest.lines().next().unwrap_or_default();
        let (entry, after) = match entry(line) {
            // A quoted value may have several lines.
            Some((name, begin)) => {
                let (value, is_literal, length) = value(&rest[begin..]);
                (Some((name, value, is_literal)), begin + length)
            }
            None => (None, line.len()),
        };
        variables.extend(entry);
        let end = rest[after..].find('\n').map(|end| after + end + 1);
        rest = end.map_or("", |end| &rest[end..]);
    }
    variables
}

/// Returns the name in a line, and where its value begins.
fn entry(line: &str) -> Option<(&str, usize)> {
    let equals = line.find('=')?;
    let name = line[..equals].trim();
    let name = name.strip_prefix("export ").unwrap_or(name).trim();
    let mut chars = name.chars();
    let begins = chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let is_name = begins && chars.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    let blanks = line[equals + 1..].len() - line[equals + 1..].trim_start().len();
    is_name.then_some((name, equals + 1 + blanks))
}

/// Parses the value at the beginning of `text`: the value, whether it was in single quotes, and
/// its length in the file.
fn value(text: &str) -> (String, bool, usize) {
    let quote = text
        .chars()
        .next()
        .filter(|c| matches!(c, '"' | '\'' | '`'));
    if let Some(quote) = quote {
        let is_end = |at: usize| quote != '"' || !text[..at].ends_with('\\');
        let ends = text.match_indices(quote).skip(1);
        if let Some((end, _)) = ends.into_iter().find(|(at, _)| is_end(*at)) {
            let inner = &text[1..end];
            let inner = match quote {
                '"' => inner.replace("\\n", "\n").replace("\\r", "\r"),
                _ => inner.to_owned(),
            };
            return (inner, quote == '\'', end + 1);
        }
    }
    let line = text.lines().next().unwrap_or_default();
    let comment = line
        .match_indices('#')
        .find(|(at, _)| line[..*at].ends_with([' ', '\t']));
    let value = comment.map_or(line, |(at, _)| &line[..at]);
    (value.trim().to_owned(), false, line.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_parsed_as_their_tools_write_them() {
        let text = "# Created by Vercel CLI\n\
            A=\"postgres://u:p#$x@h/d\" # comment\n\
            export B = plain # comment\n\
            C='it is ${literal}'\n\
            D=a#b\r\n\
            E=\"two\\nlines\"\n\
            F=\"-----BEGIN\nKEY-----\"\n\
            G=\n\
            not a variable\n\
            1H=x\n\
            I=\"open\n\
            J=\"with \\\" inside\"\n";
        let parsed = parse(text);
        let values: Vec<_> = parsed
            .iter()
            .map(|(name, value, _)| (*name, value.as_str()))
            .collect();
        let expected = [
            ("A", "postgres://u:p#$x@h/d"),
            ("B", "plain"),
            ("C", "it is ${literal}"),
            ("D", "a#b"),
            ("E", "two\nlines"),
            ("F", "-----BEGIN\nKEY-----"),
            ("G", ""),
        ];
        assert_eq!(values[..7], expected);
        let literal = parsed.iter().find(|(name, ..)| *name == "C");
        assert!(literal.is_some_and(|(_, _, is_literal)| *is_literal));
        let last = parse("J=\"with \\\" inside\"\nK=1");
        assert_eq!(last[1].0, "K");
        assert_eq!(parse("I=\"open\nK=1")[1].1, "1");
    }
}
