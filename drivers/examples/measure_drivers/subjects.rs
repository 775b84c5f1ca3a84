//! The drivers, alone and behind antifreeze, and what they are asked for.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use antifreeze::{Database, invocation};
use diesel::pg::PgRowByRowLoadingMode;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool};
use diesel::sql_types::Integer;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, deadpool};
use diesel_async::{AsyncConnection, AsyncPgConnection};
use futures_util::{StreamExt, TryStreamExt};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DbBackend, SqlxPostgresConnector, Statement, StreamTrait,
};
use sqlx::postgres::{PgPool, PgPoolOptions};

use crate::{BoxError, Result};

const DEADLINE: Duration = Duration::from_secs(600);

const STATEMENT: &str = "select $1::int as a";
const MANY: &str = "select generate_series(1, $1::int) as a";
/// So many bytes of a COPY are sent at once.
const CHUNK: usize = 64 * 1024;

diesel::table! {
    copied (a) { a -> Integer, }
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Integer)]
    a: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    Sqlx,
    SeaOrm,
    Diesel,
    DieselAsync,
}

impl Driver {
    pub fn name(self) -> &'static str {
        match self {
            Driver::Sqlx => "sqlx",
            Driver::SeaOrm => "SeaORM",
            Driver::Diesel => "Diesel",
            Driver::DieselAsync => "diesel-async",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Statement,
    Fresh,
    Rows,
    Copy,
}

impl Work {
    pub const ALL: [Work; 4] = [Work::Statement, Work::Fresh, Work::Rows, Work::Copy];

    pub fn name(self) -> &'static str {
        match self {
            Work::Statement => "statement",
            Work::Fresh => "fresh",
            Work::Rows => "rows",
            Work::Copy => "copy",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Work::Statement => {
                "A warm invocation with one statement: the driver alone, and the ratio behind \
                 antifreeze (quartiles):"
            }
            Work::Fresh => {
                "A new connection of the driver in a warm process, with its first statement:"
            }
            Work::Rows => "A million rows of an integer:",
            Work::Copy => "COPY of a million integers into an unlogged table:",
        }
    }

    /// SeaORM and diesel-async have no COPY.
    pub fn drivers(self) -> &'static [Driver] {
        match self {
            Work::Copy => &[Driver::Sqlx, Driver::Diesel],
            _ => &[
                Driver::Sqlx,
                Driver::SeaOrm,
                Driver::Diesel,
                Driver::DieselAsync,
            ],
        }
    }

    pub fn rounds(self, milliseconds: u64) -> usize {
        match (self, milliseconds) {
            (Work::Rows | Work::Copy, _) => 6,
            (_, 0) => 60,
            (_, 1) => 40,
            _ => 20,
        }
    }

    /// How often it is done in a round.
    pub fn batch(self, milliseconds: u64) -> u32 {
        match (self, milliseconds) {
            (Work::Statement, 0) => 20,
            _ => 1,
        }
    }
}

/// Everything at one link.
pub struct Subjects {
    url: String,
    rows: i32,
    database: Database,
    sqlx: [PgPool; 2],
    sea_orm: [DatabaseConnection; 2],
    diesel: Pool<ConnectionManager<PgConnection>>,
    diesel_async: deadpool::Pool<AsyncPgConnection>,
}

impl Subjects {
    /// `rows` are in a large result, and in a COPY.
    pub fn new(url: String, rows: i32) -> Result<Subjects> {
        let database = Database::from_url(&url)?;
        let behind = database.url()?;
        let pools = || -> Result<[PgPool; 2]> {
            let hooked = antifreeze::sqlx_hooks!(PgPoolOptions::new());
            Ok([
                PgPoolOptions::new().connect_lazy(&url)?,
                hooked.connect_lazy(&behind)?,
            ])
        };
        let manager = AsyncDieselConnectionManager::new(url.as_str());
        Ok(Subjects {
            sqlx: pools()?,
            sea_orm: pools()?.map(SqlxPostgresConnector::from_sqlx_postgres_pool),
            diesel: Pool::builder()
                .max_size(1)
                .build_unchecked(ConnectionManager::new(url.as_str())),
            diesel_async: deadpool::Pool::builder(manager).max_size(1).build()?,
            database,
            url,
            rows,
        })
    }

    /// Returns how long the work takes.
    pub async fn time(&self, driver: Driver, behind: bool, work: Work) -> Result<Duration> {
        let begun = Instant::now();
        if behind {
            let work = Box::pin(self.run(driver, behind, work));
            self.database.invocation(DEADLINE, work).await?;
        } else {
            Box::pin(self.run(driver, behind, work)).await?;
        }
        Ok(begun.elapsed())
    }

    async fn run(&self, driver: Driver, behind: bool, work: Work) -> Result<()> {
        // The URL of a new connection.
        let url = match behind {
            true => invocation()?.url()?,
            false => self.url.clone(),
        };
        match driver {
            Driver::Sqlx => self.sqlx(&url, behind, work).await,
            Driver::SeaOrm => self.sea_orm(&url, behind, work).await,
            Driver::Diesel if work == Work::Fresh || behind => {
                self.diesel(&mut PgConnection::establish(&url)?, work)
            }
            Driver::Diesel => self.diesel(&mut *self.diesel.get()?, work),
            Driver::DieselAsync if work == Work::Fresh || behind => {
                let mut connection = AsyncPgConnection::establish(&url).await?;
                self.diesel_async(&mut connection, work).await
            }
            Driver::DieselAsync => {
                let mut connection = self.diesel_async.get().await?;
                self.diesel_async(&mut connection, work).await
            }
        }
    }

    async fn sqlx(&self, url: &str, behind: bool, work: Work) -> Result<()> {
        use sqlx::{Connection, query_scalar};
        let pool = &self.sqlx[usize::from(behind)];
        match work {
            Work::Statement => {
                let read: i32 = query_scalar(STATEMENT).bind(7).fetch_one(pool).await?;
                assert_eq!(read, 7);
            }
            Work::Fresh => {
                let mut connection = sqlx::PgConnection::connect(url).await?;
                let read = query_scalar::<_, i32>(STATEMENT).bind(7);
                assert_eq!(read.fetch_one(&mut connection).await?, 7);
            }
            Work::Rows => {
                let many = query_scalar::<_, i32>(MANY).bind(self.rows);
                let mut rows = many.fetch(pool);
                let mut last = 0;
                while let Some(row) = rows.next().await {
                    last = row?;
                }
                assert_eq!(last, self.rows);
            }
            Work::Copy => {
                let mut connection = pool.acquire().await?;
                let mut copy = connection.copy_in_raw("copy copied from stdin").await?;
                for chunk in integers(self.rows).chunks(CHUNK) {
                    copy.send(chunk).await?;
                }
                assert_eq!(copy.finish().await?, u64::try_from(self.rows)?);
            }
        }
        Ok(())
    }

    async fn sea_orm(&self, url: &str, behind: bool, work: Work) -> Result<()> {
        let database = &self.sea_orm[usize::from(behind)];
        let statement = || {
            let values = [7.into()];
            Statement::from_sql_and_values(DbBackend::Postgres, STATEMENT, values)
        };
        match work {
            Work::Statement => {
                let row = database.query_one_raw(statement()).await?;
                let row = row.ok_or("a row")?;
                assert_eq!(row.try_get_by_index::<i32>(0)?, 7);
            }
            Work::Fresh => {
                let mut options = sea_orm::ConnectOptions::new(url);
                // Its pool opens a connection at once.
                options.max_connections(1).sqlx_logging(false);
                let connected = sea_orm::Database::connect(options).await?;
                let row = connected.query_one_raw(statement()).await?;
                assert_eq!(row.ok_or("a row")?.try_get_by_index::<i32>(0)?, 7);
            }
            Work::Rows => {
                let values = [self.rows.into()];
                let many = Statement::from_sql_and_values(DbBackend::Postgres, MANY, values);
                let mut rows = database.stream_raw(many).await?;
                let mut last = 0;
                while let Some(row) = rows.next().await {
                    last = row?.try_get_by_index::<i32>(0)?;
                }
                assert_eq!(last, self.rows);
            }
            Work::Copy => return Err("SeaORM has no COPY".into()),
        }
        Ok(())
    }

    fn diesel(&self, connection: &mut PgConnection, work: Work) -> Result<()> {
        match work {
            Work::Statement | Work::Fresh => {
                let read: i32 = diesel::select(7.into_sql::<Integer>()).get_result(connection)?;
                assert_eq!(read, 7);
            }
            Work::Rows => {
                let rows = diesel::sql_query(MANY).bind::<Integer, _>(self.rows);
                let rows = rows.load_iter::<Row, PgRowByRowLoadingMode>(connection)?;
                let last = rows.last().transpose()?;
                assert_eq!(last.map(|row| row.a), Some(self.rows));
            }
            Work::Copy => {
                let text = integers(self.rows);
                let copy = diesel::copy_from(copied::table).from_raw_data(copied::table, |copy| {
                    let wrong = |_| diesel::result::Error::BrokenTransactionManager;
                    let mut chunks = text.chunks(CHUNK);
                    chunks.try_for_each(|chunk| copy.write_all(chunk).map_err(wrong))
                });
                assert_eq!(copy.execute(connection)?, usize::try_from(self.rows)?);
            }
        }
        Ok(())
    }

    async fn diesel_async(&self, connection: &mut AsyncPgConnection, work: Work) -> Result<()> {
        use diesel_async::RunQueryDsl;
        match work {
            Work::Statement | Work::Fresh => {
                let select = diesel::select(7.into_sql::<Integer>());
                let read: i32 = RunQueryDsl::get_result(select, connection).await?;
                assert_eq!(read, 7);
            }
            Work::Rows => {
                let rows = diesel::sql_query(MANY).bind::<Integer, _>(self.rows);
                let rows = rows.load_stream::<Row>(connection).await?;
                let last = rows.try_fold(0, async |_, row| Ok(row.a)).await?;
                assert_eq!(last, self.rows);
            }
            Work::Copy => return Err(BoxError::from("diesel-async has no COPY")),
        }
        Ok(())
    }
}

/// The text of a COPY.
fn integers(rows: i32) -> &'static [u8] {
    static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
    TEXT.get_or_init(|| {
        let lines = (1..=rows).map(|number| format!("{number}\n"));
        lines.collect::<String>().into_bytes()
    })
}
