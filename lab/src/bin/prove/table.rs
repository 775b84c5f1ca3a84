//! The report as a table.

use std::fmt::Write as _;

use comfy_table::{Attribute, Cell, Color, Table, presets};

use crate::report::{Look, Report, Seen};

/// The table, and the verdict on the function with the layer.
pub fn written(report: &Report) -> String {
    let mut header = vec!["ending: its handler .."];
    if report.without.is_some() {
        header.push("without");
    }
    // The address may be that of a function without the layer.
    header.push(if report.with.value["layer"] == true {
        "with antifreeze"
    } else {
        "without the layer"
    });
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(header);
    let wait = report.wait.as_secs_f64();
    for ending in &report.endings {
        let mut row = vec![Cell::new(format!("{}\n{}", ending.name, ending.does))];
        row.extend(ending.without.as_ref().map(|seen| cell(seen, wait)));
        row.push(cell(&ending.with, wait));
        table.add_row(row);
    }
    let all = report.endings.len();
    let mut text = format!(
        "\nAfter each response: the function's sessions at once, and {wait} s later; then an\n\
         ALTER TABLE that waits at most one second for its lock.\n\
         PostgreSQL {}\n\n{table}\n",
        report.server
    );
    if report.without.is_some() {
        let seen = report
            .endings
            .iter()
            .filter_map(|ending| ending.without.as_ref());
        let open = seen.filter(|seen| seen.is_open()).count();
        let _ = writeln!(text, "without: {open} of {all} left something open");
    }
    let skipped = report.with.skipped();
    if !skipped.is_empty() {
        let _ = writeln!(
            text,
            "not asked for, since the session state would be the pooler's: {}",
            skipped.join(", ")
        );
    }
    let open = report.left_open();
    if open.is_empty() {
        let _ = writeln!(text, "proved: none of {all} endings left anything open");
    } else {
        let count = open.len();
        let _ = writeln!(
            text,
            "not proved: {count} of {all} left something open, or were not reached:"
        );
        for names in open.chunks(6) {
            let _ = writeln!(text, "  {}", names.join(", "));
        }
    }
    text
}

fn cell(seen: &Seen, wait: f64) -> Cell {
    let status = seen.answer.status;
    let status = status.map_or("no response".to_owned(), |status| {
        status.as_u16().to_string()
    });
    let later = if states(&seen.later) == states(&seen.at_once) {
        "the same".to_owned()
    } else {
        states(&seen.later)
    };
    let migration = match seen.alter_table {
        Some(took) => format!("ALTER TABLE {:.1} ms", took.as_secs_f64() * 1e3),
        None => "ALTER TABLE gave up".to_owned(),
    };
    let mut text = format!(
        "{status}, {}\nafter {wait} s: {later}\n{migration}",
        states(&seen.at_once)
    );
    if !seen.is_reached {
        let error = seen.answer.error.as_deref().unwrap_or("no row was made");
        let _ = write!(text, "\nnot reached: {error}");
    }
    let cell = Cell::new(text);
    if seen.is_open() || !seen.is_reached {
        cell.fg(Color::Red).add_attribute(Attribute::Bold)
    } else {
        cell.fg(Color::Green)
    }
}

/// The states that matter: those of open sessions, or of all if none is open.
fn states(look: &Look) -> String {
    let mut states = Vec::new();
    for session in &look.sessions {
        if !session.is_open() && look.sessions.iter().any(|session| session.is_open()) {
            continue;
        }
        let mut state = match session.state.as_str() {
            "idle in transaction (aborted)" => "aborted transaction".to_owned(),
            state => state.to_owned(),
        };
        if session.advisory_lock {
            state += ", advisory lock";
        }
        if !states.contains(&state) {
            states.push(state);
        }
    }
    if states.is_empty() {
        states.push("no session".to_owned());
    }
    if look.temporary {
        states.push("temp table".to_owned());
    }
    states.join(", ")
}
