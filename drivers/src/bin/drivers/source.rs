//! Where the drivers connect: through antifreeze, or, alone, to the server itself.

use std::sync::OnceLock;

use antifreeze::Database;

use crate::{BoxError, variable};

static DATABASE: OnceLock<Database> = OnceLock::new();

pub fn is_alone() -> bool {
    !variable("ALONE").is_empty()
}

pub fn set(database: Database) {
    let set = DATABASE.set(database);
    assert!(set.is_ok(), "there is one for the process");
}

/// The URL of the process, for pools.
pub fn shared() -> Result<String, BoxError> {
    match DATABASE.get() {
        Some(database) => Ok(database.url()?),
        None => Ok(variable("DATABASE_URL")),
    }
}

/// The URL of the invocation.
pub fn own() -> Result<String, BoxError> {
    if is_alone() {
        return shared();
    }
    Ok(antifreeze::invocation()?.url()?)
}

/// The URL of the invocation's transaction, which the response decides.
pub fn decided() -> Result<String, BoxError> {
    Ok(antifreeze::invocation()?.transaction_url()?)
}
