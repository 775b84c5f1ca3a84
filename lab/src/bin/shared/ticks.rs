//! A thread that writes a rising number to a file, as long as it is not frozen.

use std::{env, fs, thread, time::Duration};

/// Starts the thread if `ECHO_TICKS` names a file. The first number is there when
/// this returns: the thread may be frozen before it has had its turn.
pub fn start() {
    if let Ok(path) = env::var("ECHO_TICKS") {
        write(&path, 0);
        thread::spawn(move || {
            for number in 1.. {
                thread::sleep(Duration::from_millis(1));
                write(&path, number);
            }
        });
    }
}

/// By rename, so that no reader sees half a number.
fn write(path: &str, number: u64) {
    let fresh = format!("{path}.new");
    let _ = fs::write(&fresh, number.to_string()).and_then(|()| fs::rename(&fresh, path));
}
