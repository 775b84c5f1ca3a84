//! Checks slots and transactions, and names the sessions that hold them.

use std::collections::BTreeMap;

use super::CROWDED;
use super::activity::ServerSession;
use super::examine::Options;
use super::facts::Facts;
use super::report::{Check, Step};
use super::text::{format_seconds, printable, quoted, truncate};

/// Names the routes by which a session can still be opened while every slot is taken.
pub(super) const RESERVED_ROUTES: &str = "give --admin-url a URL that can still connect: \
    a superuser (superuser_reserved_connections), a role with pg_use_reserved_connections \
    (PostgreSQL 16 and newer), or the other of a pooled and a direct endpoint";

/// How many entries of one kind are shown.
pub(super) const MAX_SHOWN: usize = 5;

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
    // Those that are reserved can be in use, too.
    let mut text = format!(
        "{used} of {} in use ({held_back} are reserved{usable})",
        facts.max
    );
    let by: Vec<String> = by_application(&clients);
    text += &format!(": {}", by.join("; "));
    let crowded = |used: i64, of: i64| used as f64 >= of as f64 * CROWDED;
    let mut checks = vec![if crowded(used, open) {
        Check::finding(
            Step::Slots,
            text,
            "set ANTIFREEZE_MAX_CONNECTIONS=1 for each function, without a new build; antifreeze \
             plan calculates how many instances fit",
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
        "ROLE",
        &facts.role,
    );
    let database = (
        facts.database_limit,
        count(|session| session.database.as_ref(), &facts.database),
        format!("database {}", facts.database),
        "DATABASE",
        &facts.database,
    );
    for (limit, used, owner, kind, name) in [role, database] {
        let Some(limit) = limit.filter(|&limit| limit >= 0) else {
            continue;
        };
        let text = format!("{owner} uses {used} of its connection limit of {limit}");
        checks.push(if crowded(used, limit) {
            {
                let raised = limit.max(1) * 2;
                let alter = format!("ALTER {kind} {} CONNECTION LIMIT {raised};", quoted(name));
                Check::finding(Step::Slots, text, alter)
            }
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
        format!(
            "{} until {} ended: {}",
            match idle.len() {
                1 => "1 session holds its locks".to_owned(),
                many => format!("{many} sessions hold their locks"),
            },
            if idle.len() == 1 { "it is" } else { "they are" },
            shown.join("; ")
        ),
        format!(
            "antifreeze sessions --idle-in-transaction --older-than {:?} --terminate",
            options.idle_in_transaction
        ),
    )
}

/// Reports transactions that have been open for long, unless they are reported as idle or wait
/// for a lock.
pub(super) fn transactions(facts: &Facts, options: &Options) -> Check {
    let limit = options.transaction.as_secs_f64();
    let idle_limit = options.idle_in_transaction.as_secs_f64();
    let is_reported = |session: &ServerSession| {
        session.is_idle_in_transaction() && session.state_seconds.is_some_and(|s| s > idle_limit)
    };
    let open = facts.clients().filter(|session| {
        let is_old = session.transaction_seconds.is_some_and(|s| s > limit);
        let waits = !session.blocked_by.is_empty();
        is_old && !session.is_self && !waits && !is_reported(session)
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
            "{} open for longer than {}, which block schema changes of the tables that they have \
             used, and vacuum; the longest for {}: {}: {}",
            open.len(),
            format_seconds(limit),
            format_seconds(longest.transaction_seconds.unwrap_or_default()),
            longest.describe(),
            printable(&query.unwrap_or_default())
        ),
        format!("SELECT pg_terminate_backend({});", longest.pid),
    )
}
