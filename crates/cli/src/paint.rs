//! Colours, where somebody looks and has not said NO_COLOR.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use antifreeze_doctor::Mark;

/// A line on the standard output. Who reads it may have gone: then there is nobody to tell.
pub fn print(line: &str) {
    let _ = writeln!(anstream::stdout().lock(), "{line}");
}

/// A document on the standard output, in one line. What controls a terminal, or turns the
/// direction of writing, is escaped: it comes from whoever may connect.
pub fn document(document: &serde_json::Value) {
    let _ = try_document(document);
}

/// The same, for whoever ends when nobody reads any more.
pub fn try_document(document: &serde_json::Value) -> std::io::Result<()> {
    writeln!(
        anstream::stdout().lock(),
        "{}",
        escaped(&document.to_string())
    )
}

fn escaped(json: &str) -> String {
    use std::fmt::Write;

    json.chars().fold(String::new(), |mut text, c| {
        // Outside of texts there are none.
        match antifreeze_doctor::plain(c.encode_utf8(&mut [0; 4])).starts_with(c) {
            true => text.push(c),
            false => {
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
        }
        text
    })
}

/// A line on the standard error.
pub fn complain(line: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}

/// Whether the standard output takes colours, and movements of the cursor.
pub fn is_terminal() -> bool {
    use std::io::IsTerminal;
    std::io::stdout().is_terminal()
}

/// Whether it may be coloured.
pub fn has_colours() -> bool {
    anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never
}

/// `text` as a mark wants it to look.
pub fn marked(mark: Mark, text: &str) -> String {
    let colour = match mark {
        Mark::Well => AnsiColor::Green,
        Mark::Finding => AnsiColor::Yellow,
        Mark::Failed => AnsiColor::Red,
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
    fn escaped_text_means_the_same() {
        let name = serde_json::json!("shop\u{9b}31m\u{202e}\u{1b}\nüß\u{1f600}");
        let text = escaped(&name.to_string());
        assert_eq!(text, r#""shop\u009b31m\u202e\u001b\nüß😀""#);
        let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read, name);
    }
}
