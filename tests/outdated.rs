//! Statements that a change of the schema has left behind: they are prepared again, and nothing is
//! executed twice.

mod common;

use antifreeze::{Connection, Error, ErrorKind, connection};
use common::{BoxError, kind, lab, lab_with};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{IsNull, ToSql, Type, private::BytesMut, to_sql_checked};

const SELECT: &str = "select * from t";

/// A label of an enum, whatever its type.
#[derive(Debug)]
struct Label(&'static str);

impl ToSql for Label {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

#[tokio::test]
async fn schema_change_prepares_statements_again() {
    let lab = lab().await;
    lab.server
        .execute("insert into t values (1)")
        .await
        .expect("a row");
    lab.run(async {
        let connection = connection().await?;
        let columns = async || {
            let rows = connection.query_cached(SELECT, &[]).await?;
            Ok::<_, tokio_postgres::Error>(rows[0].len())
        };
        assert_eq!(columns().await?, 1);
        lab.server.execute("alter table t add column b int").await?;
        assert_eq!(columns().await?, 2, "healed at once");
        assert_eq!(connection.query_one_cached(SELECT, &[]).await?.len(), 2);

        // A statement that the user prepared fails once.
        lab.server.execute("alter table t drop column b").await?;
        let statement = connection.prepare_cached(SELECT).await?;
        let error = connection
            .query(&statement, &[])
            .await
            .expect_err("outdated");
        assert_eq!(Error::from(error).kind(), ErrorKind::StatementOutdated);
        let statement = connection.prepare_cached(SELECT).await?;
        assert_eq!(connection.query_one(&statement, &[]).await?.len(), 1);
        Ok(())
    })
    .await
    .expect("healed");
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn statement_in_a_transaction_is_not_repeated() {
    let lab = lab().await;
    let error = lab
        .run(async {
            {
                let connection = connection().await?;
                connection.query_cached(SELECT, &[]).await?;
            }
            lab.server.execute("alter table t add column b int").await?;
            let transaction = antifreeze::transaction().await?;
            let connection: &Connection = transaction.as_ref();
            let error = connection.query_cached(SELECT, &[]).await;
            let error = Error::from(error.expect_err("it has begun, and failed"));
            assert_eq!(error.kind(), ErrorKind::StatementOutdated, "{error}");
            let error = connection.query_cached(SELECT, &[]).await;
            assert_eq!(
                error.expect_err("failed").code(),
                Some(&SqlState::IN_FAILED_SQL_TRANSACTION)
            );
            Ok(())
        })
        .await
        .expect_err("nothing to commit");
    assert_eq!(kind(&error), Some(ErrorKind::TransactionFailed), "{error}");
}

#[tokio::test]
async fn recreated_type_is_looked_up_again() {
    let lab = lab().await;
    let create = "create type mood as enum ('sad', 'happy')";
    lab.server.execute(create).await.expect("a type");
    lab.run(async {
        let connection = connection().await?;
        let ask = async || {
            let sql = "select $1::mood = 'sad'::mood";
            let row = connection.query_one_cached(sql, &[&Label("sad")]).await?;
            row.try_get::<_, bool>(0)
        };
        assert!(ask().await?);
        lab.server.execute("drop type mood").await?;
        lab.server.execute(create).await?;
        assert!(ask().await?, "healed");
        Ok(())
    })
    .await
    .expect("healed");
}

#[tokio::test]
async fn deallocated_statements_are_prepared_again() {
    let lab = lab().await;
    lab.run(async {
        let connection = connection().await?;
        let insert = "insert into t values ($1)";
        assert_eq!(connection.execute_cached(insert, &[&1]).await?, 1);
        connection.batch_execute("deallocate all").await?;
        assert_eq!(connection.execute_cached(insert, &[&2]).await?, 1);
        assert!(
            connection.query_opt_cached(SELECT, &[]).await.is_err(),
            "two rows"
        );
        Ok(())
    })
    .await
    .expect("healed");
    assert_eq!(lab.rows().await, 2, "each once");
}

/// An enum loses a label by being made again.
#[tokio::test]
async fn type_that_was_made_again_fails_once_at_most() {
    for cached in [false, true] {
        let lab = lab_with(|config| config.max_connections(1).reuse_statements(true)).await;
        let create = "create type mood as enum ('sad', 'ok'); create table m (a mood)";
        lab.server.execute(create).await.expect("created");
        let insert = async || {
            lab.run(async {
                let insert = "insert into m values ($1)";
                let connection = connection().await?;
                let inserted = match cached {
                    true => connection.execute_cached(insert, &[&Label("ok")]).await,
                    false => connection.execute(insert, &[&Label("ok")]).await,
                };
                Ok(inserted?)
            })
            .await
        };
        assert_eq!(insert().await.expect("inserted"), 1);
        let again = "alter table m drop column a; drop type mood; \
                     create type mood as enum ('ok'); alter table m add a mood";
        lab.server.execute(again).await.expect("made again");
        let first = insert().await;
        assert!(first.is_ok() || !cached, "{first:?}");
        assert_eq!(insert().await.expect("at the second use"), 1, "{cached}");
    }
}

/// What a procedure calls may not exist, when half of it is committed.
#[tokio::test]
async fn procedure_is_not_called_twice() {
    let lab = lab().await;
    let create = "create procedure p() language plpgsql as \
                  $$ begin insert into t values (1); commit; execute 'execute nothing'; end $$";
    lab.server.execute(create).await.expect("created");
    lab.run(async {
        let connection = connection().await?;
        let called = connection.execute_cached("call p()", &[]).await;
        let code = called.expect_err("it calls nothing").code().cloned();
        assert_eq!(code.expect("the server's").code(), "26000");
        Ok(())
    })
    .await
    .expect("fine");
    assert_eq!(lab.rows().await, 1);
}
