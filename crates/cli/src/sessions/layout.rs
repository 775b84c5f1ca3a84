//! Lays out rows as lines of a given width: columns are dropped, then the statement is cut.

use antifreeze_doctor::{ServerSession, format_seconds, printable};
use unicode_width::UnicodeWidthStr;

use super::arrange::{Content, Kind, Row, age, is_blocked};
use crate::wrap::cut;

/// A line without control characters, and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub text: String,
    pub tone: Tone,
}

/// What a line stands for, which decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Blocks,
    Waits,
    InTransaction,
    Plain,
    Idle,
}

/// The width below which the optional columns and the long names of states are left out.
const WIDE: usize = 120;

/// The number of columns that the statement has at least, if there are optional columns.
const STATEMENT: usize = 30;

/// The number of columns below which the lock and the statement are left out.
const DETAIL: usize = 10;

/// The cells of a session.
struct Cells {
    pid: String,
    application: String,
    role: String,
    database: String,
    client: String,
    state: String,
    time: String,
    transaction: String,
    detail: String,
}

/// A column that can be left out: its title and its cell.
type Column = (&'static str, fn(&Cells) -> &str);

const OPTIONAL: [Column; 4] = [
    ("IN TX", |cells| &cells.transaction),
    ("ROLE", |cells| &cells.role),
    ("DATABASE", |cells| &cells.database),
    ("CLIENT", |cells| &cells.client),
];

/// Returns the title and a line for each row. No line is longer than `width`; without a width
/// (in a pipe) nothing is left out.
pub fn lay_out(rows: &[Row<'_>], width: Option<usize>) -> (String, Vec<Line>) {
    let long = width.is_none_or(|width| width >= WIDE);
    let cells: Vec<Option<Cells>> = rows.iter().map(|row| cells(row, long)).collect();
    let widest = |title: &str, cell: fn(&Cells) -> &str| {
        let cells = cells.iter().flatten().map(|cells| cell(cells).width());
        cells.max().unwrap_or_default().max(title.len())
    };
    let limit = match width {
        None => usize::MAX,
        Some(width) => (width / 4).max(10),
    };
    let pid = widest("PID", |cells| &cells.pid);
    let application = widest("APPLICATION", |cells| &cells.application).min(limit);
    let state = widest("STATE", |cells| &cells.state).min(limit);
    let time = widest("FOR", |cells| &cells.time);
    let mut left = width.map(|width| width.saturating_sub(pid + application + state + time + 5));
    let has_detail = left.is_none_or(|left| left >= DETAIL);
    let application = match left {
        Some(left) if !has_detail => application + left,
        _ => application,
    };
    let mut columns = Vec::new();
    if long {
        for (title, cell) in OPTIONAL {
            let needs = widest(title, cell).min(limit);
            let fits = left.is_none_or(|left| left >= needs + 1 + STATEMENT);
            if fits {
                left = left.map(|left| left - needs - 1);
                columns.push((title, cell, needs));
            }
        }
    }
    let line = |cells: &Cells| {
        let mut line = format!(
            "{} {} {} {} ",
            right(&cells.pid, pid),
            fit(&cells.application, application),
            fit(&cells.state, state),
            right(&cells.time, time)
        );
        for (_, cell, width) in &columns {
            line += &fit(cell(cells), *width);
            line.push(' ');
        }
        if has_detail {
            line.push(' ');
            line += &cells.detail;
        }
        cut(line.trim_end(), width)
    };
    let title = Cells {
        pid: "PID".to_owned(),
        application: "APPLICATION".to_owned(),
        role: "ROLE".to_owned(),
        database: "DATABASE".to_owned(),
        client: "CLIENT".to_owned(),
        state: "STATE".to_owned(),
        time: "FOR".to_owned(),
        transaction: "IN TX".to_owned(),
        detail: "WAITS FOR, STATEMENT".to_owned(),
    };
    let lines = rows.iter().zip(&cells).map(|(row, cells)| Line {
        text: match cells {
            Some(cells) => line(cells),
            None => cut(&format!("{:pid$} {}", "", in_one(row)), width),
        },
        tone: tone(row),
    });
    (line(&title), lines.collect())
}

fn tone(row: &Row<'_>) -> Tone {
    let session = match &row.content {
        Content::Prepared(_) => return Tone::Blocks,
        Content::Session(session) => session,
        Content::Group(group) => group[0],
    };
    match Kind::of(session) {
        Kind::Waiting => Tone::Waits,
        _ if row.blocks > 0 => Tone::Blocks,
        Kind::InTransaction => Tone::InTransaction,
        Kind::Idle => Tone::Idle,
        _ => Tone::Plain,
    }
}

fn text(text: Option<&str>) -> String {
    printable(text.unwrap_or("-"))
}

/// Returns the branch of the tree before a row.
fn branch(row: &Row<'_>) -> String {
    match row.depth {
        0 => String::new(),
        depth => format!("{}\u{2514} ", "  ".repeat(depth - 1)),
    }
}

/// Returns the cells of a session; `None` for anything else.
fn cells(row: &Row<'_>, long: bool) -> Option<Cells> {
    let Content::Session(session) = row.content else {
        return None;
    };
    let time = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), format_seconds);
    let role = text(session.role.as_deref());
    let application = match session.application.as_deref() {
        Some(application) => printable(application),
        None if long => "-".to_owned(),
        // There is no column for the role.
        None => format!("({role})"),
    };
    Some(Cells {
        pid: session.pid.to_string(),
        application: branch(row) + &application,
        role,
        database: text(session.database.as_deref()),
        client: text(session.client.as_deref()),
        state: state(session, long),
        time: time(session.state_seconds),
        transaction: time(session.transaction_seconds),
        detail: detail(row, session),
    })
}

/// Returns the state of a session, by its short name unless `long`.
pub fn state(session: &ServerSession, long: bool) -> String {
    if is_blocked(session) {
        return "waiting".to_owned();
    }
    if !session.is_client() {
        return "replication".to_owned();
    }
    match session.state.as_deref() {
        None => "not visible".to_owned(),
        Some("idle in transaction") if !long => "idle in tx".to_owned(),
        Some("idle in transaction (aborted)") if !long => "failed tx".to_owned(),
        state => text(state),
    }
}

/// Says what it waits for, how many sessions it blocks, and its statement.
fn detail(row: &Row<'_>, session: &ServerSession) -> String {
    let mut parts = Vec::new();
    if is_blocked(session) {
        parts.push(waits_for(session, row.is_below_blocker));
    } else if session.state.as_deref() == Some("active") {
        parts.extend(session.waits_for.as_deref().map(printable));
    }
    // Below a blocker, the tree shows it.
    if row.blocks > 0 && !row.is_below_blocker {
        parts.push(format!("blocks {}", row.blocks));
    }
    let mut parts = vec![parts.join(", ")];
    parts.retain(|part| !part.is_empty());
    let statement = statement(session);
    if !statement.is_empty() {
        parts.push(statement);
    }
    parts.join(": ")
}

/// Names the lock that a session waits for, and its holders unless they are in the row above.
pub fn waits_for(session: &ServerSession, is_below_blocker: bool) -> String {
    let lock = session.lock.as_deref().or(session.waits_for.as_deref());
    let lock = printable(lock.unwrap_or("a lock"));
    if is_below_blocker {
        return lock;
    }
    let pids = session.blocked_by.iter().filter(|pid| **pid != 0);
    let mut by: Vec<String> = pids.map(i32::to_string).collect();
    by.dedup();
    let prepared = session.blocked_by_prepared.iter();
    by.extend(prepared.map(|gid| format!("prepared transaction {}", printable(gid))));
    match by.as_slice() {
        [] => lock,
        by => format!("{lock}, held by {}", by.join(", ")),
    }
}

/// Returns the statement in one line; empty if it is not visible.
pub fn statement(session: &ServerSession) -> String {
    match session.query.as_deref() {
        None | Some("<insufficient privilege>") => String::new(),
        Some(query) => {
            let query = printable(query);
            query.split_whitespace().collect::<Vec<_>>().join(" ")
        }
    }
}

/// Describes a group or a prepared transaction in one line.
fn in_one(row: &Row<'_>) -> String {
    let branch = branch(row);
    match &row.content {
        Content::Group(group) => format!("{branch}{}", described(group)),
        Content::Prepared(prepared) => {
            format!(
                "{branch}prepared transaction {} of {} for {}, blocks {}",
                printable(&prepared.gid),
                printable(prepared.owner_name()),
                format_seconds(prepared.seconds),
                row.blocks
            )
        }
        Content::Session(session) => format!("{branch}{}", session.describe()),
    }
}

/// Describes sessions that are alike: `shop:17 x180 idle, oldest 21 s`.
fn described(group: &[&ServerSession]) -> String {
    let first = group[0];
    let oldest = group.iter().map(|session| age(session)).fold(0.0, f64::max);
    let role = text(first.role.as_deref());
    let name = match first.application.as_deref() {
        Some(application) => printable(application),
        None => format!("({role})"),
    };
    let what = if is_blocked(first) {
        let lock = first.lock.as_deref().unwrap_or("a lock");
        format!("waiting for {}", printable(lock))
    } else {
        state(first, true)
    };
    let count = group.len();
    match first.state_seconds {
        Some(_) => format!("{name} x{count} {what}, oldest {}", format_seconds(oldest)),
        None => format!("{name} x{count} {what}"),
    }
}

/// Cuts `text` to a width, or fills it with blanks at the end.
fn fit(text: &str, width: usize) -> String {
    let cut = cut(text, Some(width));
    let blanks = width.saturating_sub(cut.width());
    cut + &" ".repeat(blanks)
}

/// Fills `text` with blanks at the beginning.
fn right(text: &str, width: usize) -> String {
    format!("{}{text}", " ".repeat(width.saturating_sub(text.width())))
}
