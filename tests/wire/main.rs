//! The wire between a client and a server that the test plays both.

mod model;
mod replay;
mod stream;
mod traffic;
