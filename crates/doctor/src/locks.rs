//! Checks which sessions wait for locks, and names what blocks them: a session, a prepared
//! transaction, or a process of the server.

use std::collections::BTreeMap;

use super::activity::ServerSession;
use super::examine::Options;
use super::facts::{Facts, Worker};
use super::overview::PreparedTransaction;
use super::report::{Check, Step};
use super::slots::MAX_SHOWN;
use super::text::{format_seconds, literal, printable, truncate};

/// What blocks sessions.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Head {
    Process(i32),
    /// Its index.
    Prepared(usize),
}

/// Reports prepared transactions that are old and block no session; those that do are reported
/// with the locks.
pub(super) fn prepared(facts: &Facts, options: &Options) -> Vec<Check> {
    let limit = options.transaction.as_secs_f64();
    let old = facts.prepared.iter().filter(|one| {
        let mut gids = facts.sessions.iter().flat_map(|it| &it.blocked_by_prepared);
        one.seconds > limit && !gids.any(|gid| *gid == one.gid)
    });
    let check = |one: &PreparedTransaction| {
        let text = format!(
            "{} keeps its locks, and rows from vacuum, until it is ended",
            described_prepared(one)
        );
        Check::finding(Step::Prepared, text, end(one))
    };
    old.take(MAX_SHOWN).map(check).collect()
}

/// Describes it with the database, since it can be ended in no other.
fn described_prepared(one: &PreparedTransaction) -> String {
    format!(
        "prepared transaction {} (of {}, {} ago, in database {})",
        one.gid,
        one.owner_name(),
        format_seconds(one.seconds),
        one.database
    )
}

/// Its coordinator may have decided to commit it, and committed its other parts.
fn end(one: &PreparedTransaction) -> String {
    let gid = literal(&one.gid);
    format!("ROLLBACK PREPARED {gid}; -- or COMMIT PREPARED, as its coordinator has decided")
}

/// Reports what is at the head of each lock queue.
pub(super) fn locks(facts: &Facts) -> Vec<Check> {
    let waiting: Vec<_> = facts
        .sessions
        .iter()
        .filter(|s| !s.blocked_by.is_empty())
        .collect();
    if waiting.is_empty() {
        return vec![Check::ok(Step::Locks, "no session waits for a lock")];
    }
    let mut heads: BTreeMap<Head, Vec<&ServerSession>> = BTreeMap::new();
    for session in &waiting {
        for head in heads_of(session, &waiting, facts) {
            let queue = heads.entry(head).or_default();
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
        let remedy = "wait: the server cancels one of them after deadlock_timeout";
        return vec![Check::finding(Step::Locks, text, remedy)];
    }
    let mut heads: Vec<_> = heads.into_iter().collect();
    heads.sort_by_key(|(_, queue)| std::cmp::Reverse(queue.len()));
    let check = |(head, first): &(Head, Vec<&ServerSession>)| {
        blocked(head, first, waiting.len() - first.len(), facts)
    };
    heads.iter().map(check).collect()
}

/// Returns what blocks a session and does not itself wait.
fn heads_of(session: &ServerSession, waiting: &[&ServerSession], facts: &Facts) -> Vec<Head> {
    let is_waiting = |pid: i32| waiting.iter().any(|session| session.pid == pid);
    // 0 is a prepared transaction (manual, "System Information Functions").
    let pids = session.blocked_by.iter().filter(|pid| **pid != 0);
    let pids = pids.filter(|pid| !is_waiting(**pid));
    let mut heads: Vec<Head> = pids.map(|pid| Head::Process(*pid)).collect();
    let gids = &session.blocked_by_prepared;
    let prepared = facts.prepared.iter().enumerate();
    let prepared = prepared.filter(|(_, one)| gids.contains(&one.gid));
    heads.extend(prepared.map(|(index, _)| Head::Prepared(index)));
    heads
}

/// Reports one queue: its head, those directly behind it, and how many more wait.
fn blocked(head: &Head, first: &[&ServerSession], behind: usize, facts: &Facts) -> Check {
    let blocks = format!("blocks {}", described(first).join("; "));
    let more = match behind {
        0 => String::new(),
        more => format!("; {more} more wait behind these or others"),
    };
    let (blocker, remedy) = match head {
        Head::Prepared(index) => {
            let one = &facts.prepared[*index];
            (described_prepared(one), end(one))
        }
        Head::Process(pid) => {
            let session = facts.sessions.iter().find(|session| session.pid == *pid);
            let worker = facts.workers.iter().find(|worker| worker.pid == *pid);
            match (session, worker) {
                (Some(session), _) => (
                    session.describe(),
                    format!("SELECT pg_terminate_backend({pid});"),
                ),
                (None, Some(worker)) if worker.kind != "autovacuum worker" => (
                    printable(&format!("pid {pid} ({})", worker.kind)),
                    end_worker(worker, first[0].pid),
                ),
                // It gives way to any lock unless it prevents a wraparound (manual, "The
                // Autovacuum Daemon").
                (None, Some(worker)) => (
                    format!(
                        "pid {pid} ({}), which does not give way,",
                        truncate(&worker.query, 80)
                    ),
                    cancel_until_vacuumed(first[0].pid),
                ),
                (None, None) => (
                    format!("pid {pid}, which is no client and probably autovacuum,"),
                    cancel_until_vacuumed(first[0].pid),
                ),
            }
        }
    };
    Check::finding(Step::Locks, format!("{blocker} {blocks}{more}"), remedy)
}

/// Ends what a server process blocks, as far as it would not begin again.
fn end_worker(worker: &Worker, waits: i32) -> String {
    let (kind, pid) = (&worker.kind, worker.pid);
    if kind == "startup" {
        return format!("SELECT pg_cancel_backend({waits}); -- or wait: the standby replays it");
    }
    if let Some(name) = &worker.subscription {
        return format!("ALTER SUBSCRIPTION {name} DISABLE; -- its worker would begin again");
    }
    format!("SELECT pg_terminate_backend({pid});")
}

/// Lets those continue that wait behind the first one.
fn cancel_until_vacuumed(first: i32) -> String {
    format!("SELECT pg_cancel_backend({first}); -- repeat its statement when vacuum has ended")
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
