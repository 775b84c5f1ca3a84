//! The report for a terminal of 80 columns.

use comfy_table::{CellAlignment, Table, presets};
use lab::statistics::Spread;

use super::summary::{Row, number};

/// The figures that 80 columns have room for.
const COLUMNS: [(&str, &str); 7] = [
    ("p50_ms", "p50"),
    ("p99_ms", "p99"),
    ("alter_table_ms", "ALTER"),
    ("most_slots", "slots"),
    ("round_trips", "trips"),
    ("connects", "conn."),
    ("cpu_ms_per_request", "CPU"),
];

pub fn of(rows: &[Row<'_>]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let columns = COLUMNS.iter().map(|(_, column)| *column);
    table.set_header([rows[0].scenario, "answered"].into_iter().chain(columns));
    for row in rows {
        let figures = COLUMNS.iter().map(|(key, _)| {
            let text = median(row.figure(key));
            match *key == "alter_table_ms" && row.gave_up > 0 {
                true => format!(">{text}"),
                false => text,
            }
        });
        let answered = format!("{}/{}", row.answered, row.sent);
        let cells = [row.candidate.name.to_owned(), answered];
        table.add_row(cells.into_iter().chain(figures));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
    // Without what pads the last column.
    let lines = table.to_string();
    let lines = lines.lines().map(str::trim_end);
    Vec::from_iter(lines).join("\n")
}

fn median(spread: Option<Spread>) -> String {
    spread.map_or("-".to_owned(), |it| number(it.median))
}

/// Breaks a text into lines of the terminal.
pub fn wrapped(text: &str) -> String {
    let (mut lines, mut length) = (String::new(), 0);
    for word in text.split_whitespace() {
        let word_length = word.chars().count();
        if length > 0 && length + 1 + word_length > 80 {
            lines.push('\n');
            length = 0;
        } else if length > 0 {
            lines.push(' ');
            length += 1;
        }
        lines.push_str(word);
        length += word_length;
    }
    lines
}
