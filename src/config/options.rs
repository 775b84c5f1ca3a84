//! Reads and writes `options` of the start-up packet: `-c name=value`.

/// Returns whether `options` has `-c name=..` or `--name=..`, where `-` may stand for `_`.
pub(super) fn sets(options: &str, name: &str) -> bool {
    options.split_whitespace().any(|word| {
        let setting = word.strip_prefix("--").or(word.strip_prefix("-c"));
        is_named(setting.unwrap_or(word), name)
    })
}

fn is_named(word: &str, name: &str) -> bool {
    let setting = word.split_once('=').map(|(setting, _)| setting);
    setting.is_some_and(|setting| setting.replace('-', "_").eq_ignore_ascii_case(name))
}

/// Escapes a value: the server splits options at spaces without a backslash.
pub(super) fn escaped(value: &str) -> String {
    let mut escaped = String::new();
    for c in value.chars() {
        if c == '\\' || c.is_ascii_whitespace() || c == '\u{b}' {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}
