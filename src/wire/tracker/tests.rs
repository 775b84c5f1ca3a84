use super::*;
use crate::config::ReportedParameters;

#[test]
fn last_sqlstate_is_kept() {
    let mut tracker = Tracker::default();
    assert_eq!(tracker.facts.error, None);
    for (body, code, outdated) in [
        (
            &b"SERROR\0VERROR\0C23505\0Mduplicate key"[..],
            Some(*b"23505"),
            false,
        ),
        (b"SFEHLER\0VERROR\0C0A000\0Mcached", Some(*b"0A000"), true),
        (b"SERROR\0C26000\0M", Some(*b"26000"), true),
        (b"SERROR\0VERROR\0C400", None, false),
        (b"", None, false),
    ] {
        tracker.received(b'E', body);
        assert_eq!(tracker.facts.error, code);
        assert_eq!(std::mem::take(&mut tracker.outdated), outdated);
    }
    tracker.received(b'E', b"SERROR\0C40001\0M");
    tracker.facts.error = None;
    assert_eq!(tracker.facts.error, None);
}

#[test]
fn query_is_settled_by_ready_for_query() {
    let mut tracker = Tracker::default();
    tracker.sent_whole(Unit::simple(), Handling::Pass);
    assert!(!tracker.is_settled());
    tracker.received(b'C', b"BEGIN\0");
    assert!(!tracker.is_settled());
    tracker.received(b'Z', b"T");
    assert!(tracker.is_settled());
    assert_eq!(tracker.status, Some(TransactionStatus::InTransaction));
}

#[test]
fn close_is_owed_an_answer_and_is_settled() {
    let mut tracker = Tracker::default();
    tracker.open();
    assert!(!tracker.is_settled(), "an unfinished unit");
    tracker.sent_sync();
    assert!(tracker.is_settled());
    assert_eq!(tracker.owed.len(), 1);
}

#[test]
fn end_of_a_transaction_is_recognised() {
    let unit = |ends| Unit {
        ends,
        ..Unit::simple()
    };
    for (units, ending) in [
        (&[][..], false),
        (&[true], true),
        (&[false, true], false),
        (&[true, false], false),
    ] {
        let mut tracker = Tracker::default();
        for ends in units {
            tracker.sent_whole(unit(*ends), Handling::Pass);
        }
        assert_eq!(tracker.is_ending(), ending, "{units:?}");
        tracker.open();
        assert!(!tracker.is_ending(), "more may come");
    }
}

/// A unit with the Execute of a COPY, and its Sync.
fn copying() -> Tracker {
    let mut tracker = Tracker::default();
    let open = tracker.open();
    (open.changes, open.traits.copies) = (true, true);
    tracker.expect(Reply::Bind, Handling::Pass);
    tracker.expect(Reply::Copy, Handling::Pass);
    assert!(tracker.withholds_sync());
    tracker.fate(b'2');
    tracker
}

#[test]
fn sync_is_dropped_once_a_copy_has_begun() {
    let mut tracker = copying();
    let answer = tracker.received(b'G', b"\0\0\0");
    assert!(matches!(answer, Some(Answer::Begun)));
    assert!(tracker.is_copying_in() && !tracker.is_settled());
    assert!(tracker.ignores_sync());
    tracker.sent_copy_end();
    assert!(!tracker.withholds_sync() && !tracker.ignores_sync());
    tracker.sent_sync();
    tracker.received(b'C', b"COPY 1\0");
    tracker.received(b'Z', b"I");
    assert!(tracker.is_settled() && !tracker.is_copying_in());
    assert_eq!(&tracker.out[..], b"H\0\0\0\x04");
}

#[test]
fn sync_follows_a_copy_that_cannot_begin() {
    for tag in [b'E', b'C', b'H', b'I', b's'] {
        let mut tracker = copying();
        tracker.fate(tag);
        let answer = tracker.received(tag, b"");
        assert!(matches!(answer, Some(Answer::Described)), "{tag}");
        assert_eq!(tracker.owed.len(), 1);
        assert_eq!(&tracker.out[..], b"H\0\0\0\x04S\0\0\0\x04");
        tracker.received(b'Z', b"I");
        assert!(tracker.is_settled());
    }
}

#[test]
fn unknown_copy_behind_a_sync_loses_the_session() {
    let mut tracker = Tracker::default();
    tracker.open().changes = true;
    tracker.sent_sync();
    tracker.received(b'G', b"\0\0\0");
    assert!(tracker.is_lost());
}

#[test]
fn simple_copy_in_keeps_its_query_owed() {
    let mut tracker = Tracker::default();
    tracker.sent_whole(Unit::simple(), Handling::Pass);
    tracker.received(b'G', b"\0\0\0");
    assert!(tracker.is_copying_in() && !tracker.is_settled());
    tracker.sent_copy_end();
    tracker.received(b'Z', b"I");
    assert!(tracker.is_settled() && !tracker.is_copying_in());
}

#[test]
fn impossible_messages_lose_framing() {
    for (tag, body) in [(b'Z', &b"I"[..]), (b'Z', b"X"), (b'W', b"")] {
        let mut tracker = Tracker::default();
        tracker.received(tag, body);
        assert!(tracker.is_lost());
    }
}

#[test]
fn error_may_be_the_last_message_of_a_session() {
    let mut tracker = Tracker::default();
    tracker.sent_whole(Unit::simple(), Handling::Pass);
    assert_eq!(tracker.fate(b'E'), Fate::Pass, "it was not let in");
    tracker.received(b'Z', b"I");
    assert_eq!(tracker.fate(b'N'), Fate::Pass);
    assert_eq!(tracker.fate(b'E'), Fate::Hold);
    tracker.sent_whole(Unit::simple(), Handling::Pass);
    assert_eq!(tracker.fate(b'E'), Fate::Hold);
    assert!(!tracker.is_open());
    tracker.open();
    assert!(tracker.is_open(), "its Sync is to come");
}

#[test]
fn reported_parameters_are_kept() {
    let mut tracker = Tracker::default();
    assert_eq!(tracker.facts.parameters, ReportedParameters::default());
    tracker.received(b'S', b"standard_conforming_strings\0off\0");
    tracker.received(b'S', b"in_hot_standby\0on\0");
    tracker.received(b'S', b"default_transaction_read_only\0off\0");
    tracker.received(b'S', b"TimeZone\0on\0");
    let reported = ReportedParameters {
        conforming: Some(false),
        in_hot_standby: Some(true),
        read_only: Some(false),
    };
    assert_eq!(tracker.facts.parameters, reported);
    tracker.received(b'S', b"standard_conforming_strings\0");
    assert_eq!(tracker.facts.parameters.conforming, None);
}
