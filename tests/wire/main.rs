//! The wire between a client and a server that the test plays both.

mod by_content;
mod model;
mod replay;
mod stream;
mod traffic;
