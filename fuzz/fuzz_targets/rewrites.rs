//! Any program of a client, through a rewriting wire to a model of a server: the
//! rewrites cannot be seen.
#![no_main]

#[path = "../../tests/wire/model.rs"]
mod model;
#[path = "../../tests/wire/replay.rs"]
#[allow(dead_code)]
mod replay;

use antifreeze::internal::wire::Naming;
use libfuzzer_sys::fuzz_target;
use model::{COPIES, ENDS, TEXTS, Unit, rewrites_cannot_be_seen};
use replay::Mode;

/// What the extended protocol takes: one statement at a time.
const SINGLE: [&str; 3] = ["select 1", "nonsense", "fail"];

fuzz_target!(|data: &[u8]| {
    let Some((&[mode, cut], data)) = data.split_first_chunk() else {
        return;
    };
    let mode = Mode {
        naming: match mode & 3 {
            0 => Naming::AsGiven,
            1 => Naming::Unnamed,
            answers => Naming::ByContent {
                answers_sync: answers == 3,
            },
        },
        armed: mode & 4 == 4,
        asks: mode & 8 == 8,
        refused: usize::from(mode >> 4),
    };
    let mut groups = vec![Vec::new()];
    for &byte in data.iter().take(60) {
        let choice = usize::from(byte >> 3);
        let group = groups.last_mut().expect("there is one");
        match byte & 7 {
            0 => group.push(Unit::Simple(TEXTS[choice % TEXTS.len()])),
            1 => group.push(Unit::Prepare(SINGLE[choice % SINGLE.len()])),
            2 if choice < 16 => group.push(Unit::Execute(choice % 4)),
            2 => group.push(Unit::Both(choice % 4, choice / 4 % 4)),
            3 => group.push(Unit::Typed(SINGLE[choice % SINGLE.len()])),
            4 => group.push(Unit::Close(choice % 4)),
            5 if choice < 24 => group.push(Unit::Sync),
            5 => groups.push(vec![Unit::CopyIn(COPIES[choice % COPIES.len()])]),
            6 => groups.push(vec![Unit::Simple(ENDS[choice % ENDS.len()])]),
            _ => groups.push(Vec::new()),
        }
        // Neither a COPY nor an end is pipelined with what follows it.
        if byte & 7 == 6 || byte & 7 == 5 && choice >= 24 {
            groups.push(Vec::new());
        }
    }
    rewrites_cannot_be_seen(&groups, 1 + usize::from(cut), mode);
});
