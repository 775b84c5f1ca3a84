//! What is answered here once the session has prepared a text.

use antifreeze::internal::wire::Naming;
use bytes::BytesMut;
use postgres_protocol::message::frontend;

use super::replay::Link;

const READY: &[u8] = b"Z\0\0\0\x05I";
const SYNC: &[u8] = b"S\0\0\0\x04";
const PARSED: &[u8] = b"1\0\0\0\x04";
const DESCRIBED: &[u8] = b"t\0\0\0\x06\0\0n\0\0\0\x04";

fn started(cut: usize, answers_sync: bool) -> Link {
    let mut link = Link::new(cut, Naming::ByContent { answers_sync });
    link.write(b"\0\0\0\x08\0\x03\0\0");
    link.answer(READY);
    link.take_up();
    link.take_down();
    link
}

/// Parse, Describe, Sync.
fn prepare(name: &str) -> BytesMut {
    let mut out = BytesMut::new();
    frontend::parse(name, "select 1", [], &mut out).expect("no NUL");
    frontend::describe(b'S', name, &mut out).expect("no NUL");
    frontend::sync(&mut out);
    out
}

#[test]
fn sync_alone_is_answered_where_asked_for() {
    for cut in [1, 100] {
        let mut link = started(cut, true);
        link.write(&[SYNC, SYNC].concat());
        assert_eq!(link.take_up(), b"");
        assert_eq!(link.take_down(), [READY, READY].concat());
        // It is not its turn.
        link.write(b"Q\0\0\0\x05\0");
        link.write(SYNC);
        assert!(link.take_up().ends_with(SYNC));
        let mut link = started(cut, false);
        link.write(SYNC);
        assert_eq!(link.take_up(), SYNC);
    }
}

#[test]
fn sync_alone_is_sent_once_the_session_has_ended() {
    let mut link = started(100, true);
    link.wire().terminate();
    link.write(SYNC);
    assert_ne!(link.take_down(), READY);
}

#[test]
fn known_text_does_not_take_the_begin() {
    for cut in [1, 7, 100] {
        let mut link = started(cut, true);
        link.write(&prepare("a"));
        assert!(link.take_up().starts_with(b"P"));
        link.answer(&[PARSED, DESCRIBED, READY].concat());
        link.take_down();
        link.wire().arm("BEGIN");
        link.write(&prepare("b"));
        assert_eq!(link.take_up(), b"", "cut at {cut}");
        assert_eq!(link.take_down(), [PARSED, DESCRIBED, READY].concat());
        assert!(link.wire().snapshot().is_at_rest());
        let mut bind = BytesMut::new();
        let value = |(), _: &mut BytesMut| Ok(postgres_protocol::IsNull::Yes);
        assert!(frontend::bind("", "b", [], [], value, [], &mut bind).is_ok());
        link.write(&bind);
        let sent = link.take_up();
        assert!(sent.starts_with(b"P\0\0\0\x0d\0BEGIN\0"), "cut at {cut}");
        let named = sent.windows(11).any(|name| name == b"antifreeze_");
        assert!(named, "cut at {cut}");
    }
}

/// A name is free once the server has said so. Whatever fails in front, it answers the client.
#[test]
fn failed_deallocate_keeps_the_name() {
    let failed: &[u8] = b"E\0\0\0\x0cC57014\0\0";
    let missing: &[u8] = b"E\0\0\0\x0cC26000\0\0";
    let closed: &[u8] = b"3\0\0\0\x04";
    let done: &[u8] = b"C\0\0\0\x0fDEALLOCATE\0";
    for (in_front, answer, freed) in [
        (vec![failed], missing, false),
        (vec![closed, failed], missing, false),
        (vec![closed, PARSED], failed, false),
        (vec![closed, PARSED], done, true),
    ] {
        let mut link = started(100, true);
        link.write(&prepare("a"));
        link.answer(&[PARSED, DESCRIBED, READY].concat());
        link.take_up();
        link.take_down();
        let mut request = BytesMut::new();
        frontend::query("deallocate a", &mut request).expect("no NUL");
        link.write(&request);
        assert!(link.take_up().ends_with(&[SYNC, &request].concat()));
        link.answer(&[&in_front.concat(), READY, answer, READY].concat());
        assert_eq!(link.take_down(), [answer, READY].concat());
        let mut describe = BytesMut::new();
        frontend::describe(b'S', "a", &mut describe).expect("no NUL");
        link.write(&describe);
        let asked = !link.take_up().is_empty();
        assert_eq!(asked, freed, "{in_front:?} {answer:?}");
    }
}

/// As a driver does that prepares every statement: DEALLOCATE runs in the unit after its Parse.
#[test]
fn prepared_deallocate_frees_the_name() {
    let mut link = started(100, true);
    link.write(&prepare("a"));
    link.answer(&[PARSED, DESCRIBED, READY].concat());
    link.take_up();
    let mut request = BytesMut::new();
    frontend::parse("", "deallocate a", [], &mut request).expect("no NUL");
    frontend::sync(&mut request);
    link.write(&request);
    link.take_up();
    link.answer(&[PARSED, READY].concat());
    link.take_down();
    link.write(&prepare("a"));
    assert_eq!(link.take_up(), b"", "the text is known");
    let down = [PARSED, DESCRIBED, READY].concat();
    assert_eq!(link.take_down(), down, "the name is not taken");
}

/// What the server has not confirmed is not relied on by another unit.
#[test]
fn parse_in_flight_is_sent_again() {
    let mut link = started(100, true);
    link.write(&prepare("a"));
    link.take_up();
    link.write(&prepare("b"));
    assert!(link.take_up().starts_with(b"P"));
}
