//! Any bytes of a driver at the private socket: no panic, and each answer is a message.
#![no_main]

use antifreeze::internal::bridge::answers;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [chunk, bytes @ ..] = data else {
        return;
    };
    let answers = answers(bytes, usize::from(*chunk) + 1);
    let mut rest = answers.as_slice();
    while let Some((&tag, behind)) = rest.split_first() {
        // No encryption: one byte, before anything else.
        if tag == b'N' {
            rest = behind;
            continue;
        }
        assert!(b"RvSKZEC123tn".contains(&tag), "{tag}");
        let length = behind
            .first_chunk()
            .map(|length| u32::from_be_bytes(*length));
        let length = length.expect("a length") as usize;
        rest = behind.get(length..).expect("a whole message");
    }
});
