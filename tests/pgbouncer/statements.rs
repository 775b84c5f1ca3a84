//! Named statements and types of the user's own.

use super::raw::{self, SYNC};
use super::*;
use postgres_protocol::message::frontend;

/// A type of the user's own, as one text: what tokio-postgres has to look up.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    /// `mood`, an enum.
    Mood(&'static str),
    /// `price`, a composite of text and int.
    Price(&'static str, i32),
    /// `age`, a domain over int.
    Age(i32),
}

impl ToSql for Value {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        match (self, ty.kind()) {
            (Value::Mood(label), Kind::Enum(labels)) => {
                assert!(labels.iter().any(|known| known == label));
                out.put_slice(label.as_bytes());
            }
            (Value::Price(currency, amount), Kind::Composite(fields)) => {
                // record_send: the number of fields, then type, length and value of each.
                let values: [&(dyn ToSql + Sync); 2] = [currency, amount];
                out.put_i32(2);
                for (field, value) in fields.iter().zip(values) {
                    let mut bytes = BytesMut::new();
                    value.to_sql_checked(field.type_(), &mut bytes)?;
                    out.put_u32(field.type_().oid());
                    out.put_i32(i32::try_from(bytes.len())?);
                    out.put_slice(&bytes);
                }
            }
            (Value::Age(years), Kind::Domain(Type::INT4)) => out.put_i32(*years),
            other => return Err(format!("{other:?}").into()),
        }
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        ["mood", "price", "age"].contains(&ty.name())
    }

    to_sql_checked!();
}

/// The bytes of a value whose type was looked up.
struct Raw(Vec<u8>);

impl FromSql<'_> for Raw {
    fn from_sql(_: &Type, bytes: &[u8]) -> Result<Self, BoxError> {
        Ok(Raw(bytes.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

fn echoes(row: &Row, value: &Value, ty: &Type) {
    let mut bytes = BytesMut::new();
    let sent = value.to_sql(ty, &mut bytes).expect("it was sent");
    assert!(matches!(sent, IsNull::No));
    assert_eq!(row.get::<_, Raw>(0).0, bytes, "{value:?}");
}

/// One client's work: statements of every kind, prepared, kept and sent again.
async fn works(client: &antifreeze::Connection, number: i32) -> Result<(), BoxError> {
    let kept = client.prepare("select $1::int + 1").await?;
    let cached = client.prepare_cached("select $1::text || 'x'").await?;
    for round in 0..5 {
        let given = number * 100 + round;
        let row = client.query_one(&kept, &[&given]).await?;
        assert_eq!(row.get::<_, i32>(0), given + 1);
        let row = client.query_one(&cached, &[&"a"]).await?;
        assert_eq!(row.get::<_, &str>(0), "ax");
        // A text that no other session has prepared.
        let text = format!("select $1::int + {given}");
        let row = client.query_one(text.as_str(), &[&1]).await?;
        assert_eq!(row.get::<_, i32>(0), given + 1);
        for (value, name) in [
            (Value::Mood("sad"), "mood"),
            (Value::Price("EUR", given), "price"),
            (Value::Age(given), "age"),
        ] {
            let row = client
                .query_one(format!("select $1::{name}").as_str(), &[&value])
                .await?;
            let looked_up = client.prepare(&format!("select $1::{name}")).await?;
            echoes(&row, &value, &looked_up.params()[0]);
        }
        client
            .execute(
                "insert into typed (mood, price, age) values ($1, $2, $3)",
                &[
                    &Value::Mood("fine"),
                    &Value::Price("USD", given),
                    &Value::Age(given),
                ],
            )
            .await?;
    }
    Ok(())
}

pub const TYPES: &str = "create type mood as enum ('sad', 'fine'); \
                     create type price as (currency text, amount int); \
                     create domain age as int check (value >= 0); \
                     create table typed (mood mood, price price, age age)";

async fn with_types(pooler: Pooler) -> Pooled {
    let pooled = pooled_with(Mode::Transaction, SERVERS, |config| {
        config
            .pooler(pooler)
            .max_connections(CLIENTS)
            // Behind a pooler they are not sent; here the control would be refused for them.
            .jit(true)
            .statement_timeout(Duration::ZERO)
            .idle_in_transaction_timeout(Duration::ZERO)
    })
    .await;
    pooled.lab.server.execute(TYPES).await.expect("types");
    pooled
}

/// So many at a time, each an invocation with a client of its own.
pub async fn all_at_once(pooled: &Pooled) -> Vec<Result<(), BoxError>> {
    let together = Arc::new(Barrier::new(CLIENTS));
    let clients = (0..CLIENTS as i32).map(|number| {
        let together = Arc::clone(&together);
        pooled.lab.run(async move {
            let connection = connection().await?;
            together.wait().await;
            works(&connection, number).await
        })
    });
    join_all(clients).await
}

#[tokio::test]
async fn named_statements_work_for_many_clients() {
    let pooled = with_types(Pooler::Transaction).await;
    names_are_taken(&pooled).await;
    for round in 0..2 {
        for result in all_at_once(&pooled).await {
            result.unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        }
        let servers = pooled.servers().await;
        assert!(servers.len() <= SERVERS, "{servers:?}");
        pooled.assert_at_rest("named statements").await;
    }
    let rows = pooled.lab.server.query("select count(*) from typed").await;
    let expected = (2 * CLIENTS * 5).to_string();
    assert_eq!(rows.expect("rows")[0][0], Some(expected));
}

/// Another process counts its statements from the beginning too: its names are on every
/// server.
pub async fn names_are_taken(pooled: &Pooled) {
    let together = Arc::new(Barrier::new(SERVERS));
    let others = (0..SERVERS).map(|_| {
        let together = Arc::clone(&together);
        pooled.lab.run(async move {
            let connection = connection().await?;
            connection.batch_execute("begin").await?;
            let prepare = |number| format!("prepare s{number} as select 'not yours';");
            let prepare: String = (0..1000).map(prepare).collect();
            connection.batch_execute(&prepare).await?;
            together.wait().await;
            connection.batch_execute("commit").await?;
            Ok(())
        })
    });
    try_join_all(others).await.expect("prepared");
}

/// The same work without the rewrite falls on a PgBouncer that does not follow
/// prepared statements: so the test above shows something.
#[tokio::test]
async fn named_statements_fail_without_the_rewrite() {
    let pooled = with_types(Pooler::None).await;
    names_are_taken(&pooled).await;
    let failed: Vec<_> = all_at_once(&pooled)
        .await
        .into_iter()
        .filter_map(Result::err)
        .collect();
    let follows = pooled.pooler.version() >= "1.21";
    assert_eq!(failed.is_empty(), follows, "{failed:?}");
}

/// A lazily begun transaction pins the server: statements and types inside it too.
#[tokio::test]
async fn lazy_transactions_work_for_many_clients() {
    let pooled = with_types(Pooler::Transaction).await;
    let clients = (0..CLIENTS as i32).map(|number| {
        pooled.lab.run(async move {
            let transaction = transaction().await?;
            let insert = "insert into typed (mood, price, age) values ($1, $2, $3)";
            for round in 0..5 {
                let age = Value::Age(number * 10 + round);
                let price = Value::Price("EUR", round);
                transaction
                    .execute(insert, &[&Value::Mood("fine"), &price, &age])
                    .await?;
            }
            match number % 2 {
                0 => Ok(()),
                _ => Err("rolled back".into()),
            }
        })
    });
    let results: Vec<Result<(), BoxError>> = join_all(clients).await;
    for (number, result) in results.into_iter().enumerate() {
        match result {
            Ok(()) => assert_eq!(number % 2, 0),
            Err(error) => assert_eq!(error.to_string(), "rolled back"),
        }
    }
    pooled.assert_at_rest("lazy transactions").await;
    let rows = pooled.lab.server.query("select count(*) from typed").await;
    let expected = (CLIENTS / 2 * 5).to_string();
    assert_eq!(rows.expect("rows")[0][0], Some(expected));
}

/// Statements go unnamed, so each is parsed against the schema of the moment: what the
/// server would refuse by name goes through, and what it answers is read as what was
/// prepared. `docs/providers/pgbouncer.md` says so.
#[tokio::test]
async fn schema_change_is_seen_by_prepared_statements() {
    let pooled = pooled(Mode::Transaction).await;
    let lab = &pooled.lab;
    lab.server
        .execute(
            "create table s (a int); insert into s values (1); \
             create type mood as enum ('sad'); create table m (mood mood)",
        )
        .await
        .expect("a schema");
    let change = async |sql: &str| lab.server.execute(sql).await.expect(sql);
    lab.run(async {
        let connection = connection().await?;
        let all = connection.prepare_cached("select * from s").await?;
        let one = connection.prepare_cached("select a from s").await?;
        let insert = connection
            .prepare_cached("insert into m values ($1)")
            .await?;
        let echo = connection
            .prepare_cached("select mood::text from m where mood = $1")
            .await?;
        let number = async |statement: &tokio_postgres::Statement| {
            let row = connection.query_one(statement, &[]).await?;
            row.try_get::<_, i32>(0)
        };
        // A column more is an error on our side, after the statement was executed.
        change("alter table s add column b text default 'b'").await;
        let error = connection.query(&all, &[]).await.expect_err("two columns");
        let source = std::error::Error::source(&error).expect("a cause");
        assert!(source.to_string().contains("field count"), "{source}");
        assert_eq!(number(&one).await?, 1, "named columns are not affected");
        // A table that was dropped and made again is the new one.
        change("drop table s; create table s (a int); insert into s values (2)").await;
        assert_eq!(number(&all).await?, 2);
        assert_eq!(number(&one).await?, 2);
        // A label that is added is taken; tokio-postgres has the type from before.
        change("alter type mood add value 'fine'").await;
        connection.execute(&insert, &[&Label("fine")]).await?;
        let row = connection.query_one(&echo, &[&Label("fine")]).await?;
        assert_eq!(row.get::<_, &str>(0), "fine");
        // A type of the same name is the new one, and so is what it is sent as.
        change(
            "drop table m; drop type mood; create type mood as enum ('sad', 'new'); \
             create table m (mood mood)",
        )
        .await;
        connection.execute(&insert, &[&Label("new")]).await?;
        // A wider type is an error on our side, too; the session goes on.
        change("alter table s alter a type bigint").await;
        let error = number(&one).await.expect_err("8 bytes are no i32");
        assert!(
            error.to_string().contains("deserializing column 0"),
            "{error}"
        );
        // A type of the same width is misread without an error.
        change("alter table s alter a type real").await;
        assert_eq!(number(&one).await?, 2_f32.to_bits() as i32);
        change("alter table s alter a type bigint").await;
        // The cached statement has the old type, a new one the new type.
        let anew = connection.prepare("select a from s").await?;
        let row = connection.query_one(&anew, &[]).await?;
        assert_eq!(row.get::<_, i64>(0), 2);
        // What is gone is missed at once.
        change("drop table s").await;
        let error = number(&one).await.expect_err("no such table");
        assert_eq!(error.code().map(|code| code.code()), Some("42P01"));
        Ok(())
    })
    .await
    .expect("fine");
    pooled.assert_at_rest("a schema that changed").await;
}

/// A label of an enum, whatever its labels were when it was looked up.
#[derive(Debug)]
struct Label(&'static str);

impl ToSql for Label {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        out.put_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        matches!(ty.kind(), Kind::Enum(_))
    }

    to_sql_checked!();
}

/// Prepared statements are not part of a transaction: one whose Execute fails stays.
#[tokio::test]
async fn statement_outlives_its_failed_execute() {
    for mode in MODES {
        let pooled = pooled(mode).await;
        let lab = &pooled.lab;
        lab.run(async {
            let url = antifreeze::invocation()?.url()?;
            let mut raw = raw::Raw::start(&url, &[]).await;
            raw.ready().await;
            let mut unit = BytesMut::new();
            let divide = "insert into t select 1 / count(*)::int from t";
            frontend::parse("one", divide, [], &mut unit)?;
            let run = b"B\0\0\0\x0f\0one\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0";
            unit.put_slice(run);
            unit.put_slice(SYNC);
            raw.send(&unit).await;
            assert_eq!(raw.ready().await, ("12EZ".to_owned(), 'I'));
            raw.send(&raw::query("insert into t values (1)")).await;
            raw.ready().await;
            raw.send(&[&run[..], SYNC].concat()).await;
            assert_eq!(raw.ready().await, ("2CZ".to_owned(), 'I'), "{mode:?}");
            Ok(())
        })
        .await
        .expect("fine");
        assert_eq!(lab.rows().await, 2, "{mode:?}");
    }
}

/// What a statement may leave in a server that is not the client's own holds no connection.
#[tokio::test]
async fn unknown_state_holds_no_connection() {
    let pooled = pooled_with(Mode::Transaction, 1, |config| config.max_connections(1)).await;
    let lab = &pooled.lab;
    let mut ids = Vec::new();
    for _ in 0..2 {
        lab.run(async {
            let url = antifreeze::invocation()?.url()?;
            let mut raws = Vec::new();
            for _ in 0..2 {
                let mut raw = raw::Raw::start(&url, &[]).await;
                raw.ready().await;
                raw.send(&raw::query("do $$ begin end $$")).await;
                assert_eq!(raw.ready().await, ("CZ".to_owned(), 'I'));
                raws.push(raw);
            }
            Ok(())
        })
        .await
        .expect("both have their turn");
        let torn_down = lab.torn_down();
        let clean = torn_down.iter().all(|one| one.outcome.is_clean());
        assert!(clean, "{torn_down:?}");
        ids.extend(torn_down.iter().map(|one| one.process_id));
    }
    assert!(ids.windows(2).all(|two| two[0] == two[1]), "{ids:?}");
}

/// The pooler carries them from server to server, for the client's connection.
#[tokio::test]
async fn parameters_of_drivers_do_not_spread() {
    let pooled = pooled_with(Mode::Transaction, 2, |config| config.max_connections(2)).await;
    let lab = &pooled.lab;
    let usual = lab
        .server
        .query("show datestyle")
        .await
        .expect("it answers");
    let usual = usual[0][0].clone().expect("a value");
    for inside in [false, true] {
        lab.run(async {
            let invocation = antifreeze::invocation()?;
            let german = [("DateStyle", "German, DMY")];
            if inside {
                transaction().await?.batch_execute("select 1").await?;
                let url = invocation.transaction_url()?;
                let mut raw = raw::Raw::start(&url, &german).await;
                raw.ready().await;
                raw.send(&raw::query("select 1")).await;
                raw.ready().await;
            } else {
                let url = invocation.url()?;
                let mut one = raw::Raw::start(&url, &[]).await;
                one.ready().await;
                one.send(&raw::query("set datestyle = german, dmy")).await;
                one.ready().await;
                one.send(&raw::query("show datestyle")).await;
                assert!(one.next().await.is_some_and(|row| row.tag == b'T'));
                assert!(one.answered_with(b"German, DMY").await);
                one.ready().await;
                let other = connection().await?.query_one("show datestyle", &[]).await?;
                assert_eq!(other.get::<_, String>(0), usual);
            }
            Ok(())
        })
        .await
        .expect("answered");
        lab.run(async {
            let shown = connection().await?.query_one("show datestyle", &[]).await?;
            assert_eq!(shown.get::<_, String>(0), usual, "{inside}");
            Ok(())
        })
        .await
        .expect("answered");
    }
}
