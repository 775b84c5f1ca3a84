//! Random programs of several clients over one or two sessions, and the same over a connection
//! for each client: the answers are the same.

use std::collections::HashMap;

use bytes::BytesMut;
use lab::postgres::{Database, Postgres};
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use tokio::net::TcpStream;

use super::raw::{Borrower, Session, converse, plain, shown};

const SCHEMA: &str = "drop schema if exists public, other cascade; create schema public; \
    create schema other; create table t (a int); insert into t values (1), (2), (3); \
    create table other.t (a text, b int); insert into other.t values ('x', 1)";

const TEXTS: [&str; 14] = [
    "select * from t order by a",
    "select a from t order by a",
    "select $1::int + 1",
    "select $1",
    "insert into t (a) values ($1)",
    "update t set a = a + 1 returning *",
    "select count(*) from t",
    "select 1 / 0",
    "nonsense",
    "begin",
    "commit",
    "rollback",
    "",
    "select 'now'::timestamptz > now() - interval '1 hour'",
];

const SIMPLE: [&str; 9] = [
    "select 1",
    "begin",
    "begin",
    "commit",
    "rollback",
    "select 1 / 0",
    "savepoint s",
    "rollback to savepoint s",
    "nonsense",
];

const ALTERING: [&str; 11] = [
    "alter table t add column if not exists b int default 7",
    "alter table t drop column if exists b",
    "alter table t alter column a type bigint",
    "alter table t alter column a type int",
    "drop table t; create table t (a int); insert into t values (1)",
    "set local search_path = other",
    "set local timezone = 'Asia/Tokyo'",
    "create temp table t (a text) on commit drop",
    "deallocate s0",
    "deallocate all",
    "discard plans",
];

/// What a client does under one or two sync points.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Parse, Describe, Sync.
    Prepare(u8, &'static str),
    /// Parse, Sync.
    Parse(u8, &'static str),
    /// Bind, Execute, Sync; with a Describe of the portal.
    Execute(u8, bool),
    /// Two of them under one Sync.
    Both(u8, u8),
    /// Parse, Describe, Flush, Bind, Execute, Sync.
    Whole(u8, &'static str),
    /// Parse, Describe, Sync, and then Bind, Execute, Sync, pipelined.
    Pipelined(u8, &'static str),
    /// Bind, Execute of one row, Sync, Execute of the rest, Sync.
    Portal(u8),
    /// Describe, Sync.
    Describe(u8),
    Close(u8),
    Simple(&'static str),
    Sync,
}

/// A client, a session for it, how its bytes are cut, and what it does.
type Turn = (usize, usize, usize, Step);

fn step(texts: &'static [&'static str]) -> impl Strategy<Value = Step> {
    // The last is the unnamed statement.
    let name = || 0u8..4;
    let text = || prop::sample::select(TEXTS.to_vec());
    prop_oneof![
        3 => (name(), text()).prop_map(|(name, text)| Step::Prepare(name, text)),
        1 => (name(), text()).prop_map(|(name, text)| Step::Parse(name, text)),
        5 => (name(), any::<bool>()).prop_map(|(name, tells)| Step::Execute(name, tells)),
        1 => (name(), name()).prop_map(|(first, second)| Step::Both(first, second)),
        2 => (name(), text()).prop_map(|(name, text)| Step::Whole(name, text)),
        1 => (name(), text()).prop_map(|(name, text)| Step::Pipelined(name, text)),
        1 => name().prop_map(Step::Portal),
        1 => name().prop_map(Step::Describe),
        2 => name().prop_map(Step::Close),
        3 => prop::sample::select(texts.to_vec()).prop_map(Step::Simple),
        1 => Just(Step::Sync),
    ]
}

fn turns(texts: &'static [&'static str]) -> impl Strategy<Value = Vec<Turn>> {
    let cut = prop_oneof![1usize..30, Just(1 << 20)];
    prop::collection::vec((0usize..3, 0usize..2, cut, step(texts)), 1..40)
}

/// A client, with a connection of its own to one database and lent sessions of the other.
struct Client {
    alone: TcpStream,
    lent: Borrower,
    texts: HashMap<u8, &'static str>,
    in_transaction: bool,
    failed: bool,
}

fn name(number: u8) -> &'static str {
    ["s0", "s1", "s2", ""][usize::from(number)]
}

impl Client {
    /// Writes the requests, and returns how many ReadyForQuery will come.
    fn encode(&mut self, step: Step, out: &mut BytesMut) -> usize {
        let mut syncs = 1;
        match step {
            Step::Prepare(number, text) => {
                self.parse(number, text, out);
                describe(number, out);
            }
            Step::Parse(number, text) => self.parse(number, text, out),
            Step::Execute(number, tells) => {
                self.bind("", number, out);
                if tells {
                    frontend::describe(b'P', "", out).expect("no NUL");
                }
                execute(0, out);
            }
            Step::Both(first, second) => {
                for number in [first, second] {
                    self.bind("", number, out);
                    execute(0, out);
                }
            }
            Step::Whole(number, text) => {
                self.parse(number, text, out);
                describe(number, out);
                frontend::flush(out);
                self.bind("", number, out);
                execute(0, out);
            }
            Step::Pipelined(number, text) => {
                self.parse(number, text, out);
                describe(number, out);
                frontend::sync(out);
                self.bind("", number, out);
                execute(0, out);
                syncs = 2;
            }
            // PostgreSQL 15 crashes where an old portal is executed in a failed transaction.
            Step::Portal(_) if self.failed => {}
            Step::Portal(number) => {
                frontend::close(b'P', "p", out).expect("no NUL");
                self.bind("p", number, out);
                frontend::execute("p", 1, out).expect("no NUL");
                frontend::sync(out);
                frontend::execute("p", 0, out).expect("no NUL");
                syncs = 2;
            }
            Step::Describe(number) => describe(number, out),
            Step::Close(number) => {
                frontend::close(b'S', name(number), out).expect("no NUL");
                self.texts.remove(&number);
            }
            Step::Simple(sql) => {
                frontend::query(sql, out).expect("no NUL");
                return 1;
            }
            Step::Sync => {}
        }
        frontend::sync(out);
        syncs
    }

    fn parse(&mut self, number: u8, text: &'static str, out: &mut BytesMut) {
        frontend::parse(name(number), text, [], out).expect("no NUL");
        let known = self.texts.entry(number).or_insert(text);
        if number == 3 {
            *known = text;
        }
    }

    fn bind(&self, portal: &str, number: u8, out: &mut BytesMut) {
        let text = self.texts.get(&number).copied().unwrap_or_default();
        let values = text.contains("$1").then_some("5");
        let value = |value: &str, out: &mut BytesMut| {
            out.extend_from_slice(value.as_bytes());
            Ok(IsNull::No)
        };
        let bound = frontend::bind(portal, name(number), [0], values, value, [0], out);
        assert!(bound.is_ok());
    }
}

fn describe(number: u8, out: &mut BytesMut) {
    frontend::describe(b'S', name(number), out).expect("no NUL");
}

fn execute(rows: i32, out: &mut BytesMut) {
    frontend::execute("", rows, out).expect("no NUL");
}

struct Judge {
    plain: Database,
    shared: Database,
}

impl Judge {
    async fn new() -> Judge {
        let server = Postgres::shared().await.expect("a server");
        Judge {
            plain: server.fresh_database().await.expect("a database"),
            shared: server.fresh_database().await.expect("a database"),
        }
    }

    /// Runs a program. `differs` decides whether a difference is one of those that are known,
    /// which ends the program.
    async fn judge(
        &self,
        sessions: usize,
        turns: &[Turn],
        known: impl Fn(&[String], &[String]) -> bool,
    ) -> Result<(), TestCaseError> {
        for database in [&self.plain, &self.shared] {
            database.execute(SCHEMA).await.expect("a schema");
        }
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(Client {
                alone: plain(&self.plain).await,
                lent: Borrower::default(),
                texts: HashMap::new(),
                in_transaction: false,
                failed: false,
            });
        }
        let mut lent = Vec::new();
        for _ in 0..sessions {
            lent.push(Session::open(&self.shared).await);
        }
        for (at, &(client, session, cut, step)) in turns.iter().enumerate() {
            // One that has locks would make the others wait.
            let first = clients.iter().position(|client| client.in_transaction);
            let client = first.unwrap_or(client);
            let used: Vec<_> = clients.iter().map(|client| client.lent.keeps()).collect();
            let free = |number: &usize| !used.contains(&Some(*number));
            let session = match used[client] {
                Some(kept) => kept,
                None => match (session..session + sessions)
                    .map(|number| number % sessions)
                    .find(free)
                {
                    Some(session) => session,
                    None => continue,
                },
            };
            let client = &mut clients[client];
            let mut requests = BytesMut::new();
            let syncs = client.encode(step, &mut requests);
            let alone = converse(&mut client.alone, &requests, syncs, 1 << 20).await;
            let borrowed = client.lent.ask(&lent, session, &requests, syncs, cut).await;
            client.in_transaction = alone.last().is_some_and(|(_, body)| body != b"I");
            client.failed = alone.last().is_some_and(|(_, body)| body == b"E");
            let (alone, borrowed) = (shown(&alone), shown(&borrowed));
            if known(&alone, &borrowed) || stays_failed(&alone, &borrowed) {
                return Ok(());
            }
            prop_assert_eq!(alone, borrowed, "turn {}: {:?}", at, step);
        }
        Ok(())
    }
}

fn programs(
    sessions: usize,
    texts: &'static [&'static str],
    known: impl Fn(&[String], &[String]) -> bool,
) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let judge = runtime.block_on(Judge::new());
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    // `PROPTEST_CASES` asks for more.
    let config = ProptestConfig {
        cases: config.cases / 4,
        ..config
    };
    let run = |turns: Vec<Turn>| runtime.block_on(judge.judge(sessions, &turns, &known));
    TestRunner::new(config)
        .run(&turns(texts), run)
        .unwrap_or_else(|failure| panic!("{failure}"));
}

/// In a failed transaction a statement cannot be prepared in front: what is refused anyhow is
/// refused for that reason.
fn stays_failed(alone: &[String], shared: &[String]) -> bool {
    let failed = |answers: &[String]| answers.last().is_some_and(|last| last == "Z E");
    let refused = |answer: &String| answer == "E C25P02";
    alone != shared && failed(alone) && failed(shared) && shared.iter().any(refused)
}

/// The columns of a plan have changed.
fn is_outdated(answers: &[String]) -> bool {
    answers.iter().any(|answer| answer.starts_with("E C0A000"))
}

#[test]
fn clients_share_two_sessions_unseen() {
    programs(2, &SIMPLE, |_, _| false);
}

/// Only the client alone may have the error: it has prepared its statement itself, earlier.
#[test]
fn schema_changes_in_a_shared_session_are_unseen() {
    programs(1, &ALTERING_TOO, |alone, shared| {
        alone != shared && is_outdated(alone) && !is_outdated(shared)
    });
}

/// The error may come to a client that has prepared its statement later, and parameters may have
/// the types that they had before. So may columns that are only described: a Bind is refused.
#[test]
fn schema_changes_elsewhere_give_no_wrong_row() {
    programs(2, &ALTERING_TOO, |alone, shared| {
        let types = |answers: &[String]| {
            let described = answers.iter().filter(|answer| answer.starts_with("t "));
            described.cloned().collect::<Vec<_>>()
        };
        let outdated = is_outdated(alone) || is_outdated(shared);
        let executes = |answer: &String| answer.starts_with("C ") || answer.starts_with("D ");
        let only_described = !shared.iter().any(executes);
        alone != shared && (outdated || only_described || types(alone) != types(shared))
    });
}

const ALTERING_TOO: [&str; SIMPLE.len() + ALTERING.len()] = {
    let mut all = [""; SIMPLE.len() + ALTERING.len()];
    let mut at = 0;
    while at < all.len() {
        all[at] = if at < SIMPLE.len() {
            SIMPLE[at]
        } else {
            ALTERING[at - SIMPLE.len()]
        };
        at += 1;
    }
    all
};
