//! The functions as they are deployed, built and run with the tools of users.
//!
//! It needs a release build and three tools that are not always installed, so it is not part of
//! a plain `cargo test`, but of `.ci/run`:
//!
//! ```sh
//! .ci/tools && cargo test -p lab --test tools
//! ```

#[path = "../common/mod.rs"]
mod common;

mod artefacts;
mod builds;
mod compared;
mod emulator;
mod ends;
mod http;
mod pages;
mod sessions;
mod spy;
mod tool;
mod watch;
