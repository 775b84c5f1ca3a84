//! The terminal as one screen: in raw mode, and restored in the end.

use std::io::{self, Stdout, stdout};
use std::thread;

use ratatui_core::terminal::Terminal;
use ratatui_crossterm::CrosstermBackend;
use ratatui_crossterm::crossterm::cursor::Show;
use ratatui_crossterm::crossterm::event::{self, Event};
use ratatui_crossterm::crossterm::execute;
use ratatui_crossterm::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// The terminal, until it is dropped.
pub struct Console {
    pub terminal: Terminal<CrosstermBackend<Stdout>>,
    _raw: Raw,
    /// Keys, and changes of the size.
    pub events: UnboundedReceiver<Event>,
}

impl Console {
    pub fn open() -> io::Result<Self> {
        enable_raw_mode()?;
        let raw = Raw;
        execute!(stdout(), EnterAlternateScreen)?;
        // The message of a panic would be lost with the screen.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            hook(panic);
        }));
        let mut terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        terminal.hide_cursor()?;
        let (sender, events) = unbounded_channel();
        // Reading blocks; the thread ends with the process.
        thread::spawn(move || {
            while let Ok(event) = event::read() {
                if sender.send(event).is_err() {
                    break;
                }
            }
        });
        Ok(Console {
            terminal,
            _raw: raw,
            events,
        })
    }
}

/// The raw mode. It ends also if the terminal fails while it is opened.
struct Raw;

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let _ = execute!(stdout(), Show, LeaveAlternateScreen);
    let _ = disable_raw_mode();
}
