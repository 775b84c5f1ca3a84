//! Passwords, parameters and values, planted where they could leak, are in no line, span or metric.

use antifreeze::{Config, connection, transaction};
use lab::postgres::{Auth, Postgres};
use tokio_postgres::types::Type;
use tracing_subscriber::layer::SubscriberExt;

use crate::common::capture::Capture;
use crate::common::{BoxError, Lab, PLENTY};
use crate::metrics::Recorded;
use crate::spans::Closed;

/// The password, one that is wrong, and the values: the number is too long to be met by chance
/// in the hash of a metric or an elapsed time.
const SECRETS: [&str; 4] = ["hunter2", "tr0ub4dor", "mallory", "1471147114"];
const VALUE: i32 = 1_471_147_114;

/// Fails, repeats and leaves open what it can, with values everywhere.
async fn misbehave(lab: &Lab) {
    let work = async {
        let first = connection().await?;
        for value in (VALUE..).take(29) {
            let text = format!("select name from accounts where id = {value} or name = 'mallory'");
            first.simple_query(&text).await?;
            let typed = [(&value as _, Type::INT4), (&"mallory" as _, Type::TEXT)];
            let text = "select $1, $2 /* mallory */ -- mallory";
            first.query_typed(text, &typed).await?;
        }
        first
            .batch_execute("begin; select 'mallory', E'mal\\'lory 1471147114'")
            .await?;
        Ok(())
    };
    lab.run(work).await.expect("it is left open");
    let clash: Result<(), BoxError> = lab
        .run(async {
            let transaction = transaction().await?;
            let insert = "insert into accounts values ($1, $2)";
            for _ in 0..2 {
                transaction.execute(insert, &[&VALUE, &"mallory"]).await?;
            }
            Ok(())
        })
        .await;
    clash.expect_err("there is one already");
    let notice: Result<(), BoxError> = lab
        .run(async {
            let notice = "do $$ begin raise notice 'mallory'; raise exception 'mallory'; end $$";
            connection().await?.batch_execute(notice).await?;
            Ok(())
        })
        .await;
    notice.expect_err("it raises");
    lab.run(async {
        let listen = "listen news; select set_config('antifreeze.mallory', 'mallory', false)";
        connection().await?.batch_execute(listen).await?;
        Ok(())
    })
    .await
    .expect("it is reset");
}

#[tokio::test]
async fn secrets_are_in_no_line_span_or_metric() {
    let server = Postgres::builder().auth(Auth::Scram).start().await;
    let server = server.expect("a server");
    let url = |password: &str| {
        let address = server.address();
        format!("postgres://visitor:{password}@{address}/d?sslmode=disable")
    };
    let schema = "create role visitor superuser login password 'hunter2'; \
                  create table accounts (id int unique, name text)";
    let database = server.create_database("d").await.expect("a database");
    database.execute(schema).await.expect("a role");
    let (lines, closed) = (Capture::default(), Closed::default());
    let subscriber = tracing_subscriber::registry()
        .with(lines.clone())
        .with(closed.clone());
    let _guard = tracing::subscriber::set_default(subscriber);
    let (recorded, _local) = Recorded::start();

    let change = |config: Config, texts| {
        config
            .slow_invocation(std::time::Duration::ZERO)
            .log_statements(texts)
    };
    let lab = Lab::over(database, &url("hunter2"), |config| change(config, false));
    misbehave(&lab).await;
    let hashed = lines.take();
    let lab = Lab::over(lab.server, &url("hunter2"), |config| change(config, true));
    misbehave(&lab).await;
    let refused = Config::from_url(&url("tr0ub4dor")).expect("a URL");
    let refused = antifreeze::Database::new(refused).expect("settings");
    let refused = tokio::time::timeout(PLENTY, refused.warm_up())
        .await
        .expect("in time");
    assert!(refused.expect("a report").first_error.is_some());

    let told = lines.take();
    // It was told of, with the text where that is configured.
    for (all, statement) in [(&hashed, false), (&told, true)] {
        for message in [
            "an invocation left a",
            "an invocation was slow",
            "an invocation executed",
        ] {
            let found = all.iter().find(|seen| seen.message.starts_with(message));
            let found = found.unwrap_or_else(|| panic!("{message} is not among {all:?}"));
            let text = format!("{found:?}");
            assert!(statement || !text.contains("accounts"), "{text}");
        }
        assert_eq!(
            format!("{all:?}").contains("from accounts where id = ?"),
            statement
        );
    }
    let everything = [
        format!("{hashed:?}"),
        format!("{told:?}"),
        format!("{:?}", closed.take()),
        format!("{recorded:?}"),
    ];
    for text in &everything {
        assert!(text.len() > 1_000, "something was recorded");
        for secret in SECRETS {
            let at = text.find(secret);
            let around = at.map(|at| &text[at.saturating_sub(80)..(at + 40).min(text.len())]);
            assert_eq!(around, None, "{secret}");
        }
    }
}
