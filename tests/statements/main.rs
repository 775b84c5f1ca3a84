//! Statements by content on a real server: what clients see that share its sessions is what each
//! would see alone.

mod cases;
mod judge;
mod raw;
