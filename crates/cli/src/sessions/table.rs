//! Formats sessions as a table.

use antifreeze_doctor::{ServerSession, format_seconds, printable};
use comfy_table::{Cell, Color, ContentArrangement, Table, presets};

use crate::output;

/// The number of characters of a statement that are shown.
const MAX_QUERY: usize = 60;

/// Renders a table of sessions, without control characters.
pub fn render(sessions: &[&ServerSession]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if output::is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    if !output::has_colours() {
        if let Some(width) = table.width() {
            table.set_width(width);
        }
        table.force_no_tty();
    }
    table.set_header([
        "PID",
        "APPLICATION",
        "ROLE",
        "DATABASE",
        "CLIENT",
        "STATE",
        "FOR",
        "IN TX",
        "WAITS FOR",
        "STATEMENT",
    ]);
    for session in sessions {
        table.add_row(row(session));
    }
    let lines = table.to_string();
    let lines: Vec<&str> = lines.lines().map(str::trim_end).collect();
    lines.join("\n")
}

fn row(session: &ServerSession) -> Vec<Cell> {
    let colour = if !session.blocked_by.is_empty() {
        Some(Color::Red)
    } else if session.is_idle_in_transaction() {
        Some(Color::Yellow)
    } else {
        None
    };
    let text = |text: &Option<String>| printable(text.as_deref().unwrap_or("-"));
    let time = |time: Option<f64>| time.map_or("-".to_owned(), format_seconds);
    let pid = if session.is_self {
        format!("{} (this)", session.pid)
    } else {
        session.pid.to_string()
    };
    let waits = match session.blocked_by.as_slice() {
        [] if session.state.as_deref() == Some("active") => text(&session.waits_for),
        [] => "-".to_owned(),
        by => {
            let by: Vec<String> = by.iter().map(i32::to_string).collect();
            let lock = session.lock.as_deref().unwrap_or("a lock");
            printable(&format!("{lock}, held by {}", by.join(", ")))
        }
    };
    let query = printable(session.query.as_deref().unwrap_or("-"));
    let mut query: String = query.split_whitespace().collect::<Vec<_>>().join(" ");
    if query.chars().count() > MAX_QUERY {
        query = query.chars().take(MAX_QUERY).collect::<String>() + "..";
    }
    let state = match session.kind.as_deref() {
        Some("walsender") => "replication".to_owned(),
        _ => text(&session.state),
    };
    let cells = [
        pid,
        text(&session.application),
        text(&session.role),
        text(&session.database),
        text(&session.client),
        state,
        time(session.state_seconds),
        time(session.transaction_seconds),
        waits,
        query,
    ];
    let cells = cells.into_iter().map(|cell| match colour {
        Some(colour) => Cell::new(cell).fg(colour),
        None => Cell::new(cell),
    });
    cells.collect()
}
