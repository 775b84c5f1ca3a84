//! Slots, and who holds them and what.

use std::collections::BTreeMap;

use super::CROWDED;
use super::activity::ServerSession;
use super::examine::Options;
use super::facts::Facts;
use super::report::{Check, Step};
use super::text::{plain, seconds, shortened};

/// For whom no slot is left.
pub(super) const WHAT_STILL_WORKS: &str = "what may still get in: a superuser \
    (superuser_reserved_connections), from PostgreSQL 16 on a role with \
    pg_use_reserved_connections, the other of a pooled and a direct endpoint; give it as \
    --admin-url";

/// More of one kind do not help.
const MOST: usize = 5;

pub(super) fn slots(facts: &Facts) -> Vec<Check> {
    let clients: Vec<_> = facts.clients().collect();
    let used = i64::try_from(clients.len()).unwrap_or(i64::MAX);
    let held_back = facts.held_back;
    let open = facts.max - held_back;
    let own = match (facts.superuser, facts.uses_reserved) {
        (Some(true), _) => ", and open to this role".to_owned(),
        (_, Some(true)) => format!(", {} of them open to this role", facts.reserved),
        _ => String::new(),
    };
    let mut text = format!(
        "{used} of {open} in use ({held_back} of {} are reserved{own})",
        facts.max
    );
    let by: Vec<String> = by_application(&clients);
    text += &format!(": {}", by.join("; "));
    let crowded = |used: i64, of: i64| used as f64 >= of as f64 * CROWDED;
    let mut checks = vec![match crowded(used, open) {
        true => Check::finding(
            Step::Slots,
            text,
            "antifreeze sessions shows who holds them, antifreeze plan what fits; give each \
             process fewer (ANTIFREEZE_MAX_CONNECTIONS=1, ANTIFREEZE_LIFETIME=per-invocation), \
             cap the function's concurrency, or go through a pooler",
        ),
        false => Check::well(Step::Slots, text),
    }];
    let ours = |own: fn(&ServerSession) -> Option<&String>, name: &str| {
        let same = clients
            .iter()
            .filter(|session| own(session).is_some_and(|own| own == name));
        i64::try_from(same.count()).unwrap_or(i64::MAX)
    };
    let role = (
        facts.role_limit,
        ours(|session| session.role.as_ref(), &facts.role),
        format!("the role {}", facts.role),
        "ALTER ROLE .. CONNECTION LIMIT",
    );
    let database = (
        facts.database_limit,
        ours(|session| session.database.as_ref(), &facts.database),
        format!("the database {}", facts.database),
        "ALTER DATABASE .. CONNECTION LIMIT",
    );
    for (limit, used, whose, alter) in [role, database] {
        let Some(limit) = limit.filter(|&limit| limit >= 0) else {
            continue;
        };
        let text = format!("{whose} has {used} of its own limit of {limit}");
        checks.push(match crowded(used, limit) {
            true => Check::finding(Step::Slots, text, format!("raise it with {alter}")),
            false => Check::note(Step::Slots, text),
        });
    }
    checks
}

/// `shop:17 12 (9 idle, 3 active)`, the greatest first.
fn by_application(clients: &[&ServerSession]) -> Vec<String> {
    let mut counts: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for session in clients {
        let application = match session.is_self {
            true => "this doctor",
            false => session
                .application
                .as_deref()
                .unwrap_or("no application_name"),
        };
        let state = session.state.as_deref().unwrap_or("not visible");
        *counts
            .entry(application)
            .or_default()
            .entry(state)
            .or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, states)| std::cmp::Reverse(states.values().sum::<usize>()));
    let more = counts.len().saturating_sub(MOST);
    let shown = counts.iter().take(MOST).map(|(application, states)| {
        let all: usize = states.values().sum();
        let states = states
            .iter()
            .map(|(state, count)| format!("{count} {state}"));
        let states: Vec<_> = states.collect();
        format!("{application} {all} ({})", states.join(", "))
    });
    let mut shown: Vec<String> = shown.collect();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown
}

/// Who may not look must not say that there is nothing.
fn none_seen(facts: &Facts, step: Step, none: String) -> Check {
    match facts.hidden() {
        0 => Check::well(step, none),
        hidden => Check::note(
            step,
            format!("{none}, but for {hidden} sessions out of sight"),
        ),
    }
}

pub(super) fn idle_in_transaction(facts: &Facts, options: &Options) -> Check {
    let limit = options.idle_in_transaction.as_secs_f64();
    let idle = facts.clients().filter(|session| {
        session.is_idle_in_transaction() && session.state_seconds.is_some_and(|s| s > limit)
    });
    let mut idle: Vec<_> = idle.collect();
    if idle.is_empty() {
        let none = format!("none for longer than {}", seconds(limit));
        return none_seen(facts, Step::IdleInTransaction, none);
    }
    idle.sort_by(|a, b| {
        b.state_seconds
            .partial_cmp(&a.state_seconds)
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    let shown: Vec<String> = idle.iter().take(MOST).map(|s| s.describe()).collect();
    Check::finding(
        Step::IdleInTransaction,
        format!("{}: {}", counted(idle.len()), shown.join("; ")),
        format!(
            "they keep their locks: antifreeze sessions --idle-in-transaction --older-than \
             {:?} --terminate; in psql: SELECT pg_terminate_backend({})",
            options.idle_in_transaction, idle[0].pid
        ),
    )
}

fn counted(sessions: usize) -> String {
    match sessions {
        1 => "1 session".to_owned(),
        many => format!("{many} sessions"),
    }
}

pub(super) fn transactions(facts: &Facts, options: &Options) -> Check {
    let limit = options.transaction.as_secs_f64();
    let open = facts.clients().filter(|session| {
        !session.is_self && session.transaction_seconds.is_some_and(|s| s > limit)
    });
    let mut open: Vec<_> = open.collect();
    let Some(longest) = ({
        open.sort_by(|a, b| {
            a.transaction_seconds
                .partial_cmp(&b.transaction_seconds)
                .unwrap_or(std::cmp::Ordering::Equal)
        });
        open.last()
    }) else {
        let none = format!("none is open for longer than {}", seconds(limit));
        return none_seen(facts, Step::Transactions, none);
    };
    let query = longest.query.as_deref().map(|query| shortened(query, 80));
    Check::finding(
        Step::Transactions,
        format!(
            "{} open for longer than {}; the longest for {}: {}: {}",
            open.len(),
            seconds(limit),
            seconds(longest.transaction_seconds.unwrap_or_default()),
            longest.describe(),
            plain(&query.unwrap_or_default())
        ),
        "whoever changes a table that it has touched waits for it, and vacuum keeps what it may \
         still see: end it, or set transaction_timeout (PostgreSQL 17) for its role",
    )
}

/// Who is at the head of each queue.
pub(super) fn locks(facts: &Facts) -> Vec<Check> {
    let waiting: Vec<_> = facts
        .sessions
        .iter()
        .filter(|s| !s.blocked_by.is_empty())
        .collect();
    if waiting.is_empty() {
        return vec![Check::well(Step::Locks, "nobody waits for a lock")];
    }
    let is_waiting = |pid: i32| waiting.iter().any(|session| session.pid == pid);
    let mut heads: BTreeMap<i32, Vec<&ServerSession>> = BTreeMap::new();
    for session in &waiting {
        for &by in session.blocked_by.iter().filter(|&&by| !is_waiting(by)) {
            let queue = heads.entry(by).or_default();
            if !queue.iter().any(|known| known.pid == session.pid) {
                queue.push(session);
            }
        }
    }
    if heads.is_empty() {
        let text = format!(
            "{} sessions wait for each other: {}",
            waiting.len(),
            at_work(&waiting).join("; ")
        );
        let remedy = "a deadlock: the server ends one of them after deadlock_timeout";
        return vec![Check::finding(Step::Locks, text, remedy)];
    }
    let queue = |(pid, first): (i32, Vec<&ServerSession>)| {
        let head = facts.sessions.iter().find(|session| session.pid == pid);
        // 0 is a prepared transaction (manual, "System Information Functions").
        let who = match (head, pid) {
            (Some(head), _) => head.describe(),
            (None, 0) => "a prepared transaction (see pg_prepared_xacts)".to_owned(),
            (None, pid) => format!("pid {pid}"),
        };
        let behind = waiting.len() - first.len();
        let first = at_work(&first);
        let more = match behind {
            0 => String::new(),
            more => format!("; {more} more wait, behind these or others"),
        };
        Check::finding(
            Step::Locks,
            format!("{who} blocks {}{more}", first.join("; ")),
            format!(
                "end who blocks, or who waits and blocks the rest: SELECT \
                 pg_terminate_backend({pid}); migrations under a lock_timeout do not queue"
            ),
        )
    };
    heads.into_iter().map(queue).collect()
}

/// `pid 123: alter table .. (waits for AccessExclusiveLock on partners)`, for the first few.
fn at_work(sessions: &[&ServerSession]) -> Vec<String> {
    let shown = sessions.iter().take(MOST).map(|session| {
        let query = shortened(session.query.as_deref().unwrap_or_default(), 60);
        let lock = session.lock.as_ref();
        let lock = lock.map(|lock| format!(" (waits for {lock})"));
        let lock = lock.unwrap_or_default();
        plain(&format!("pid {}: {query}{lock}", session.pid))
    });
    shown.collect()
}
