//! The sessions of the function, as an administrator of the server sees them.

use crate::Result;
use crate::postgres::Database;

/// All sessions of this database except those of the tests, and of the administrator that ends
/// sessions in some endings. Not selected by the application name of our sessions: one without
/// it would be missed.
const OURS: &str = "from pg_stat_activity \
                    where datname = current_database() and backend_type = 'client backend' \
                    and pid <> pg_backend_pid() \
                    and application_name not in ('lab', 'administrator')";

/// A session of the function.
#[derive(Debug)]
pub struct Session {
    /// The process of the server.
    pub pid: String,
    /// Its column `state`.
    pub state: String,
    /// Its last statement, for messages.
    pub query: String,
}

/// Returns them.
///
/// # Errors
/// When the server cannot be asked.
pub async fn sessions(database: &Database) -> Result<Vec<Session>> {
    let rows = database
        .query(&format!("select pid, state, query {OURS} order by pid"))
        .await?;
    let sessions = rows.into_iter().map(|row| {
        let mut columns = row.into_iter().map(Option::unwrap_or_default);
        let mut next = || columns.next().unwrap_or_default();
        Session {
            pid: next(),
            state: next(),
            query: next(),
        }
    });
    Ok(sessions.collect())
}

/// Ends them, and waits until they have ended.
///
/// # Errors
/// When the server cannot be asked.
pub async fn terminate(database: &Database) -> Result<()> {
    let terminate = format!("select pg_terminate_backend(pid, 10000) {OURS}");
    database.execute(&terminate).await
}

/// Session state in this database that other sessions can see: advisory locks and temporary
/// tables.
///
/// # Errors
/// When the server cannot be asked.
pub async fn session_state(database: &Database) -> Result<Vec<String>> {
    let rows = database
        .query(
            "select 'advisory lock of ' || pid from pg_locks \
             where locktype = 'advisory' and database = \
             (select oid from pg_database where datname = current_database()) \
             union all \
             select 'temporary table ' || relname from pg_class where relpersistence = 't'",
        )
        .await?;
    Ok(rows.into_iter().flatten().flatten().collect())
}

/// Alters the table `t`, with a short `lock_timeout`.
///
/// # Errors
/// When a session holds a lock of it.
pub async fn migrate(database: &Database) -> Result<()> {
    let alter = "set lock_timeout = '100ms'; alter table t add column b int; \
                 alter table t drop column b";
    database.execute(alter).await
}

/// Empties the table `t`, unless a lock that was left behind prevents it.
///
/// # Errors
/// When a session holds a lock of it.
pub async fn truncate(database: &Database) -> Result<()> {
    database
        .execute("set lock_timeout = '5s'; truncate t")
        .await
}

/// Returns how many rows the table `t` has.
///
/// # Errors
/// When the server cannot be asked.
pub async fn rows(database: &Database) -> Result<String> {
    let rows = database.query("select count(*) from t").await?;
    Ok(rows
        .into_iter()
        .flatten()
        .flatten()
        .next()
        .unwrap_or_default())
}
