//! What was seen, as one table of at most 80 columns.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::{Attribute, Cell, Color, Table, presets};

/// What was seen of one request.
#[derive(Clone)]
pub struct Seen {
    /// How it was answered.
    pub answer: String,
    /// The states of the function's sessions, while its process was frozen.
    pub session: String,
    /// How long the migration took; nothing if it gave up.
    pub migration: Option<Duration>,
}

pub struct Row {
    pub path: &'static str,
    pub does: &'static str,
    pub without: Seen,
    pub with: Seen,
}

impl Row {
    fn differs(&self) -> bool {
        self.without.migration.is_some() != self.with.migration.is_some()
            || self.without.session_is_at_rest() != self.with.session_is_at_rest()
    }
}

impl Seen {
    fn session_is_at_rest(&self) -> bool {
        ["idle", "none"].contains(&self.session.as_str())
    }

    /// Two lines: the response and the session, then the migration.
    fn cell(&self) -> Cell {
        let session = match self.session.as_str() {
            "none" => "no session",
            session => session,
        };
        let good = self.session_is_at_rest() && self.migration.is_some();
        let migration = match self.migration {
            Some(took) => format!("ALTER TABLE {:.1} ms", took.as_secs_f64() * 1e3),
            None => "ALTER TABLE gave up".to_owned(),
        };
        let cell = Cell::new(format!("{}, {session}\n{migration}", self.answer));
        if good {
            cell.fg(Color::Green)
        } else {
            cell.fg(Color::Red).add_attribute(Attribute::Bold)
        }
    }
}

/// The table, those rows first that differ, and its sum.
pub fn written(version: &str, mut rows: Vec<Row>) -> String {
    rows.sort_by_key(|row| !row.differs());
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header([
        "request: its handler ..",
        "without",
        "with antifreeze",
    ]);
    for row in &rows {
        table.add_row([
            Cell::new(format!("{}\n{}", row.path, row.does)),
            row.without.cell(),
            row.with.cell(),
        ]);
    }
    let stopped = |of: fn(&Row) -> &Seen| {
        let stopped = rows.iter().filter(|row| of(row).migration.is_none());
        stopped.count()
    };
    let (without, with) = (stopped(|row| &row.without), stopped(|row| &row.with));
    let mut text = format!(
        "After each response the function's process was stopped, as Lambda does it.\n\
         Then a second session looked at the server (PostgreSQL {version}), and ran an\n\
         ALTER TABLE that waits at most one second for its lock.\n\n{table}\n"
    );
    let all = rows.len();
    let _ = writeln!(
        text,
        "without: {without} of {all} stopped the migration; with: {with} of {all}\n\n\
         The same in a browser, live: cargo run -p lab -- demo --serve"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(session: &str, migration: Option<u64>) -> Seen {
        Seen {
            answer: "200".to_owned(),
            session: session.to_owned(),
            migration: migration.map(Duration::from_millis),
        }
    }

    #[test]
    fn differences_come_first_within_80_columns() {
        let row = |path, without, with| Row {
            path,
            does: "a task keeps a transaction",
            without,
            with,
        };
        let idle = || seen("idle", Some(999));
        let text = written(
            "18.0",
            vec![
                row("/fine", idle(), idle()),
                row("/open", seen("idle in transaction", None), idle()),
            ],
        );
        let open = text.find("/open").expect("a row");
        assert!(open < text.find("/fine").expect("a row"), "{text}");
        assert!(text.contains("without: 1 of 2 stopped the migration; with: 0 of 2"));
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
