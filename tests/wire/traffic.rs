//! Recorded traffic of a real server (`cargo run -p lab -- record`), and any other,
//! through the wire at every cut.

use antifreeze::internal::wire::Naming;
use antifreeze::invocation::TransactionStatus;
use proptest::prelude::*;

use super::model::{COPIES, ENDS, TEXTS, Unit, rewrites_cannot_be_seen};
use super::replay::{Direction, Mode, Traffic, may_be_held, play, traffic_of, without_syncs};

/// Calls the recordings by their names.
macro_rules! recordings {
    ($($name:literal),*) => {
        [$(($name, include_bytes!(concat!("../recordings/", $name, ".traffic")))),*]
    };
}

const RECORDINGS: [(&str, &[u8]); 9] = recordings![
    "simple",
    "extended",
    "pipelined",
    "errors",
    "copy_in",
    "copy_out",
    "portals",
    "notify",
    "dropped"
];

/// Not cut at all.
const WHOLE: usize = 1 << 40;

/// Every cut of a short recording; of a long one the small cuts, where boundaries fall
/// into every field, and some large ones.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    let all = if length < 3_000 { length } else { 130 };
    (1..=all).chain([8_191, 8_192, 8_193, 1 << 20])
}

/// Reads a recording as `lab record` writes it.
fn recorded(mut file: &[u8]) -> Traffic {
    let mut traffic = Vec::new();
    while let Some((head, rest)) = file.split_at_checked(5) {
        let length = u32::from_be_bytes(head[1..].try_into().expect("four bytes"));
        let (piece, rest) = rest.split_at(length as usize);
        let direction = match head[0] {
            b'^' => Direction::Up,
            _ => Direction::Down,
        };
        traffic.push((direction, piece.to_vec()));
        file = rest;
    }
    traffic
}

fn bytes_of(traffic: &Traffic, wanted: Direction) -> Vec<u8> {
    let those = traffic.iter().filter(|(direction, _)| *direction == wanted);
    those.flat_map(|(_, bytes)| bytes.clone()).collect()
}

/// The status in the last ReadyForQuery, read in the simplest way there is.
fn last_status(mut down: &[u8]) -> Option<TransactionStatus> {
    let mut status = None;
    while let Some((head, _)) = down.split_at_checked(5) {
        let length = u32::from_be_bytes(head[1..].try_into().expect("four bytes"));
        let (message, rest) = down.split_at(1 + length as usize);
        if message[0] == b'Z' {
            status = Some(match message[5] {
                b'I' => TransactionStatus::Idle,
                b'T' => TransactionStatus::InTransaction,
                _ => TransactionStatus::Failed,
            });
        }
        down = rest;
    }
    status
}

#[test]
fn wire_is_transparent_and_knows_the_status() {
    for (name, file) in RECORDINGS {
        let traffic = recorded(file);
        let up = bytes_of(&traffic, Direction::Up);
        let down = bytes_of(&traffic, Direction::Down);
        let whole = play(&traffic, WHOLE);
        for cut in cuts(file.len()) {
            let played = play(&traffic, cut);
            assert!(
                without_syncs(&played.up) == without_syncs(&up),
                "{name} cut at {cut}"
            );
            assert!(
                played.up == up || name.starts_with("copy"),
                "{name} cut at {cut}"
            );
            assert_eq!(played.down, down, "{name} cut at {cut}");
            assert_eq!(played.snapshots, whole.snapshots, "{name} cut at {cut}");
            let last = played.snapshots.last().expect("there is traffic");
            assert_eq!(last.status, last_status(&down), "{name}");
            assert!(last.is_settled(), "{name}: {last:?}");
        }
    }
}

/// A recording with something done to it.
fn spoilt() -> impl Strategy<Value = Traffic> {
    let recording = prop::sample::select(RECORDINGS.to_vec());
    let spoils = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (recording, spoils).prop_map(|((_, file), spoils)| {
        let mut traffic = recorded(file);
        for (at, byte) in spoils {
            let piece = at.get(&traffic).1.len();
            let index = at.index(traffic.len());
            if piece > 0 {
                let within = at.index(piece);
                traffic[index].1[within] = byte;
            }
        }
        traffic
    })
}

proptest! {
    #[test]
    fn spoilt_traffic_passes_unchanged(traffic in spoilt(), cut in 1usize..400) {
        let played = play(&traffic, cut);
        prop_assert_eq!(&played, &play(&traffic, WHOLE));
        prop_assume!(!played.is_dismissed());
        // The beginning of an error may wait for its rest.
        let down = bytes_of(&traffic, Direction::Down);
        prop_assert!(down.starts_with(&played.down));
        let held = &down[played.down.len()..];
        prop_assert!(may_be_held(held), "{:?}", held);
        // The beginning of a message may wait for its rest, and then that is known.
        let up = without_syncs(&bytes_of(&traffic, Direction::Up));
        let played_up = without_syncs(&played.up);
        prop_assert!(up.starts_with(&played_up));
        prop_assert!(up == played_up || !played.is_settled());
    }

    #[test]
    fn bytes_may_be_cut_anywhere(
        data in prop::collection::vec(any::<u8>(), 0..400),
        cut in 1usize..50,
    ) {
        let traffic = traffic_of(&data);
        prop_assert_eq!(play(&traffic, cut), play(&traffic, WHOLE));
    }

    #[test]
    fn rewrites_are_invisible_to_the_client(
        groups in prop::collection::vec(group(), 1..12),
        cut in prop_oneof![1usize..40, Just(WHOLE)],
        naming in naming(),
        armed in any::<bool>(),
        refused in prop_oneof![2 => Just(0), 1 => 1usize..4, 1 => Just(usize::MAX)],
        asks in any::<bool>(),
    ) {
        rewrites_cannot_be_seen(&groups, cut, Mode { naming, armed, refused, asks });
    }
}

#[test]
fn two_statements_share_a_sync() {
    for (armed, asks) in [(false, true), (true, true), (true, false)] {
        let mode = Mode {
            naming: Naming::Unnamed,
            armed,
            asks,
            refused: 0,
        };
        let prepare = vec![Unit::Prepare("select 1"), Unit::Prepare("fail")];
        for both in [Unit::Both(0, 1), Unit::Both(1, 0), Unit::Both(1, 1)] {
            for cut in [1, 7, WHOLE] {
                rewrites_cannot_be_seen(&[prepare.clone(), vec![both, both]], cut, mode);
            }
        }
    }
}

/// What the server says at the end is kept for the next request, wherever it is cut.
#[test]
fn farewell_waits_for_a_request() {
    const READY: &[u8] = b"Z\0\0\0\x05I";
    const NOTICE: &[u8] = b"N\0\0\0\x05\0";
    const FATAL: &[u8] = b"E\0\0\0\x18SFATAL\0C57P01\0Mend\0\0";
    const ERROR: &[u8] = b"E\0\0\0\x18SERROR\0C57P01\0Mend\0\0";
    let question = || (Direction::Up, b"Q\0\0\0\x05\0".to_vec());
    let idle = |news: &[&[u8]]| {
        vec![
            (Direction::Up, b"\0\0\0\x08\0\x03\0\0".to_vec()),
            (Direction::Down, [READY, &news.concat()].concat()),
        ]
    };
    for cut in 1..=READY.len() + NOTICE.len() + FATAL.len() {
        let mut traffic = idle(&[NOTICE, FATAL]);
        let played = play(&traffic, cut);
        assert_eq!(played.down, [READY, NOTICE].concat(), "cut at {cut}");
        assert!(played.is_dismissed() && played.snapshots[1].is_over());
        traffic.extend([question(), question()]);
        let answer = [FATAL, READY].concat();
        let down = [READY, NOTICE, &answer[..], &answer[..]].concat();
        let asked = play(&traffic, cut);
        assert_eq!(asked.down, down, "cut at {cut}");
        assert_eq!(asked.up, played.up, "the server is not asked");
        // What does not end the session is not for us to keep.
        let passed = play(&idle(&[NOTICE, ERROR]), cut);
        assert_eq!(passed.down, [READY, NOTICE, ERROR].concat(), "cut at {cut}");
        assert!(!passed.is_dismissed());
    }
}

/// Pending requests get the error, and so do later ones.
#[test]
fn farewell_answers_every_request() {
    const READY: &[u8] = b"Z\0\0\0\x05I";
    const ROW: &[u8] = b"D\0\0\0\x06\0\0";
    const FATAL: &[u8] = b"E\0\0\0\x18SFATAL\0C57P01\0Mend\0\0";
    let question = || (Direction::Up, b"Q\0\0\0\x05\0".to_vec());
    for cut in 1..=ROW.len() + FATAL.len() {
        let traffic = [
            (Direction::Up, b"\0\0\0\x08\0\x03\0\0".to_vec()),
            (Direction::Down, READY.to_vec()),
            question(),
            question(),
            (Direction::Down, [ROW, FATAL].concat()),
            question(),
        ];
        let played = play(&traffic, cut);
        let answer = [FATAL, READY].concat();
        let down = [READY, ROW, &answer[..], &answer[..], &answer[..]].concat();
        assert_eq!(played.down, down, "cut at {cut}");
        assert!(played.is_dismissed() && played.snapshots[4].is_over());
    }
}

/// Whatever comes first, alone or with others behind it.
#[test]
fn refused_begin_lets_nothing_through() {
    let firsts = [
        Unit::Simple("select 1"),
        Unit::Simple("select 2; select 3"),
        Unit::Simple("commit"),
        Unit::Prepare("select 1"),
        Unit::Typed("select 1"),
    ];
    for (first, naming) in firsts
        .into_iter()
        .flat_map(|first| NAMINGS.map(|naming| (first, naming)))
    {
        for refused in [1, 2, usize::MAX] {
            let mode = Mode {
                naming,
                armed: true,
                refused,
                asks: refused == 1,
            };
            let behind = vec![first, Unit::Simple("select 1"), Unit::Typed("select 1")];
            let again = vec![Unit::Execute(0)];
            for cut in [1, 7, WHOLE] {
                rewrites_cannot_be_seen(&[vec![first], again.clone()], cut, mode);
                rewrites_cannot_be_seen(&[behind.clone(), again.clone()], cut, mode);
            }
        }
    }
}

#[test]
fn copy_prepared_earlier_gets_the_begin() {
    for copy in COPIES {
        for refused in [0, 1] {
            for naming in NAMINGS {
                let mode = Mode {
                    naming,
                    armed: true,
                    refused,
                    asks: true,
                };
                let groups = [
                    vec![Unit::CopyIn(copy)],
                    vec![Unit::Typed("select 1"), Unit::Simple("select 1")],
                ];
                for cut in [1, 7, WHOLE] {
                    rewrites_cannot_be_seen(&groups, cut, mode);
                }
            }
        }
    }
}

/// Each way to name statements.
const NAMINGS: [Naming; 3] = [
    Naming::AsGiven,
    Naming::Unnamed,
    Naming::ByContent { answers_sync: true },
];

fn naming() -> impl Strategy<Value = Naming> {
    prop::sample::select(NAMINGS.to_vec())
}

/// Units that are sent without waiting for each other's answers.
fn group() -> impl Strategy<Value = Vec<Unit>> {
    let text = || prop::sample::select(TEXTS.to_vec());
    // The extended protocol takes one statement at a time.
    let one = || prop::sample::select(vec!["select 1", "nonsense", "fail"]);
    let unit = prop_oneof![
        text().prop_map(Unit::Simple),
        one().prop_map(Unit::Prepare),
        (0usize..3).prop_map(Unit::Execute),
        (0usize..3, 0usize..3).prop_map(|(first, second)| Unit::Both(first, second)),
        one().prop_map(Unit::Typed),
        (0usize..3).prop_map(Unit::Close),
        Just(Unit::Sync),
    ];
    let end = prop::sample::select(ENDS.to_vec()).prop_map(|text| vec![Unit::Simple(text)]);
    let copy = prop::sample::select(COPIES.to_vec()).prop_map(|copy| vec![Unit::CopyIn(copy)]);
    prop_oneof![10 => prop::collection::vec(unit, 1..5), 2 => end, 1 => copy]
}
