//! What is being done, on stderr, where a person may be waiting.

use std::time::Duration;

use indicatif::ProgressBar;

/// Says what is being done until it is dropped.
pub struct Step(ProgressBar);

impl Step {
    pub fn new(what: &'static str) -> Step {
        let bar = ProgressBar::new_spinner().with_message(what);
        bar.enable_steady_tick(Duration::from_millis(100));
        Step(bar)
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
