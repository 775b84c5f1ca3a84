//! Orders sessions by weight: first those that block others, each with a tree of those that
//! wait for it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use antifreeze_doctor::{PreparedTransaction, ServerSession};

/// One line of the list.
pub struct Row<'a> {
    pub content: Content<'a>,
    /// The depth in the tree of those that wait for each other.
    pub depth: usize,
    /// How many sessions wait behind it, directly or not.
    pub blocks: usize,
    /// Whether the row above it in the tree is what it waits for.
    pub is_below_blocker: bool,
}

/// What a row shows.
pub enum Content<'a> {
    Session(&'a ServerSession),
    /// At least two sessions that differ only in their age; the oldest first.
    Group(Vec<&'a ServerSession>),
    /// A prepared transaction that blocks sessions.
    Prepared(&'a PreparedTransaction),
}

/// The order of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Weight,
    Age,
    Application,
    Pid,
}

impl Order {
    pub fn name(self) -> &'static str {
        match self {
            Order::Weight => "weight",
            Order::Age => "age",
            Order::Application => "application",
            Order::Pid => "pid",
        }
    }

    /// Returns the next one, for a key that goes through all.
    pub fn next(self) -> Self {
        match self {
            Order::Weight => Order::Age,
            Order::Age => Order::Application,
            Order::Application => Order::Pid,
            Order::Pid => Order::Weight,
        }
    }
}

/// The kinds of sessions, the heaviest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Waiting,
    InTransaction,
    Active,
    /// The role may not see its state.
    Hidden,
    Idle,
    Replication,
}

impl Kind {
    pub fn of(session: &ServerSession) -> Self {
        let state = session.state.as_deref();
        if is_blocked(session) {
            Kind::Waiting
        } else if !session.is_client() {
            Kind::Replication
        } else if session.is_idle_in_transaction() {
            Kind::InTransaction
        } else if state == Some("idle") {
            Kind::Idle
        } else if state.is_none() {
            Kind::Hidden
        } else {
            Kind::Active
        }
    }
}

pub fn is_blocked(session: &ServerSession) -> bool {
    !session.blocked_by.is_empty()
}

/// Returns how long a session has been in its state; for one in a transaction, how long that
/// has been open.
pub fn age(session: &ServerSession) -> f64 {
    let age = match Kind::of(session) {
        Kind::InTransaction => session.transaction_seconds.or(session.state_seconds),
        _ => session.state_seconds,
    };
    age.unwrap_or_default()
}

/// Arranges the sessions. `grouped` joins those that differ only in their age, if the order is
/// by weight.
pub fn arrange<'a>(
    sessions: &[&'a ServerSession],
    prepared: &'a [PreparedTransaction],
    order: Order,
    grouped: bool,
) -> Vec<Row<'a>> {
    if order == Order::Weight {
        return Tree::new(sessions, prepared, grouped).rows();
    }
    let mut sessions = sessions.to_vec();
    match order {
        Order::Age => sessions.sort_by(|a, b| age(b).total_cmp(&age(a))),
        Order::Application => sessions.sort_by(|a, b| a.application.cmp(&b.application)),
        _ => sessions.sort_by_key(|session| session.pid),
    }
    let all = Tree::new(&sessions, prepared, false);
    let row = |session: &&'a ServerSession| Row {
        content: Content::Session(session),
        depth: 0,
        blocks: all.waiting_behind(Blocker::Session(session.pid)),
        is_below_blocker: false,
    };
    sessions.iter().map(row).collect()
}

/// What a session waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Blocker {
    Session(i32),
    /// Its index.
    Prepared(usize),
}

/// The sessions, and which of them wait for which.
struct Tree<'a> {
    sessions: Vec<&'a ServerSession>,
    prepared: &'a [PreparedTransaction],
    waiting: HashMap<Blocker, Vec<&'a ServerSession>>,
    grouped: bool,
}

impl<'a> Tree<'a> {
    fn new(
        sessions: &[&'a ServerSession],
        prepared: &'a [PreparedTransaction],
        grouped: bool,
    ) -> Self {
        let mut tree = Tree {
            sessions: sessions.to_vec(),
            prepared,
            waiting: HashMap::new(),
            grouped,
        };
        tree.sessions.sort_by(|a, b| age(b).total_cmp(&age(a)));
        let by_pid: HashMap<i32, &ServerSession> = sessions
            .iter()
            .map(|session| (session.pid, *session))
            .collect();
        for session in &tree.sessions {
            if let Some(blocker) = blocker(session, &by_pid, prepared) {
                tree.waiting.entry(blocker).or_default().push(session);
            }
        }
        tree
    }

    fn behind(&self, blocker: Blocker) -> &[&'a ServerSession] {
        self.waiting.get(&blocker).map_or(&[], Vec::as_slice)
    }

    /// Counts the sessions that wait behind it, directly or not.
    fn waiting_behind(&self, blocker: Blocker) -> usize {
        let mut found: Vec<i32> = Vec::new();
        let mut next = vec![blocker];
        while let Some(blocker) = next.pop() {
            for session in self.behind(blocker) {
                // Those of a deadlock wait for each other.
                let is_itself = blocker == Blocker::Session(session.pid);
                if !is_itself && !found.contains(&session.pid) {
                    found.push(session.pid);
                    next.push(Blocker::Session(session.pid));
                }
            }
        }
        found.len()
    }

    fn rows(&self) -> Vec<Row<'a>> {
        let mut rows = Vec::new();
        let mut shown = Vec::new();
        let mut roots: Vec<Blocker> = (0..self.prepared.len()).map(Blocker::Prepared).collect();
        let is_waiting = |pid: i32| self.waiting.values().flatten().any(|one| one.pid == pid);
        let free = self.sessions.iter().filter(|one| !is_waiting(one.pid));
        roots.extend(free.map(|session| Blocker::Session(session.pid)));
        let mut roots: Vec<_> = roots
            .into_iter()
            .map(|root| (self.waiting_behind(root), root))
            .filter(|(count, _)| *count > 0)
            .collect();
        roots.sort_by_key(|(count, _)| Reverse(*count));
        for (_, root) in roots {
            self.add(root, 0, &mut rows, &mut shown);
        }
        // Those that wait for each other have no root; neither have those whose blocker is not
        // among the sessions.
        for session in &self.sessions {
            if is_blocked(session) && !shown.contains(&session.pid) {
                self.add(Blocker::Session(session.pid), 0, &mut rows, &mut shown);
            }
        }
        let mut kinds: BTreeMap<Kind, Vec<&ServerSession>> = BTreeMap::new();
        for session in &self.sessions {
            if !shown.contains(&session.pid) {
                kinds.entry(Kind::of(session)).or_default().push(session);
            }
        }
        for (kind, sessions) in kinds {
            let alike = self.grouped && matches!(kind, Kind::Idle | Kind::Hidden);
            let contents = if alike {
                groups(sessions, 2, &|session| {
                    [&session.application, &session.role, &session.database].map(Clone::clone)
                })
            } else {
                sessions.into_iter().map(Content::Session).collect()
            };
            rows.extend(contents.into_iter().map(|content| Row {
                content,
                depth: 0,
                blocks: 0,
                is_below_blocker: false,
            }));
        }
        rows
    }

    /// Adds the row of a blocker, then those that wait for it.
    fn add(&self, blocker: Blocker, depth: usize, rows: &mut Vec<Row<'a>>, shown: &mut Vec<i32>) {
        let content = match blocker {
            Blocker::Prepared(index) => Content::Prepared(&self.prepared[index]),
            Blocker::Session(pid) => {
                let Some(session) = self.sessions.iter().find(|one| one.pid == pid) else {
                    return;
                };
                shown.push(pid);
                Content::Session(session)
            }
        };
        rows.push(Row {
            content,
            depth,
            blocks: self.waiting_behind(blocker),
            is_below_blocker: depth > 0,
        });
        let behind = self.behind(blocker).iter().copied();
        let behind = behind.filter(|session| !shown.contains(&session.pid));
        let (heads, leaves): (Vec<_>, Vec<_>) =
            behind.partition(|one| !self.behind(Blocker::Session(one.pid)).is_empty());
        for head in heads {
            if !shown.contains(&head.pid) {
                self.add(Blocker::Session(head.pid), depth + 1, rows, shown);
            }
        }
        shown.extend(leaves.iter().map(|leaf| leaf.pid));
        let least = if self.grouped { 3 } else { usize::MAX };
        let contents = groups(leaves, least, &|session| {
            [&session.application, &session.role, &session.lock].map(Clone::clone)
        });
        rows.extend(contents.into_iter().map(|content| Row {
            content,
            depth: depth + 1,
            blocks: 0,
            is_below_blocker: true,
        }));
    }
}

/// Returns what `session` waits for, as far as it is shown: a session that itself waits rather
/// than the head of its queue, since the queue continues once that is served.
fn blocker(
    session: &ServerSession,
    by_pid: &HashMap<i32, &ServerSession>,
    prepared: &[PreparedTransaction],
) -> Option<Blocker> {
    let by = session.blocked_by.iter().filter_map(|pid| by_pid.get(pid));
    let by: Vec<_> = by.filter(|by| by.pid != session.pid).collect();
    let waits = by.iter().rfind(|by| is_blocked(by));
    if let Some(by) = waits.or(by.first()) {
        return Some(Blocker::Session(by.pid));
    }
    let gids = &session.blocked_by_prepared;
    let found = prepared.iter().position(|one| gids.contains(&one.gid));
    found.map(Blocker::Prepared)
}

/// Joins sessions with the same key, if there are at least `least` of them.
fn groups<'a>(
    sessions: Vec<&'a ServerSession>,
    least: usize,
    key: &dyn Fn(&ServerSession) -> [Option<String>; 3],
) -> Vec<Content<'a>> {
    let mut groups: Vec<([Option<String>; 3], Vec<&ServerSession>)> = Vec::new();
    for session in sessions {
        let key = key(session);
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.push(session),
            None => groups.push((key, vec![session])),
        }
    }
    groups.sort_by_key(|(_, group)| Reverse(if group.len() < least { 0 } else { group.len() }));
    let contents = groups.into_iter().flat_map(|(_, group)| {
        if group.len() < least {
            group.into_iter().map(Content::Session).collect()
        } else {
            vec![Content::Group(group)]
        }
    });
    contents.collect()
}
