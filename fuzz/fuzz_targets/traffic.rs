//! Any bytes in both directions: the wire does not panic, passes on what it is given,
//! and does not care where it is cut.
#![no_main]

#[path = "../../tests/wire/replay.rs"]
#[allow(dead_code)]
mod replay;

use libfuzzer_sys::fuzz_target;
use replay::{Direction, Traffic, may_be_held, play, traffic_of, without_syncs};

fuzz_target!(|data: &[u8]| {
    let Some((&cut, data)) = data.split_first() else {
        return;
    };
    let traffic = traffic_of(data);
    let whole = play(&traffic, 1 << 40);
    assert_eq!(play(&traffic, 1 + usize::from(cut)), whole);
    if whole.is_dismissed() {
        return;
    }
    // The beginning of an error waits for its rest.
    let down = sent(&traffic, Direction::Down);
    assert!(down.starts_with(&whole.down));
    assert!(may_be_held(&down[whole.down.len()..]));
    // The beginning of a message may wait for its rest, and then that is known.
    let up = without_syncs(&sent(&traffic, Direction::Up));
    let whole_up = without_syncs(&whole.up);
    assert!(up.starts_with(&whole_up));
    assert!(whole_up == up || !whole.is_settled());
});

fn sent(traffic: &Traffic, wanted: Direction) -> Vec<u8> {
    let those = traffic.iter().filter(|(direction, _)| *direction == wanted);
    those.flat_map(|(_, bytes)| bytes.clone()).collect()
}
