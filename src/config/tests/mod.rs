//! The configuration as a whole. What one file does is tested in it.

mod deserialize;
mod every;
mod leaks;
pub(super) mod page;
mod parameters;
mod rows;
mod settings;
mod variables;

use super::*;

impl Config {
    /// The settings in force where the environment says nothing.
    pub(crate) fn in_force(self) -> Settings {
        let settings = self.settled(&Environment::of(&[]));
        settings.expect("it makes sense")
    }
}
