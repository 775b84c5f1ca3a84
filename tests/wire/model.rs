//! A model of a server, to show that the rewrites cannot be seen: whatever
//! tokio-postgres sends through a rewriting wire, it is answered as if nothing had
//! been rewritten, and as if every statement were inside a transaction.

// With its path, since the fuzz targets take this file by its path.
#[path = "model_server.rs"]
mod server;

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use antifreeze::internal::wire::{Naming, OwnAnswer};
use bytes::BytesMut;
use postgres_protocol::message::frontend;

use super::replay::{Link, Mode};
use server::{Model, Status};

/// What a client may do under one sync point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A simple query of one or more statements.
    Simple(&'static str),
    /// Parse, Describe, Sync of a named statement.
    Prepare(&'static str),
    /// Bind, Execute, Sync of the statement prepared so many prepares ago, in another
    /// group.
    Execute(usize),
    /// Bind, Execute of two such statements, under one Sync.
    Both(usize, usize),
    /// Parse, Bind, Describe, Execute, Sync, unnamed.
    Typed(&'static str),
    /// Close, Sync of such a statement.
    Close(usize),
    /// COPY FROM STDIN by a statement that was prepared before anything else. Like an
    /// end of the transaction it is not pipelined with others.
    CopyIn(Copy),
    /// Sync.
    Sync,
}

/// What becomes of a COPY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// Data, then CopyDone.
    Done,
    /// Data that the server refuses.
    Bad,
    /// CopyFail, when the server waits for data.
    Failed,
    /// CopyFail, before the server has answered.
    Early,
}

/// All of them.
pub const COPIES: [Copy; 4] = [Copy::Done, Copy::Bad, Copy::Failed, Copy::Early];

/// Texts that a program is made of. `fail` fails when it is executed, `nonsense` when
/// it is parsed.
pub const TEXTS: [&str; 8] = [
    "select 1",
    "select 2; select 3",
    "",
    "  ",
    "nonsense",
    "select nonsense",
    "fail",
    "select 1; fail; select 2",
];

/// Texts that end a transaction, and must not be pipelined with others.
pub const ENDS: [&str; 3] = ["commit", "rollback", "select 1; commit"];

/// Runs groups of pipelined units through a wire and a model server, cut into pieces
/// of `cut` bytes, and compares with a server that begins by itself.
///
/// # Panics
///
/// When the client could tell the difference, or when a statement ran outside the
/// transaction that was to be begun for it.
pub fn rewrites_cannot_be_seen(groups: &[Vec<Unit>], cut: usize, mode: Mode) {
    let mode = Mode {
        // A BEGIN that is sent later is refused later.
        refused: match mode.naming {
            Naming::ByContent { .. } => 0,
            _ => mode.refused,
        },
        ..mode
    };
    let mut plain = Model {
        begins: mode.armed,
        refuses: mode.refused,
        ..Model::default()
    };
    let mut behind = Model {
        insists: mode.armed,
        refuses: mode.refused,
        ..Model::default()
    };
    let mut link = Link::new(cut, mode.naming);
    let mut prepared = 0;

    let mut startup = BytesMut::new();
    let user = [("user", "u")];
    frontend::startup_message(user, &mut startup).expect("no NUL");
    exchange(&mut link, &mut behind, &startup);
    let started = link.take_down();
    assert_eq!(started, plain.answers(&startup), "the start");
    let mut copy = BytesMut::new();
    frontend::parse("copy", "copy", [], &mut copy).expect("no NUL");
    frontend::sync(&mut copy);
    plain.begins = false;
    plain.answers(&copy);
    plain.begins = mode.armed;
    exchange(&mut link, &mut behind, &copy);
    link.take_down();
    if mode.armed {
        link.wire().arm("BEGIN");
    }
    for group in groups {
        let mut bytes = BytesMut::new();
        // tokio-postgres uses a statement when it knows that it was prepared.
        let known = prepared;
        for &unit in group {
            encode(unit, known, &mut prepared, &mut bytes);
        }
        // It sends data when it knows that the server waits for them.
        let parts = match group[..] {
            [Unit::CopyIn(copy)] => vec![bytes, data(copy)],
            _ => vec![bytes],
        };
        for bytes in parts {
            link.write(&bytes);
            // It is answered to the asker, or not asked where it would disturb.
            let asked = mode.asks.then(|| link.wire().question("own", false));
            exchange(&mut link, &mut behind, &[]);
            let asked = asked.flatten();
            assert!(asked.is_none_or(|asked| answer_of(asked).is_some()));
            let seen = link.take_down();
            let expected = plain.answers(&bytes);
            if is_unbegun(&shown(&seen), &shown(&expected), mode) {
                return;
            }
            let shown = |bytes| told(shown(bytes), mode);
            assert_eq!(
                shown(&seen),
                shown(&expected),
                "{group:?} cut at {cut}, {mode:?}"
            );
        }
        let snapshot = link.wire().snapshot();
        assert!(snapshot.is_settled(), "{group:?}: {snapshot:?}");
        if mode.asks {
            asks(&mut link, &mut behind);
        }
    }
}

/// The answer, which is there by now.
fn answer_of(asked: impl Future<Output = Option<OwnAnswer>>) -> Option<OwnAnswer> {
    match pin!(asked).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => None,
    }
}

/// Asks while the client waits for nothing.
fn asks(link: &mut Link, server: &mut Model) {
    let asked = link.wire().question("own", false).expect("it is settled");
    exchange(link, server, &[]);
    let answer = answer_of(asked).expect("an answer");
    let failed = server.status == Status::Failed;
    let rows = [vec![Some("1".to_owned())]];
    assert_eq!(answer.rows.is_empty(), failed);
    assert!(failed || answer.rows == rows);
    assert_eq!(answer.error.as_deref(), failed.then_some("42601"));
    assert_eq!(shown(&link.take_down()), [""; 0], "the client sees nothing");
}

/// Lets bytes go back and forth until nothing moves.
fn exchange(link: &mut Link, server: &mut Model, bytes: &[u8]) {
    link.write(bytes);
    loop {
        let sent = link.take_up();
        if sent.is_empty() {
            return;
        }
        let answers = server.answers(&sent);
        link.answer(&answers);
    }
}

fn encode(unit: Unit, known: usize, prepared: &mut usize, out: &mut BytesMut) {
    let none = std::iter::empty::<u32>;
    let name = |back: usize| format!("s{}", known.wrapping_sub(back + 1));
    let bind = |name: &str, out: &mut BytesMut| {
        let values = std::iter::empty::<()>();
        let value = |(), _: &mut BytesMut| Ok(postgres_protocol::IsNull::Yes);
        let _ = frontend::bind("", name, [], values, value, [1], out);
    };
    let encoded = match unit {
        Unit::Simple(text) => return frontend::query(text, out).expect("no NUL"),
        Unit::Prepare(text) => {
            let name = format!("s{prepared}");
            *prepared += 1;
            frontend::parse(&name, text, none(), out)
                .and_then(|()| frontend::describe(b'S', &name, out))
        }
        Unit::Execute(back) => {
            bind(&name(back), out);
            frontend::execute("", 0, out)
        }
        Unit::Both(first, second) => {
            bind(&name(first), out);
            let executed = frontend::execute("", 0, out);
            bind(&name(second), out);
            executed.and_then(|()| frontend::execute("", 0, out))
        }
        Unit::Typed(text) => frontend::parse("", text, none(), out).and_then(|()| {
            bind("", out);
            frontend::describe(b'S', "", out)?;
            frontend::execute("", 0, out)
        }),
        Unit::CopyIn(copy) => {
            bind("copy", out);
            let encoded = frontend::execute("", 0, out);
            if copy == Copy::Early {
                frontend::sync(out);
                let _ = frontend::copy_fail("dropped", out);
            }
            encoded
        }
        Unit::Close(back) => frontend::close(b'S', &name(back), out),
        Unit::Sync => Ok(()),
    };
    encoded.expect("no NUL");
    frontend::sync(out);
}

/// What follows the beginning of a COPY, even one that has failed.
fn data(copy: Copy) -> BytesMut {
    let mut out = BytesMut::new();
    let text: &[u8] = match copy {
        Copy::Bad => b"bad",
        _ => b"1",
    };
    match copy {
        Copy::Early => return out,
        Copy::Failed => frontend::copy_fail("given up", &mut out).expect("no NUL"),
        _ => {
            let data = frontend::CopyData::new(text).expect("small");
            data.write(&mut out);
            frontend::copy_done(&mut out);
        }
    }
    frontend::sync(&mut out);
    out
}

/// Returns whether a text that cannot be parsed was refused together with the BEGIN in front of
/// it, since what came before was answered by the wire. The wire notes that the transaction has
/// failed, and the server has begun none.
fn is_unbegun(seen: &[String], expected: &[String], mode: Mode) -> bool {
    let same = |one: &String, other: &String| {
        told(vec![one.clone()], mode) == told(vec![other.clone()], mode)
    };
    let mut pairs = seen.iter().zip(expected);
    let first = pairs.find(|(seen, expected)| !same(seen, expected));
    let by_content = matches!(mode.naming, Naming::ByContent { .. });
    let unbegun = |(seen, expected): (&String, &String)| {
        seen.starts_with('Z') && seen.ends_with("05I") && expected.ends_with("05E")
    };
    mode.armed && by_content && first.is_some_and(unbegun)
}

/// What is the same to a client for which BEGIN is sent with the first message that is not
/// answered by the wire.
fn told(mut shown: Vec<String>, mode: Mode) -> Vec<String> {
    if mode.armed && matches!(mode.naming, Naming::ByContent { .. }) {
        for message in shown.iter_mut().filter(|message| message.starts_with('Z')) {
            *message = message.replace("05I", "05T");
        }
    }
    shown
}

/// Messages as text, for a difference that can be read.
fn shown(mut bytes: &[u8]) -> Vec<String> {
    let mut shown = Vec::new();
    while let Some((head, _)) = bytes.split_at_checked(5) {
        let length = u32::from_be_bytes(head[1..].try_into().expect("four bytes")) as usize;
        let Some((message, rest)) = bytes.split_at_checked(1 + length) else {
            break;
        };
        shown.push(message.escape_ascii().to_string());
        bytes = rest;
    }
    if !bytes.is_empty() {
        shown.push(format!("a part: {}", bytes.escape_ascii()));
    }
    shown
}
