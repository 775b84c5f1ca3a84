//! What others do to the session's statements, and what is sent again.

use bytes::BytesMut;
use lab::postgres::{Database, Postgres};
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;

use super::raw::{Borrower, Session, shown};

const TEXT: &str = "select * from t";
const NUMBERS: &str = "T \\x00\\x01a";
const OUTDATED: &str = "E C0A000";

/// A database and a session of it.
struct Shared {
    database: Database,
    sessions: Vec<Session>,
}

impl Shared {
    async fn new() -> Shared {
        let server = Postgres::shared().await.expect("a server");
        let database = server.fresh_database().await.expect("a database");
        let tables = "create table t (a int); insert into t values (1); \
            create function forget() returns int language plpgsql as \
            $$ begin execute 'deallocate all'; return 1; end $$";
        database.execute(tables).await.expect("a table");
        let sessions = vec![Session::open(&database).await];
        Shared { database, sessions }
    }

    async fn ask(&self, client: &mut Borrower, requests: &BytesMut) -> Vec<String> {
        let answers = client.ask(&self.sessions, 0, requests, 1, 1 << 20).await;
        shown(&answers)
    }

    async fn simple(&self, client: &mut Borrower, sql: &str) -> Vec<String> {
        let mut requests = BytesMut::new();
        frontend::query(sql, &mut requests).expect("no NUL");
        self.ask(client, &requests).await
    }

    async fn alter(&self) {
        let sql = "alter table t add column b int default 2";
        self.database.execute(sql).await.expect("altered");
    }
}

fn parse(text: &str, describes: bool) -> BytesMut {
    let mut out = BytesMut::new();
    frontend::parse("s0", text, [], &mut out).expect("no NUL");
    if describes {
        frontend::describe(b'S', "s0", &mut out).expect("no NUL");
    }
    frontend::sync(&mut out);
    out
}

/// Bind, Describe of the portal, Execute.
fn execute() -> BytesMut {
    let mut out = BytesMut::new();
    let value = |(), _: &mut BytesMut| Ok(IsNull::Yes);
    assert!(frontend::bind("", "s0", [], [], value, [0], &mut out).is_ok());
    frontend::describe(b'P', "", &mut out).expect("no NUL");
    frontend::execute("", 0, &mut out).expect("no NUL");
    frontend::sync(&mut out);
    out
}

fn close() -> BytesMut {
    let mut out = BytesMut::new();
    frontend::close(b'S', "s0", &mut out).expect("no NUL");
    frontend::sync(&mut out);
    out
}

#[tokio::test]
async fn forgotten_statement_is_prepared_again() {
    let shared = Shared::new().await;
    let (mut first, mut second) = (Borrower::default(), Borrower::default());
    shared.ask(&mut first, &parse(TEXT, true)).await;
    let alone = shared.ask(&mut first, &execute()).await;
    shared.simple(&mut first, "select forget()").await;
    let described = shared.ask(&mut second, &parse(TEXT, true)).await;
    assert!(described[2].starts_with(NUMBERS), "{described:?}");
    assert_eq!(shared.ask(&mut second, &execute()).await, alone);
    assert_eq!(shared.ask(&mut second, &execute()).await, alone);
}

#[tokio::test]
async fn changed_columns_reach_who_was_told_none() {
    let shared = Shared::new().await;
    let (mut first, mut second) = (Borrower::default(), Borrower::default());
    shared.ask(&mut first, &parse(TEXT, true)).await;
    shared.alter().await;
    shared.ask(&mut second, &parse(TEXT, false)).await;
    let answers = shared.ask(&mut second, &execute()).await;
    assert!(answers[1].starts_with("T \\x00\\x02a"), "{answers:?}");
    assert_eq!(answers[0], "2 ");
    assert_eq!(answers.last().map(String::as_str), Some("Z I"));
    // The first has its own, which the server refuses as it would alone.
    assert_eq!(shared.ask(&mut first, &execute()).await, [OUTDATED, "Z I"]);
}

#[tokio::test]
async fn changed_columns_are_an_error_once() {
    let shared = Shared::new().await;
    let (mut first, mut second) = (Borrower::default(), Borrower::default());
    shared.ask(&mut first, &parse(TEXT, true)).await;
    shared.alter().await;
    let described = shared.ask(&mut second, &parse(TEXT, true)).await;
    assert!(described[2].starts_with(NUMBERS), "{described:?}");
    assert_eq!(shared.ask(&mut second, &execute()).await, [OUTDATED, "Z I"]);
    shared.ask(&mut second, &close()).await;
    let described = shared.ask(&mut second, &parse(TEXT, true)).await;
    assert!(described[2].starts_with("T \\x00\\x02a"), "{described:?}");
    let answers = shared.ask(&mut second, &execute()).await;
    assert_eq!(answers.len(), 5, "{answers:?}");
}

#[tokio::test]
async fn nothing_is_sent_again_in_a_transaction() {
    let shared = Shared::new().await;
    let (mut first, mut second) = (Borrower::default(), Borrower::default());
    shared.ask(&mut first, &parse(TEXT, true)).await;
    shared.alter().await;
    shared.simple(&mut second, "begin").await;
    shared.ask(&mut second, &parse(TEXT, false)).await;
    assert_eq!(shared.ask(&mut second, &execute()).await, [OUTDATED, "Z E"]);
    shared.simple(&mut second, "rollback").await;
}

/// The server has refused to deallocate it, as the transaction had failed.
#[tokio::test]
async fn statement_survives_a_failed_deallocate() {
    let shared = Shared::new().await;
    let mut client = Borrower::default();
    shared.ask(&mut client, &parse(TEXT, true)).await;
    let alone = shared.ask(&mut client, &execute()).await;
    let mut requests = BytesMut::new();
    for sql in ["begin", "select 1 / 0", "deallocate s0", "rollback"] {
        frontend::query(sql, &mut requests).expect("no NUL");
    }
    let sessions = &shared.sessions;
    let answers = client.ask(sessions, 0, &requests, 4, 1 << 20).await;
    assert!(
        shown(&answers).contains(&"E C25P02".to_owned()),
        "{answers:?}"
    );
    assert_eq!(shared.ask(&mut client, &execute()).await, alone);
    shared.simple(&mut client, "deallocate s0").await;
    assert_eq!(
        shared.ask(&mut client, &execute()).await,
        ["E C26000", "Z I"]
    );
}

/// What a client has closed is kept for others, but not more than a session is to keep.
#[tokio::test]
async fn unused_statements_are_closed() {
    let shared = Shared::new().await;
    let mut client = Borrower::default();
    for number in 0..150 {
        let text = format!("select {number}");
        shared.ask(&mut client, &parse(&text, true)).await;
        shared.ask(&mut client, &close()).await;
    }
    let count = "select count(*) from pg_prepared_statements";
    shared.ask(&mut client, &parse(count, true)).await;
    let answers = shared.ask(&mut client, &execute()).await;
    assert!(answers[2].ends_with("100"), "{answers:?}");
}
