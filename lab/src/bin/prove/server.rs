//! The server, seen by a session of this command's own.

use std::time::{Duration, Instant};

use antifreeze::{Config, Database, Session};
use lab::{Error, OrSay, Result};

use crate::function::{Description, Function};
use crate::report::{FunctionSession, Look};

/// How long the migration waits for its lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a session may take to end once it was told to.
const END: Duration = Duration::from_secs(10);

/// The function's sessions: by their name, and, since a pooler may give them another, by the
/// comment in their last statement and by the locks that only they can have: a lock of the table
/// only those of their role, since a backup takes one, too.
const SESSIONS: &str = "\
    with held as ( \
        select pid, bool_or(locktype = 'relation') as relation, \
            bool_or(locktype = 'advisory') as advisory \
        from pg_locks \
        where granted and database = (select oid from pg_database where datname = current_database()) \
            and (relation = 'antifreeze_prove'::regclass \
                or locktype = 'advisory' and (classid::bigint << 32 | objid::bigint) = $2) \
        group by pid) \
    select pid, coalesce(state, 'unknown') as state, coalesce(relation, false) as relation, \
        coalesce(advisory, false) as advisory, query like '%' || $3 || '%' as tagged \
    from pg_stat_activity left join held using (pid) \
    where pid <> pg_backend_pid() and datname = current_database() \
        and backend_type = 'client backend' \
        and (application_name = nullif($1, '') or query like '%' || $3 || '%' or advisory \
            or relation and usename = $4::text::name)";

const TEMPORARY: &str = "select exists (select from pg_class \
    where relname = 'antifreeze_prove_left' and relpersistence = 't')";

const MADE: &str = "select coalesce(pg_sequence_last_value(\
    pg_get_serial_sequence('antifreeze_prove', 'id')::regclass), 0)";

const TABLE: &str = "drop table if exists antifreeze_prove; \
    create table antifreeze_prove (id bigint generated always as identity)";

pub struct Server {
    session: Session,
    pub version: String,
}

impl Server {
    pub async fn connect(url: Option<&str>) -> Result<Server> {
        let config = match url {
            Some(url) => Config::from_url(url),
            None => Config::from_env(),
        };
        let database = config.and_then(Database::new);
        let database = database.or_say(|| "--database, or DATABASE_URL, cannot be used")?;
        let session = database.session().await;
        let session = session.or_say(|| "cannot connect to the database of --database")?;
        let version = session.query_one("select current_setting('server_version')", &[]);
        let version = version.await.or_say(|| "the server has no version")?.get(0);
        Ok(Server { session, version })
    }

    /// Finds out whether the function uses this database, and whether its sessions can be seen.
    pub async fn is_that_of(&self, function: &Description) -> Result<()> {
        let query = "select current_database()::text, \
            extract(epoch from pg_postmaster_start_time())::text, current_user::text";
        let row = self.session.query_one(query, &[]).await;
        let row = row.or_say(|| "the server does not describe itself")?;
        let (database, started, role): (String, String, String) =
            (row.get(0), row.get(1), row.get(2));
        if (&database, &started) != (&function.database, &function.started) {
            return Err(Error::new(format!(
                "the function does not use this database: it is connected to database \"{}\" of a \
                 server started at {} (Unix time), --database to \"{database}\" of one started at \
                 {started}: give the URL of the function's database, not that of a replica",
                function.database, function.started
            )));
        }
        let query = "select pg_has_role(current_user, 'pg_read_all_stats', 'usage') \
            or pg_has_role(current_user, $1::text::name, 'usage')";
        let row = self.session.query_one(query, &[&function.role]).await;
        if !row
            .or_say(|| "the server does not tell its roles")?
            .get::<_, bool>(0)
        {
            return Err(Error::new(format!(
                "\"{role}\" may not see the sessions of \"{}\": use the function's role, or run \
                 GRANT pg_read_all_stats, pg_signal_backend TO \"{role}\"",
                function.role
            )));
        }
        Ok(())
    }

    /// Makes the table that the endings use.
    pub async fn prepare(&self, with: &Function, without: Option<&Function>) -> Result<()> {
        let timeout = format!("set lock_timeout = {}", LOCK_TIMEOUT.as_millis());
        self.run(&timeout).await?;
        let made = self.session.batch_execute(TABLE).await;
        made.or_say(|| {
            "cannot make the table antifreeze_prove: the role of --database must be \
             allowed to create one in its schema"
        })?;
        for function in [Some(with), without].into_iter().flatten() {
            let role = function.description.role.replace('"', "\"\"");
            self.run(&format!(
                "grant insert, select on antifreeze_prove to \"{role}\""
            ))
            .await?;
        }
        Ok(())
    }

    /// How many rows were made in the table, also those that were rolled back.
    pub async fn rows(&self) -> Result<i64> {
        let row = self.session.query_one(MADE, &[]).await;
        Ok(row
            .or_say(|| "cannot read the sequence of antifreeze_prove")?
            .get(0))
    }

    /// The function's sessions, and what they hold.
    pub async fn look(&self, function: &Description, tag: u64) -> Result<Look> {
        let rows = self.sessions(function, tag).await?;
        let temporary = self.session.query_one(TEMPORARY, &[]).await;
        let temporary = temporary.or_say(|| "cannot read pg_class")?.get(0);
        let sessions = rows.into_iter().map(|(_, session)| session).collect();
        Ok(Look {
            sessions,
            temporary,
        })
    }

    /// Runs the migration, and says how long it took, or nothing if it gave up.
    pub async fn alter_table(&self) -> Result<Option<Duration>> {
        let begin = Instant::now();
        let statement = "alter table antifreeze_prove add check (true)";
        match self.session.batch_execute(statement).await {
            Ok(()) => Ok(Some(begin.elapsed())),
            Err(error) if error.code().is_some_and(|code| code.code() == "55P03") => Ok(None),
            Err(error) => Err(Error::because("ALTER TABLE antifreeze_prove failed", error)),
        }
    }

    /// Ends what an ending has left, so that the next one begins with nothing.
    pub async fn end(&self, function: &Description, tag: u64) -> Result<()> {
        let limit = Instant::now() + END;
        loop {
            let sessions = self.sessions(function, tag).await?;
            // Another application may have the same name: what is ended is the ending's for sure.
            let left = sessions.iter().filter(|(_, session)| {
                session.is_tagged || session.table_lock || session.advisory_lock
            });
            let pids: Vec<i32> = left.map(|(pid, _)| *pid).collect();
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() > limit {
                return Err(Error::new("a session of the function does not end"));
            }
            let end = "select pg_terminate_backend(pid) from unnest($1::int[]) pid";
            let ended = self.session.query(end, &[&pids]).await;
            ended.or_say(|| {
                "cannot end what the function left: the role of --database needs \
                 pg_signal_backend, or must be the function's"
            })?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Drops the table.
    pub async fn tidy_up(&self) -> Result<()> {
        let dropped = self
            .session
            .batch_execute("drop table if exists antifreeze_prove")
            .await;
        dropped.or_say(|| "the table antifreeze_prove is still there: drop it")
    }

    async fn sessions(
        &self,
        function: &Description,
        tag: u64,
    ) -> Result<Vec<(i32, FunctionSession)>> {
        let (key, comment) = (tag as i64, format!("antifreeze prove {tag:016x}"));
        let rows = self
            .session
            .query(
                SESSIONS,
                &[&function.application_name, &key, &comment, &function.role],
            )
            .await;
        let rows = rows.or_say(|| "cannot read pg_stat_activity and pg_locks")?;
        let session = |row: &tokio_postgres::Row| FunctionSession {
            state: row.get("state"),
            table_lock: row.get("relation"),
            advisory_lock: row.get("advisory"),
            is_tagged: row.get("tagged"),
        };
        Ok(rows
            .iter()
            .map(|row| (row.get("pid"), session(row)))
            .collect())
    }

    async fn run(&self, statement: &str) -> Result<()> {
        let done = self.session.batch_execute(statement).await;
        done.or_say(|| format!("the server refused: {statement}"))
    }
}
