//! Migrations on a real server.

mod alembic;
mod around;
mod blocked;
mod common;
mod concurrently;
mod history;
mod interrupted;
mod killed;
mod lock;
mod pooler;
mod two_roles;
