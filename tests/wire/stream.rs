//! What the wire answers itself, what it asks itself, and what it keeps back.

use futures_util::FutureExt;

use antifreeze::invocation::TransactionStatus;

use super::replay::Link;

const STARTUP: &[u8] = b"\0\0\0\x08\0\x03\0\0";
const READY: &[u8] = b"Z\0\0\0\x05I";
const IN_TRANSACTION: &[u8] = b"Z\0\0\0\x05T";
const FAILED: &[u8] = b"Z\0\0\0\x05E";
const SYNC: &[u8] = b"S\0\0\0\x04";
const ERROR: &[u8] = b"E\0\0\0\x0cC57014\0\0";
const CLOSE: &[u8] = b"C\0\0\0\x08Ss0\0";
const CLOSED: &[u8] = b"3\0\0\0\x04";
const TERMINATE: &[u8] = b"X\0\0\0\x04";
const COPY_FAIL: &[u8] = b"f\0\0\0\x05\0";

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(4 + body.len()).expect("short");
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

/// Parse, Bind, Execute of an unnamed statement.
fn typed(sql: &str) -> Vec<u8> {
    let parse = message(b'P', &[b"\0", sql.as_bytes(), b"\0\0\0"].concat());
    let bind = message(b'B', &[0; 8]);
    let execute = message(b'E', &[0; 5]);
    [parse, bind, execute].concat()
}

/// After its start.
fn started(cut: usize, unnamed: bool) -> Link {
    let mut link = Link::new(cut, unnamed);
    link.write(STARTUP);
    link.answer(READY);
    link.take_up();
    link.take_down();
    link
}

#[test]
fn close_is_answered_locally_in_turn() {
    for cut in [1, 3, 5, 100] {
        let mut link = started(cut, true);
        link.write(&[CLOSE, SYNC].concat());
        assert_eq!(link.take_up(), b"", "nothing is sent");
        assert_eq!(link.take_down(), [CLOSED, READY].concat());
        link.write(&query("begin"));
        link.write(&[CLOSE, SYNC, CLOSE, SYNC].concat());
        assert_eq!(link.take_up(), query("begin"));
        assert_eq!(link.take_down(), b"", "it is not its turn");
        link.answer(IN_TRANSACTION);
        let both = [IN_TRANSACTION, CLOSED, IN_TRANSACTION].concat();
        let expected = [&both[..], CLOSED, IN_TRANSACTION].concat();
        assert_eq!(link.take_down(), expected, "cut at {cut}");
        assert!(link.wire().snapshot().is_settled());
    }
}

#[test]
fn close_beside_other_messages_is_sent() {
    for (cut, unnamed, sent) in [
        (1, false, [CLOSE, SYNC].concat()),
        (100, true, [CLOSE, CLOSE, SYNC].concat()),
        (100, true, [&typed("select 1")[..], CLOSE, SYNC].concat()),
        (1, true, [CLOSE, b"H\0\0\0\x04", SYNC].concat()),
        (1, true, [&b"C\0\0\0\x08Ps0\0"[..], SYNC].concat()),
    ] {
        let mut link = started(cut, unnamed);
        link.write(&sent);
        assert_eq!(link.take_up(), sent);
    }
}

/// The half of a notice, as the server sends it at any time.
#[test]
fn close_is_not_answered_inside_a_message() {
    let notice = message(b'N', b"SNOTICE\0\0");
    let (first, second) = notice.split_at(7);
    let mut link = started(100, true);
    link.answer(first);
    link.write(&[CLOSE, SYNC].concat());
    assert_eq!(link.take_down(), first);
    link.answer(second);
    assert_eq!(link.take_down(), [second, CLOSED, READY].concat());
}

#[test]
fn nothing_is_sent_behind_a_copy_through_a_pooler() {
    let begun = b"G\0\0\0\x07\0\0\0";
    let data = message(b'd', b"1\n");
    let done = [&data[..], b"c\0\0\0\x04", SYNC].concat();
    for (unnamed, cut) in [(true, 1), (true, 100), (false, 100)] {
        let mut link = started(cut, unnamed);
        let copy = [&typed("copy t from stdin")[..], SYNC].concat();
        link.write(&copy);
        assert_eq!(link.take_up(), copy);
        link.answer(begun);
        link.write(&done);
        assert_eq!(link.take_up(), done, "data does not wait");
        link.write(&query("select 1"));
        let waits = link.take_up();
        link.answer(&[&message(b'C', b"COPY 1\0")[..], READY].concat());
        let sent = link.take_up();
        let (first, then) = if unnamed {
            (vec![], query("select 1"))
        } else {
            (query("select 1"), vec![])
        };
        assert_eq!((waits, sent), (first, then), "unnamed {unnamed}");
        link.answer(READY);
        assert!(link.wire().snapshot().is_at_rest());
    }
}

#[test]
fn own_question_is_invisible_to_the_client() {
    for cut in [1, 100] {
        let mut link = started(cut, false);
        link.write(&query("begin; select pg_sleep(60)"));
        link.take_up();
        let wire = link.wire().clone();
        wire.detach();
        assert_eq!(link.take_up(), b"", "the server is not told");
        link.write(&query("insert into t values (1)"));
        assert_eq!(wire.answered().now_or_never(), None);
        link.answer(&[ERROR, FAILED].concat());
        assert_eq!(wire.answered().now_or_never(), Some(true));
        assert_eq!(wire.snapshot().status, Some(TransactionStatus::Failed));
        wire.ask("ROLLBACK");
        assert_eq!(link.take_up(), query("ROLLBACK"), "and nothing else");
        link.answer(&[&message(b'C', b"ROLLBACK\0")[..], READY].concat());
        assert_eq!(wire.answered().now_or_never(), Some(true));
        assert!(wire.snapshot().is_at_rest());
        wire.terminate();
        assert_eq!(link.take_up(), TERMINATE);
        assert!(wire.terminated_at_rest());
        // Both of the holder's were told the same, and nothing of ours.
        let told = link.take_down();
        let (one, another) = told.split_at(told.len() / 2);
        assert_eq!(one, another);
        assert!(one.ends_with(READY) && one[0] == b'E');
    }
}

#[test]
fn begun_message_is_completed() {
    let copy = [&typed("copy t from stdin")[..], SYNC].concat();
    let begun: &[u8] = b"G\0\0\0\x07\0\0\0";
    for (sent, answered, completed) in [
        (typed("select 1"), &b""[..], SYNC.to_vec()),
        (copy, begun, [COPY_FAIL, SYNC].concat()),
        // One ReadyForQuery comes for it, and a Sync would ask for another.
        (query("copy t from stdin"), begun, COPY_FAIL.to_vec()),
    ] {
        let mut link = started(100, false);
        link.write(&sent);
        link.answer(answered);
        link.take_up();
        let wire = link.wire().clone();
        wire.detach();
        assert_eq!(link.take_up(), completed);
        link.answer(&[ERROR, READY].concat());
        assert_eq!(wire.answered().now_or_never(), Some(true));
        assert!(wire.snapshot().is_at_rest());
    }
}

/// Terminate would come behind all of it; the end of file comes in its middle.
#[test]
fn unsent_messages_are_dropped_at_the_end() {
    let mut link = started(100, false);
    link.let_in(0);
    link.write(&query(&" ".repeat(64 * 1024)));
    let wire = link.wire().clone();
    wire.terminate();
    link.let_in(usize::MAX);
    assert_eq!(wire.closed().now_or_never(), None);
    assert_eq!(link.take_up(), b"");
    assert!(!wire.terminated_at_rest());
}
