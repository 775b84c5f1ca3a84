//! Prints text and JSON, with colours on a terminal unless NO_COLOR is set.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use antifreeze_doctor::{Status, printable};

/// Prints a line to the standard output. Ignores errors: the reader may have closed the pipe.
pub fn print(line: &str) {
    let _ = writeln!(anstream::stdout().lock(), "{line}");
}

/// Prints a line as [`print`] does; fails if the reader has closed the pipe.
pub fn try_print(line: &str) -> std::io::Result<()> {
    writeln!(anstream::stdout().lock(), "{line}")
}

/// Prints a JSON document to the standard output, in one line. Escapes control characters
/// and bidirectional formatting characters: names come from any client of the server.
pub fn print_json(document: &serde_json::Value) {
    let _ = try_print_json(document);
}

/// Prints as [`print_json`] does; fails if the reader has closed the pipe.
pub fn try_print_json(document: &serde_json::Value) -> std::io::Result<()> {
    writeln!(
        anstream::stdout().lock(),
        "{}",
        escaped(&document.to_string())
    )
}

fn escaped(json: &str) -> String {
    use std::fmt::Write;

    json.chars().fold(String::new(), |mut text, c| {
        // These characters occur only inside strings.
        if printable(c.encode_utf8(&mut [0; 4])).starts_with(c) {
            text.push(c);
        } else {
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        }
        text
    })
}

/// Prints a line to the standard error, without control characters.
pub fn eprint(line: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{}", printable(line));
}

/// Returns whether the standard output is a terminal.
pub fn is_terminal() -> bool {
    use std::io::IsTerminal;
    std::io::stdout().is_terminal()
}

/// Returns the width of the terminal; `None` if the standard output is not one.
pub fn width() -> Option<usize> {
    let size = is_terminal().then(ratatui_crossterm::crossterm::terminal::size);
    // Some terminals say that they have no column at all.
    let (columns, _) = size?.ok().filter(|(columns, _)| *columns > 0)?;
    Some(usize::from(columns))
}

/// Returns the width of the terminal that the standard error is, if it is one.
pub fn error_width() -> Option<usize> {
    // The size is that of the standard output, or else of the controlling terminal.
    let (columns, _) = ratatui_crossterm::crossterm::terminal::size().ok()?;
    Some(usize::from(columns)).filter(|columns| *columns > 0)
}

/// Returns whether the standard output may be coloured.
pub fn has_colours() -> bool {
    anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never
}

/// Colours `text` by a status.
pub fn colored(status: Status, text: &str) -> String {
    let colour = match status {
        Status::Ok => AnsiColor::Green,
        Status::Finding => AnsiColor::Yellow,
        Status::Failed => AnsiColor::Red,
        _ => return text.to_owned(),
    };
    let style = Style::new().fg_color(Some(colour.into()));
    format!("{style}{text}{style:#}")
}

pub fn bold(text: &str) -> String {
    let style = Style::new().bold();
    format!("{style}{text}{style:#}")
}

pub fn faint(text: &str) -> String {
    let style = Style::new().dimmed();
    format!("{style}{text}{style:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_json_decodes_to_the_same_value() {
        let name = serde_json::json!("shop\u{9b}31m\u{202e}\u{1b}\nüß\u{1f600}");
        let text = escaped(&name.to_string());
        assert_eq!(text, r#""shop\u009b31m\u202e\u001b\nüß😀""#);
        let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read, name);
    }
}
