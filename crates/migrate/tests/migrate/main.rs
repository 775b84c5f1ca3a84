//! Tests migrations on a real server.

mod alembic;
mod blocked;
mod common;
mod concurrently;
mod history;
mod interrupted;
mod killed;
mod lock;
mod pooler;
mod tool_runner;
mod two_roles;
