//! Trims the text of secrets from files, consoles and variables.

/// The value of a variable without the line end that files and consoles leave behind. A
/// blank one counts as not set.
pub fn given(mut value: String) -> Option<String> {
    value.truncate(without_line_end(value.as_bytes()).len());
    Some(value).filter(|value| !value.trim().is_empty())
}

/// The text without its last line end, which is no part of a secret.
pub(crate) fn without_line_end(text: &[u8]) -> &[u8] {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    text.strip_suffix(b"\r").unwrap_or(text)
}
