//! Runs the command in a terminal.

use std::process::Command;
use std::time::{Duration, Instant};

use super::TIMEOUT;

/// A terminal for the command.
pub struct Tmux {
    socket: String,
}

impl Tmux {
    pub fn start(name: &str, (columns, lines): (u16, u16), command: &str) -> Tmux {
        let tmux = Tmux {
            socket: format!("antifreeze-{name}-{columns}-{}", std::process::id()),
        };
        let (columns, lines) = (columns.to_string(), lines.to_string());
        let size = ["-x", &columns, "-y", &lines];
        let new = ["new-session", "-d", "-s", "t"];
        tmux.run(&[&new[..], &size, &[command]].concat());
        tmux
    }

    /// Presses keys, by their names in tmux.
    pub fn press(&self, keys: &[&str]) {
        self.run(&[&["send-keys", "-t", "t"][..], keys].concat());
    }

    pub fn run(&self, arguments: &[&str]) -> Option<String> {
        let output = Command::new("tmux")
            .args(["-L", &self.socket, "-f", "/dev/null"])
            .args(arguments)
            .output()
            .expect("tmux: apt-get install tmux");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(text)
    }

    pub fn screen(&self) -> Option<String> {
        self.run(&["capture-pane", "-p", "-t", "t"])
    }

    /// Returns the screen with its colours, as control sequences.
    pub fn colours(&self) -> String {
        let screen = self.run(&["capture-pane", "-p", "-e", "-t", "t"]);
        screen.expect("a screen")
    }

    /// Waits until the screen is as `wanted`.
    pub async fn shows(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + TIMEOUT;
        loop {
            let screen = self.screen().unwrap_or_default();
            if wanted(&screen) {
                return screen;
            }
            assert!(Instant::now() < end, "never: {what}\n{screen}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.run(&["kill-server"]);
    }
}
