//! What the wire answers itself, what it asks itself, and what it keeps back.

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use antifreeze::internal::wire::{Naming, OwnAnswer, Stream};
use antifreeze::invocation::TransactionStatus;

use super::replay::Link;

const STARTUP: &[u8] = b"\0\0\0\x08\0\x03\0\0";
const READY: &[u8] = b"Z\0\0\0\x05I";
const IN_TRANSACTION: &[u8] = b"Z\0\0\0\x05T";
const FAILED: &[u8] = b"Z\0\0\0\x05E";
const SYNC: &[u8] = b"S\0\0\0\x04";
const FLUSH: &[u8] = b"H\0\0\0\x04";
const BEGUN: &[u8] = b"G\0\0\0\x07\0\0\0";
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
    let naming = if unnamed {
        Naming::Unnamed
    } else {
        Naming::AsGiven
    };
    let mut link = Link::new(cut, naming);
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
        link.write(&[CLOSE, CLOSE, b"H\0\0\0\x04", SYNC].concat());
        assert_eq!(link.take_up(), b"", "nothing is sent");
        assert_eq!(link.take_down(), [CLOSED, CLOSED, READY].concat());
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
        (1, true, [&b"C\0\0\0\x08Ps0\0"[..], SYNC].concat()),
    ] {
        let mut link = started(cut, unnamed);
        link.write(&sent);
        assert_eq!(link.take_up(), sent);
    }
    let mut link = started(100, true);
    link.write(&[&typed("select 1")[..], CLOSE, SYNC].concat());
    assert_eq!(link.take_up(), [&typed("select 1")[..], SYNC].concat());
    link.answer(&[b"1\0\0\0\x042\0\0\0\x04", &message(b'C', b"SELECT 1\0")[..]].concat());
    link.answer(READY);
    assert!(link.take_down().ends_with(&[CLOSED, READY].concat()));
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
    let data = message(b'd', b"1\n");
    let done = [&data[..], b"c\0\0\0\x04", SYNC].concat();
    for (unnamed, cut) in [(true, 1), (true, 100), (false, 100)] {
        let mut link = started(cut, unnamed);
        let copy = typed("copy t from stdin");
        link.write(&[&copy[..], SYNC].concat());
        assert_eq!(link.take_up(), [&copy[..], FLUSH].concat());
        link.answer(BEGUN);
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
    for (sent, answered, completed) in [
        (typed("select 1"), &b""[..], SYNC.to_vec()),
        (copy, BEGUN, [COPY_FAIL, SYNC].concat()),
        // One ReadyForQuery comes for it, and a Sync would ask for another.
        (query("copy t from stdin"), BEGUN, COPY_FAIL.to_vec()),
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

/// The server has begun a COPY, fails before it has read anything, and skips to the next Sync.
#[test]
fn copy_that_fails_at_once_is_answered_once() {
    let copy = [&typed("copy t from stdin")[..], SYNC].concat();
    let rest = [&message(b'd', b"1\n")[..], b"c\0\0\0\x04", SYNC].concat();
    for cut in [1, 7, 100] {
        let mut link = started(cut, false);
        link.write(&copy);
        link.answer(&[BEGUN, ERROR].concat());
        link.write(&[&rest[..], &query("begin")].concat());
        let sent = link.take_up();
        let behind = [FLUSH, &rest, &query("begin")].concat();
        assert!(sent.ends_with(&behind), "no other Sync");
        link.answer(READY);
        assert!(!link.wire().snapshot().is_settled(), "the next one runs");
        link.answer(&[&message(b'C', b"BEGIN\0")[..], IN_TRANSACTION].concat());
        let snapshot = link.wire().snapshot();
        assert!(snapshot.is_settled() && !snapshot.is_at_rest());
        assert_eq!(snapshot.status, Some(TransactionStatus::InTransaction));
    }
}

/// A COPY that the server refuses, and one that needs no data of the client.
#[test]
fn sync_follows_a_copy_without_data() {
    const BOUND: &[u8] = b"1\0\0\0\x042\0\0\0\x04";
    let done = message(b'C', b"COPY 1\0");
    let out = [BOUND, &message(b'H', &[0; 3]), &message(b'd', b"1\n")].concat();
    for (first, then) in [
        (ERROR.to_vec(), vec![]),
        (out, [b"c\0\0\0\x04", &done[..]].concat()),
        ([BOUND, &done].concat(), vec![]),
    ] {
        for (cut, unnamed) in [(1, false), (100, false), (100, true)] {
            let mut link = started(cut, unnamed);
            let copy = typed("copy t to stdout");
            link.write(&[&copy[..], SYNC, &query("select 1")].concat());
            assert_eq!(link.take_up(), [&copy[..], FLUSH].concat());
            link.answer(&first);
            let sent = link.take_up();
            let behind = if unnamed { vec![] } else { query("select 1") };
            assert_eq!(sent, [SYNC, &behind].concat());
            link.answer(&[&then[..], READY].concat());
            assert_eq!(link.take_up().is_empty(), !unnamed);
            link.answer(&[&done[..], READY].concat());
            assert!(link.wire().snapshot().is_at_rest());
            let told = [&first[..], &then, READY, &done, READY].concat();
            assert_eq!(link.take_down(), told);
        }
    }
}

/// Whatever becomes of the COPY, the one Sync behind CopyFail is answered.
#[test]
fn detached_copy_is_ended_at_once() {
    let copy = [&typed("copy t from stdin")[..], SYNC].concat();
    for answer in [[BEGUN, ERROR].concat(), ERROR.to_vec()] {
        // The second time the holder has not sent its Sync.
        for sent in [&copy[..], &copy[..copy.len() - SYNC.len()]] {
            let mut link = started(100, false);
            link.write(sent);
            let wire = link.wire().clone();
            assert_eq!(wire.answered().now_or_never(), None);
            assert!(link.take_up().ends_with(&[COPY_FAIL, SYNC].concat()));
            link.answer(&answer);
            assert_eq!(wire.answered().now_or_never(), None);
            link.answer(READY);
            assert_eq!(wire.answered().now_or_never(), Some(true));
            assert!(wire.snapshot().is_at_rest());
            let told = link.take_down();
            assert_eq!(told.ends_with(READY), sent.len() == copy.len());
        }
    }
}

/// It ends the request in front of the COPY, and all that follow.
#[test]
fn session_ends_before_a_copy_has_begun() {
    let mut link = started(100, false);
    let copy = [&typed("copy t from stdin")[..], SYNC].concat();
    link.write(&[&query("select 1")[..], &copy].concat());
    link.answer(b"E\0\0\0\x18SFATAL\0C57P01\0Mend\0\0");
    assert!(link.wire().snapshot().is_dismissed());
    let told = link.take_down();
    assert_eq!(told.windows(5).filter(|part| part == b"57P01").count(), 2);
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

/// An answer without rows and without an error.
fn is_empty(answer: OwnAnswer) -> bool {
    answer.rows.is_empty() && answer.error.is_none()
}

#[test]
fn question_waits_for_no_request_to_end() {
    let copy = [&typed("copy t from stdin")[..], SYNC].concat();
    for (sent, answered) in [
        (typed("select 1"), &b""[..]),
        (query("select 1"), b""),
        (query("copy t from stdin"), BEGUN),
        (copy.clone(), b""),
        (copy, BEGUN),
        (b"Q\0\0\0\x0aselec".to_vec(), b""),
        (b"S\0\0".to_vec(), b""),
    ] {
        let mut link = started(100, false);
        link.write(&sent);
        link.answer(answered);
        link.take_up();
        let shown = sent.escape_ascii();
        assert!(link.wire().question("select 1", false).is_none(), "{shown}");
        link.write(b"");
        assert_eq!(link.take_up(), b"", "{shown}");
    }
    // The answer to a Close is in flight, and those to questions of our own.
    let mut link = started(100, false);
    link.write(&[CLOSE, SYNC].concat());
    let first = link.wire().question("ROLLBACK", true).expect("asked");
    assert!(!link.wire().snapshot().is_settled());
    let second = link.wire().question("select 1", false).expect("asked");
    link.write(b"");
    let expected = [CLOSE, SYNC, &query("ROLLBACK")[..], &query("select 1")];
    assert_eq!(link.take_up(), expected.concat());
    link.answer(&[CLOSED, READY, READY].concat());
    assert!(link.wire().snapshot().is_settled());
    assert!(first.now_or_never().flatten().is_some_and(is_empty));
    assert!(second.now_or_never().is_none());
    assert_eq!(link.take_down(), [CLOSED, READY].concat());
}

/// Notices and parameters are the connection's, whatever they are the answer to.
#[test]
fn question_leaves_no_trace() {
    let parameter = message(b'S', b"TimeZone\0UTC\0");
    let notice = message(b'N', b"SWARNING\0C25P01\0\0");
    for cut in [1, 3, 100] {
        let mut link = started(cut, false);
        let asked = link.wire().question("RESET ALL", true).expect("asked");
        link.write(b"");
        link.write(&query("select 1"));
        let tag = message(b'C', b"RESET\0");
        link.answer(&[&parameter, &tag, &notice, ERROR, FAILED, ERROR, READY].concat());
        let answer = asked.now_or_never().flatten().expect("an answer");
        assert_eq!(answer.error.as_deref(), Some("57014"));
        let down = [&parameter, &notice, ERROR, READY].concat();
        assert_eq!(link.take_down(), down, "cut at {cut}");
        assert!(link.wire().snapshot().is_at_rest());
    }
}

#[test]
fn question_without_an_answer_fails() {
    let fatal = message(b'E', b"SFATAL\0C57P01\0Mend\0\0");
    let lost = b"Z\0\0\0\0".to_vec();
    for (answered, dismissed) in [(fatal, true), (lost, false)] {
        let mut link = started(100, false);
        let asked = link.wire().question("select 1", false).expect("asked");
        link.write(b"");
        link.answer(&answered);
        drop(link.wire().question("select 1", false));
        assert_eq!(link.wire().snapshot().is_dismissed(), dismissed);
        assert!(matches!(asked.now_or_never(), Some(None)));
    }
}

#[test]
fn question_is_answered_after_detaching() {
    let mut link = started(100, false);
    let asked = link.wire().question("ROLLBACK", true).expect("asked");
    link.write(&query("select 1"));
    let wire = link.wire().clone();
    wire.detach();
    assert!(wire.question("select 1", false).is_none());
    link.answer(&[READY, IN_TRANSACTION].concat());
    assert_eq!(wire.answered().now_or_never(), Some(true));
    assert!(asked.now_or_never().flatten().is_some_and(is_empty));
    assert_eq!(
        wire.snapshot().status,
        Some(TransactionStatus::InTransaction)
    );
    let told = link.take_down();
    assert!(told.starts_with(b"E") && told.ends_with(READY));
    let errors = told.windows(5).filter(|bytes| bytes == b"C0800");
    assert_eq!(errors.count(), 1, "only the client's request is answered");
}

/// What the stream of an old client answers.
async fn asked(stream: &mut Stream, request: &[u8]) -> Vec<u8> {
    stream.write_all(request).await.expect("taken");
    let mut answer = vec![0; 1_000];
    let read = stream.read(&mut answer).await.expect("an answer");
    answer.truncate(read);
    answer
}

#[tokio::test]
async fn new_client_is_told_what_the_server_reported() {
    let long = [b"search_path\0".as_slice(), &[b'a'; 200], b"\0"].concat();
    let zone = |zone: &str| message(b'S', format!("TimeZone\0{zone}\0").as_bytes());
    let (ok, key) = (message(b'R', &[0; 4]), message(b'K', &[7; 8]));
    let path = message(b'S', &long);
    for cut in [1, 3, 100] {
        let mut link = Link::new(cut, Naming::AsGiven);
        link.write(STARTUP);
        link.answer(&[&ok, &path, &zone("UTC"), &key, READY].concat());
        link.write(&query("set timezone = 'CET'; begin"));
        link.answer(&[&zone("CET"), IN_TRANSACTION].concat());
        link.take_up();
        let wire = link.wire().clone();
        assert!(link.attach().is_none(), "it has a client");
        wire.detach();
        assert!(link.attach().is_none(), "it is in a transaction");
        wire.ask("rollback");
        assert!(link.attach().is_none(), "it is not answered");
        link.answer(READY);
        assert!(wire.answered().await);
        link.take_up();
        let mut old = link.attach().expect("a stream");
        // Its startup packet, however it is cut, stays here.
        link.write(STARTUP);
        assert_eq!(link.take_up(), b"", "cut at {cut}");
        let told = [&ok, &zone("CET"), &path, &key, READY].concat();
        assert_eq!(link.take_down(), told, "cut at {cut}");
        assert!(wire.snapshot().is_at_rest());
        // Each of the two gets its own answers.
        link.write(&query("begin"));
        let ended = asked(&mut old, &query("select 1")).await;
        assert!(ended.starts_with(b"E") && ended.ends_with(READY));
        assert_eq!(link.take_up(), query("begin"));
        link.answer(IN_TRANSACTION);
        assert_eq!(link.take_down(), IN_TRANSACTION);
        assert_eq!(asked(&mut old, SYNC).await, ended);
        assert!(wire.snapshot().status == Some(TransactionStatus::InTransaction));
    }
}

#[tokio::test]
async fn old_clients_outlive_newer_ones() {
    let mut link = started(100, false);
    let wire = link.wire().clone();
    let mut olds = Vec::new();
    for _ in 0..3 {
        link.write(&query("select 1"));
        wire.detach();
        link.answer(READY);
        assert!(wire.answered().await);
        olds.push(link.attach().expect("a stream"));
        link.write(STARTUP);
    }
    for mut old in olds {
        let ended = asked(&mut old, &query("select 2")).await;
        let errors = ended.windows(5).filter(|bytes| bytes == b"C0800");
        assert_eq!(errors.count(), 1, "what it had asked before was answered");
    }
    link.write(&query("select 3"));
    link.answer(READY);
    assert!(link.take_down().ends_with(READY) && wire.snapshot().is_at_rest());
    wire.terminate();
    assert!(link.attach().is_none(), "it has ended");
}

/// The client stands in the middle of a row, and could not understand an answer.
#[tokio::test]
async fn old_client_in_a_message_gets_the_end_of_file() {
    let mut link = started(100, false);
    let wire = link.wire().clone();
    link.write(&query("select 1"));
    link.answer(b"D\0\0\0\x0b\0\x01");
    wire.detach();
    link.answer(&[b"\0\0\0\x011", READY].concat());
    assert!(wire.answered().await);
    let mut old = link.attach().expect("a stream");
    assert_eq!(asked(&mut old, &query("select 2")).await, b"");
}
