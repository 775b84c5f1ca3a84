//! Any bytes in both directions: the wire does not panic, passes on what it is given,
//! and does not care where it is cut.
#![no_main]

use antifreeze::fuzzing::replay::{Direction, play, traffic_of};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, data)) = data.split_first() else {
        return;
    };
    let traffic = traffic_of(data);
    let whole = play(&traffic, 1 << 40);
    assert_eq!(play(&traffic, 1 + usize::from(cut)), whole);
    let down: Vec<u8> = traffic
        .iter()
        .filter(|(direction, _)| *direction == Direction::Down)
        .flat_map(|(_, bytes)| bytes.clone())
        .collect();
    assert_eq!(whole.down, down);
});
