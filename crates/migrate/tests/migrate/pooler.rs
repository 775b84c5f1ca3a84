//! Tests migrations through PgBouncer.

use antifreeze::config::DirectEndpoint;
use antifreeze::config::Pooler;
use antifreeze::{Config, Database};
use antifreeze_migrate::ErrorKind;
use lab::pgbouncer::{Mode, PgBouncer};
use lab::postgres::Postgres;

use crate::common::{Lab, lab, migrations};

const FILES: [(&str, &str); 1] = [("V1__a", "create table a (a int)")];

async fn pooler(mode: Mode) -> PgBouncer {
    let server = Postgres::shared().await.expect("a server");
    // A usual setting for clients that send options.
    let pooler = PgBouncer::builder(server)
        .mode(mode)
        .setting("ignore_startup_parameters", "options,extra_float_digits");
    pooler.start().await.expect("a pooler")
}

fn behind(pooler: &PgBouncer, lab: &Lab, change: impl FnOnce(Config) -> Config) -> Database {
    let config = change(Config::from_url(&pooler.url(&lab.server.url)).expect("a URL"));
    Database::new(config).expect("settings")
}

#[tokio::test]
async fn transaction_poolers_are_refused_with_a_remedy() {
    let (lab, pooler) = (lab().await, pooler(Mode::Transaction).await);
    let database = behind(&pooler, &lab, |config| config.pooler(Pooler::Transaction));
    let error = migrations(&FILES)
        .runner(&database)
        .run()
        .await
        .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let line = error.to_string();
    assert!(
        line.contains("MIGRATION_DATABASE_URL") && !line.contains('\n'),
        "{line}"
    );
    assert_eq!(lab.value("select to_regclass('a') is null").await, "t");
}

#[tokio::test]
async fn unconfigured_poolers_are_detected() {
    let (lab, pooler) = (lab().await, pooler(Mode::Transaction).await);
    let database = behind(&pooler, &lab, |config| config);
    assert_eq!(database.settings().pooler, Pooler::None);
    let error = migrations(&FILES)
        .runner(&database)
        .run()
        .await
        .expect_err("found out");
    assert_eq!(error.kind(), ErrorKind::Pooler, "{error}");
    assert_eq!(lab.value("select to_regclass('a') is null").await, "t");
}

#[tokio::test]
async fn direct_endpoints_bypass_the_pooler() {
    let (lab, pooler) = (lab().await, pooler(Mode::Transaction).await);
    let direct = || DirectEndpoint::from_url(&lab.server.url).expect("a URL");
    let database = behind(&pooler, &lab, |config| {
        config.pooler(Pooler::Transaction).direct(direct())
    });
    let report = migrations(&FILES)
        .runner(&database)
        .run()
        .await
        .expect("known");
    assert_eq!(report.applied.len(), 1);

    let unknown = behind(&pooler, &lab, |config| config.pooler(Pooler::Transaction));
    let given = migrations(&FILES).runner(&unknown).endpoint(direct());
    assert!(given.run().await.expect("given").applied.is_empty());
}

#[tokio::test]
async fn session_poolers_are_accepted() {
    let (lab, pooler) = (lab().await, pooler(Mode::Session).await);
    let database = behind(&pooler, &lab, |config| config.pooler(Pooler::Session));
    let report = migrations(&FILES)
        .runner(&database)
        .run()
        .await
        .expect("a session");
    assert_eq!(report.applied.len(), 1);
    assert_eq!(lab.applied().await, "1 a");
}
