//! Checks slots, transactions and locks, and names the sessions that hold them.

use std::collections::BTreeMap;

use super::CROWDED;
use super::activity::ServerSession;
use super::examine::Options;
use super::facts::Facts;
use super::report::{Check, Step};
use super::text::{format_seconds, printable, truncate};

/// Names the routes by which a session can still be opened while every slot is taken.
pub(super) const RESERVED_ROUTES: &str = "give --admin-url a URL that can still connect: \
    a superuser (superuser_reserved_connections), a role with pg_use_reserved_connections \
    (PostgreSQL 16 and newer), or the other of a pooled and a direct endpoint";

/// How many entries of one kind are shown.
const MAX_SHOWN: usize = 5;

pub(super) fn slots(facts: &Facts) -> Vec<Check> {
    let clients: Vec<_> = facts.clients().collect();
    let used = i64::try_from(clients.len()).unwrap_or(i64::MAX);
    let held_back = facts.held_back;
    let open = facts.max - held_back;
    let usable = match (facts.superuser, facts.uses_reserved) {
        (Some(true), _) => ", all usable by this role".to_owned(),
        (_, Some(true)) => format!(", {} of them usable by this role", facts.reserved),
        _ => String::new(),
    };
    let mut text = format!(
        "{used} of {open} in use ({held_back} of {} are reserved{usable})",
        facts.max
    );
    let by: Vec<String> = by_application(&clients);
    text += &format!(": {}", by.join("; "));
    let crowded = |used: i64, of: i64| used as f64 >= of as f64 * CROWDED;
    let mut checks = vec![if crowded(used, open) {
        Check::finding(
            Step::Slots,
            text,
            "antifreeze sessions shows which sessions hold them, antifreeze plan how many fit; \
             lower the connections of each process (ANTIFREEZE_MAX_CONNECTIONS=1, \
             ANTIFREEZE_LIFETIME=per-invocation), cap the function's concurrency, or use a pooler",
        )
    } else {
        Check::ok(Step::Slots, text)
    }];
    let count = |key: fn(&ServerSession) -> Option<&String>, name: &str| {
        let same = clients
            .iter()
            .filter(|session| key(session).is_some_and(|key| key == name));
        i64::try_from(same.count()).unwrap_or(i64::MAX)
    };
    let role = (
        facts.role_limit,
        count(|session| session.role.as_ref(), &facts.role),
        format!("role {}", facts.role),
        "ALTER ROLE .. CONNECTION LIMIT",
    );
    let database = (
        facts.database_limit,
        count(|session| session.database.as_ref(), &facts.database),
        format!("database {}", facts.database),
        "ALTER DATABASE .. CONNECTION LIMIT",
    );
    for (limit, used, owner, alter) in [role, database] {
        let Some(limit) = limit.filter(|&limit| limit >= 0) else {
            continue;
        };
        let text = format!("{owner} uses {used} of its connection limit of {limit}");
        checks.push(if crowded(used, limit) {
            Check::finding(Step::Slots, text, format!("raise it with {alter}"))
        } else {
            Check::note(Step::Slots, text)
        });
    }
    checks
}

/// Counts sessions by application and state, the largest first:
/// `shop:17 12 (9 idle, 3 active)`.
fn by_application(clients: &[&ServerSession]) -> Vec<String> {
    let mut counts: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for session in clients {
        let application = if session.is_self {
            "this session"
        } else {
            session
                .application
                .as_deref()
                .unwrap_or("no application_name")
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
    let more = counts.len().saturating_sub(MAX_SHOWN);
    let shown = counts.iter().take(MAX_SHOWN).map(|(application, states)| {
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

/// Reports that nothing was found, and how many sessions the role could not see.
fn none_found(facts: &Facts, step: Step, none: String) -> Check {
    match facts.hidden() {
        0 => Check::ok(step, none),
        hidden => Check::note(
            step,
            format!("{none}; {hidden} sessions are not visible to this role"),
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
        let none = format!("none for longer than {}", format_seconds(limit));
        return none_found(facts, Step::IdleInTransaction, none);
    }
    idle.sort_by(|a, b| {
        b.state_seconds
            .partial_cmp(&a.state_seconds)
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    let shown: Vec<String> = idle.iter().take(MAX_SHOWN).map(|s| s.describe()).collect();
    Check::finding(
        Step::IdleInTransaction,
        format!("{}: {}", counted(idle.len()), shown.join("; ")),
        format!(
            "they hold their locks until they end: run antifreeze sessions --idle-in-transaction \
             --older-than {:?} --terminate, or in psql SELECT pg_terminate_backend({})",
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
        let none = format!("none open for longer than {}", format_seconds(limit));
        return none_found(facts, Step::Transactions, none);
    };
    let query = longest.query.as_deref().map(|query| truncate(query, 80));
    Check::finding(
        Step::Transactions,
        format!(
            "{} open for longer than {}; the longest for {}: {}: {}",
            open.len(),
            format_seconds(limit),
            format_seconds(longest.transaction_seconds.unwrap_or_default()),
            longest.describe(),
            printable(&query.unwrap_or_default())
        ),
        "it blocks schema changes of tables that it has used, and keeps vacuum from removing dead \
         rows: end it, or set transaction_timeout (PostgreSQL 17) for its role",
    )
}

/// Reports the session at the head of each lock queue.
pub(super) fn locks(facts: &Facts) -> Vec<Check> {
    let waiting: Vec<_> = facts
        .sessions
        .iter()
        .filter(|s| !s.blocked_by.is_empty())
        .collect();
    if waiting.is_empty() {
        return vec![Check::ok(Step::Locks, "no session waits for a lock")];
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
            described(&waiting).join("; ")
        );
        let remedy = "a deadlock: the server cancels one of them after deadlock_timeout";
        return vec![Check::finding(Step::Locks, text, remedy)];
    }
    let queue = |(pid, first): (i32, Vec<&ServerSession>)| {
        let head = facts.sessions.iter().find(|session| session.pid == pid);
        // 0 is a prepared transaction (manual, "System Information Functions").
        let blocker = match (head, pid) {
            (Some(head), _) => head.describe(),
            (None, 0) => "a prepared transaction (see pg_prepared_xacts)".to_owned(),
            (None, pid) => format!("pid {pid}"),
        };
        let behind = waiting.len() - first.len();
        let first = described(&first);
        let more = match behind {
            0 => String::new(),
            more => format!("; {more} more wait behind these or others"),
        };
        Check::finding(
            Step::Locks,
            format!("{blocker} blocks {}{more}", first.join("; ")),
            format!(
                "end the blocking session, or the waiting one that the others queue behind: SELECT \
                 pg_terminate_backend({pid}); run migrations with a lock_timeout"
            ),
        )
    };
    heads.into_iter().map(queue).collect()
}

/// Describes the first few sessions:
/// `pid 123: alter table .. (waits for AccessExclusiveLock on partners)`.
fn described(sessions: &[&ServerSession]) -> Vec<String> {
    let shown = sessions.iter().take(MAX_SHOWN).map(|session| {
        let query = truncate(session.query.as_deref().unwrap_or_default(), 60);
        let lock = session.lock.as_ref();
        let lock = lock.map(|lock| format!(" (waits for {lock})"));
        let lock = lock.unwrap_or_default();
        printable(&format!("pid {}: {query}{lock}", session.pid))
    });
    shown.collect()
}
