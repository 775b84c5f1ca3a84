//! Random messages in any order and in pieces, from eight drivers at once: after each invocation
//! nothing is left, and the next one is served.

use antifreeze::invocation;
use bytes::BytesMut;
use futures_util::future::join_all;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::common::{BoxError, PLENTY, lab_with};
use crate::raw::{Raw, query};

/// Rounds of eight programs.
const ROUNDS: usize = 24;

/// One message.
#[derive(Debug, Clone)]
struct Message {
    bytes: Vec<u8>,
    /// It is sent in two pieces.
    cut: Option<usize>,
}

fn message() -> impl Strategy<Value = Message> {
    let texts = || {
        prop::sample::select(vec![
            "select 1",
            "insert into t values (1)",
            "begin",
            "commit",
            "rollback",
            "select 1 / 0",
            "nonsense",
            "",
            "set work_mem = '7MB'",
            "select pg_advisory_lock(7)",
            "create temp table if not exists w (a int)",
            "copy t from stdin",
            "copy t to stdout",
            "select generate_series(1, 20000)",
            "select pg_sleep(0.002)",
            "listen a",
            "deallocate all",
            "discard all",
            "declare c cursor for select 1",
        ])
    };
    let name = || prop::sample::select(vec!["", "a", "b"]);
    let bytes = prop_oneof![
        4 => texts().prop_map(|text| query(text).to_vec()),
        4 => (name(), texts()).prop_map(|(name, text)| {
            written(|out| frontend::parse(name, text, [], out).expect("no NUL"))
        }),
        4 => (name(), name()).prop_map(|(portal, statement)| written(|out| {
            let values = std::iter::empty::<i32>();
            let null = |_, _: &mut BytesMut| Ok(IsNull::Yes);
            let bound = frontend::bind(portal, statement, [], values, null, [], out);
            assert!(bound.is_ok(), "without parameters");
        })),
        2 => (prop::sample::select(vec![b'S', b'P']), name()).prop_map(|(kind, name)| {
            written(|out| frontend::describe(kind, name, out).expect("no NUL"))
        }),
        4 => (name(), prop::sample::select(vec![0, 3])).prop_map(|(portal, rows)| {
            written(|out| frontend::execute(portal, rows, out).expect("no NUL"))
        }),
        2 => (prop::sample::select(vec![b'S', b'P']), name()).prop_map(|(kind, name)| {
            written(|out| frontend::close(kind, name, out).expect("no NUL"))
        }),
        1 => Just(written(frontend::flush)),
        6 => Just(written(frontend::sync)),
        1 => Just(b"d\0\0\0\x061\n".to_vec()),
        1 => Just(written(frontend::copy_done)),
        1 => Just(written(|out| frontend::copy_fail("no", out).expect("no NUL"))),
    ];
    (bytes, prop::option::of(0.0..1.0)).prop_map(|(bytes, cut)| {
        let cut = cut.map(|part: f64| (bytes.len() as f64 * part) as usize);
        Message { bytes, cut }
    })
}

fn written(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    write(&mut out);
    out.to_vec()
}

/// Sends a program, and returns without reading an answer unless it `ends_well`.
async fn run(url: &str, program: &[Message], ends_well: bool) -> Result<(), BoxError> {
    let mut raw = Raw::start(url, &[]).await;
    raw.ready().await;
    for message in program {
        let cut = message.cut.unwrap_or_default();
        let sent = raw.try_send(&message.bytes[..cut]).await;
        tokio::task::yield_now().await;
        if !sent || !raw.try_send(&message.bytes[cut..]).await {
            break;
        }
    }
    if ends_well {
        // Whatever came before: a COPY ends, a Sync is answered, and then the query.
        let mut end = BytesMut::new();
        frontend::copy_fail("the end", &mut end).expect("no NUL");
        frontend::sync(&mut end);
        end.extend_from_slice(&query("rollback; select 'the end'"));
        raw.try_send(&end).await;
        while !raw.answered_with(b"the end").await {}
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_messages_leave_nothing_behind() {
    let lab = lab_with(|config| config.max_connections(3).acquire_timeout(PLENTY)).await;
    let mut runner = TestRunner::deterministic();
    let programs = prop::collection::vec(message(), 0..14);
    for round in 0..ROUNDS {
        let eight: Vec<_> = (0..8)
            .map(|_| programs.new_tree(&mut runner).expect("a program").current())
            .collect();
        let runs = eight.iter().enumerate().map(|(at, program)| {
            lab.run(async move {
                let url = invocation()?.url()?;
                let run = run(&url, program, at % 2 == 0);
                match tokio::time::timeout(PLENTY / 4 * 3, run).await {
                    Ok(done) => done,
                    Err(_) => {
                        let shown: Vec<_> = program
                            .iter()
                            .map(|m| String::from_utf8_lossy(&m.bytes).replace('\0', "~"))
                            .collect();
                        Err(format!("hangs: {at} {shown:?}").into())
                    }
                }
            })
        });
        for ended in join_all(runs).await {
            ended.unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        lab.assert_at_rest().await;
        let locks = "select 1 from pg_locks where locktype = 'advisory' and database = \
                     (select oid from pg_database where datname = current_database())";
        let locks = lab.server.query(locks).await.expect("locks");
        assert!(locks.is_empty(), "round {round}: {eight:?}");
    }
}
