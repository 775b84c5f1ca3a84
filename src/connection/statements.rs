//! The cache of a session's prepared statements.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Statement};

/// Text and the parameter types that were asked for.
type Key = (Box<str>, Box<[Type]>);

/// A bounded cache, the least recently used out first. What falls out is closed
/// on the server when its last user drops it.
pub(super) struct Statements {
    capacity: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    statements: HashMap<Key, (Statement, u64)>,
    uses: u64,
}

impl Statements {
    pub(super) fn new(capacity: usize) -> Self {
        Statements {
            capacity,
            kept: Mutex::default(),
        }
    }

    pub(super) async fn prepare(
        &self,
        client: &Client,
        sql: &str,
        types: &[Type],
    ) -> Result<Statement, Error> {
        let key: Key = (sql.into(), types.into());
        if let Some(statement) = self.kept().find(&key) {
            return Ok(statement);
        }
        let statement = client.prepare_typed(sql, types).await?;
        if self.capacity > 0 {
            self.kept().keep(key, statement.clone(), self.capacity);
        }
        Ok(statement)
    }

    /// Forgets them all. Each is closed on the server when its last user drops it.
    pub(super) fn clear(&self) {
        // Dropped behind the lock: a statement sends its Close.
        let forgotten = std::mem::take(&mut self.kept().statements);
        drop(forgotten);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn find(&mut self, key: &Key) -> Option<Statement> {
        self.uses += 1;
        let (statement, used) = self.statements.get_mut(key)?;
        *used = self.uses;
        Some(statement.clone())
    }

    fn keep(&mut self, key: Key, statement: Statement, capacity: usize) {
        while self.statements.len() >= capacity {
            let oldest = self.statements.iter().min_by_key(|(_, (_, used))| *used);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                break;
            };
            self.statements.remove(&oldest);
        }
        self.uses += 1;
        self.statements.insert(key, (statement, self.uses));
    }
}

impl fmt::Debug for Statements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.kept().statements.len();
        write!(f, "{kept} of {} statements", self.capacity)
    }
}
