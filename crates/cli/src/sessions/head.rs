//! Counts sessions by state, and slots.

use antifreeze_doctor::{Overview, ServerSession};

use super::arrange::{Kind, is_blocked};

/// Returns two lines: the sessions and slots, and the states of the selected sessions.
pub fn head(all: &Overview, selected: &[&ServerSession]) -> [String; 2] {
    let slots = &all.slots;
    let reserved = match slots.reserved {
        0 => String::new(),
        reserved => format!(" ({reserved} reserved)"),
    };
    let sessions = match (selected.len(), all.sessions.len()) {
        (1, 1) => "1 session".to_owned(),
        (some, all) if some == all => format!("{all} sessions"),
        (some, all) => format!("{some} of {all} sessions"),
    };
    let first = format!(
        "{sessions}, {} of {} slots in use{reserved}",
        slots.used, slots.max
    );
    [first, states(all, selected)]
}

/// Counts the states, the heaviest first: `1 blocking, 39 waiting, 12 active`.
fn states(all: &Overview, selected: &[&ServerSession]) -> String {
    let blocking = selected.iter().filter(|one| {
        let mut others = all.sessions.iter();
        !is_blocked(one) && others.any(|other| other.blocked_by.contains(&one.pid))
    });
    let prepared = all.prepared.len();
    let kinds = [
        (Kind::Waiting, "waiting"),
        (Kind::InTransaction, "idle in transaction"),
        (Kind::Active, "active"),
        (Kind::Idle, "idle"),
        (Kind::Hidden, "not visible"),
        (Kind::Replication, "replication"),
    ];
    let mut counts = vec![(blocking.count(), "blocking")];
    counts.extend(kinds.map(|(kind, name)| {
        let same = selected.iter().filter(|session| Kind::of(session) == kind);
        (same.count(), name)
    }));
    counts.push((prepared, "prepared transactions"));
    let counts = counts.into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    counts.join(", ")
}
