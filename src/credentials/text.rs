//! Trims the text of secrets from files, consoles and variables.

/// Returns the value of a variable without the line end that files and consoles append; `None` if
/// it is blank.
pub fn given(mut value: String) -> Option<String> {
    value.truncate(without_line_end(value.as_bytes()).len());
    Some(value).filter(|value| !value.trim().is_empty())
}

/// Returns the text without its last line end, which is not part of a secret.
pub(crate) fn without_line_end(text: &[u8]) -> &[u8] {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    text.strip_suffix(b"\r").unwrap_or(text)
}
