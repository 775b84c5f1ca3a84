//! Caches the prepared statements of a session.

use std::collections::HashMap;
use std::sync::MutexGuard;

use crate::lock::Mutex;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Statement};

/// The text of a statement, and the parameter types that the caller gave.
type Key = (Box<str>, Box<[Type]>);

/// A bounded cache, which evicts the least recently used statement. An evicted one is closed
/// on the server when its last user drops it.
pub(super) struct Statements {
    capacity: usize,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    statements: HashMap<Key, (Statement, u64)>,
    uses: u64,
}

impl Statements {
    pub(super) fn new(capacity: usize) -> Self {
        Statements {
            capacity,
            cache: Mutex::default(),
        }
    }

    /// Returns the cached statement, or prepares it.
    pub(super) async fn prepare(
        &self,
        client: &Client,
        sql: &str,
        types: &[Type],
    ) -> Result<Statement, Error> {
        let key: Key = (sql.into(), types.into());
        if let Some(statement) = self.cache().find(&key) {
            return Ok(statement);
        }
        let statement = client.prepare_typed(sql, types).await?;
        if self.capacity > 0 {
            self.cache().insert(key, statement.clone(), self.capacity);
        }
        Ok(statement)
    }

    /// Evicts all statements.
    pub(super) fn clear(&self) {
        // Dropped after the lock is released: a statement sends its Close.
        let evicted = std::mem::take(&mut self.cache().statements);
        drop(evicted);
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock()
    }
}

impl Cache {
    fn find(&mut self, key: &Key) -> Option<Statement> {
        self.uses += 1;
        let (statement, used) = self.statements.get_mut(key)?;
        *used = self.uses;
        Some(statement.clone())
    }

    fn insert(&mut self, key: Key, statement: Statement, capacity: usize) {
        if self.statements.len() >= capacity {
            let oldest = self.statements.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.statements.remove(&oldest);
            }
        }
        self.uses += 1;
        self.statements.insert(key, (statement, self.uses));
    }
}
