//! Colours, where somebody looks and has not said NO_COLOR.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use antifreeze::doctor::Mark;

/// A line on the standard output. Who reads it may have gone: then there is nobody to tell.
pub fn print(line: &str) {
    let _ = writeln!(anstream::stdout().lock(), "{line}");
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
