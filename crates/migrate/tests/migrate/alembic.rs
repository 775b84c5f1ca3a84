//! Tests alembic under the lock, as `antifreeze migrate --run 'alembic upgrade head'` runs it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use antifreeze_migrate::{ErrorKind, ToolRunner};
use lab::tools::tool;
use tempfile::TempDir;

use crate::common::{LOCK_TIMEOUT, Lab, SEEN, lab};

/// The files of `alembic init` that `upgrade` needs.
const INI: &str = "[alembic]\nscript_location = %(here)s/migrations\n";

const ENV: &str = r#"
import os

from alembic import context
from sqlalchemy import create_engine, pool

url = os.environ["DATABASE_URL"].replace("postgres://", "postgresql+psycopg://", 1)
with create_engine(url, poolclass=pool.NullPool).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"#;

const REVISION: &str = r#"
import sqlalchemy
from alembic import op

revision = "0001"
down_revision = None


def upgrade():
    op.add_column("partners", sqlalchemy.Column("country", sqlalchemy.Text))
    op.execute("create table kept as select current_setting('lock_timeout') as lock, "
               "current_setting('application_name') as name")
"#;

/// A revision that continues after an error, and prints nothing.
const CARELESS: &str = r#"
from alembic import op

revision = "0001"
down_revision = None


def upgrade():
    with op.get_context().autocommit_block():
        try:
            op.execute("alter table partners add column country text")
        except Exception:
            pass
"#;

const SLOW: &str = r#"
from alembic import op

revision = "0001"
down_revision = None


def upgrade():
    op.execute("select pg_sleep(3600)")
"#;

/// Creates a project with one revision.
fn project(revision: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    write("alembic.ini", INI);
    write("migrations/env.py", ENV);
    write("migrations/versions/0001_country.py", revision);
    folder
}

fn upgrade(lab: &Lab, project: &Path) -> ToolRunner {
    let mut alembic = Command::new(tool("alembic"));
    alembic
        .args(["upgrade", "head"])
        .current_dir(project)
        .env("DATABASE_URL", &lab.server.url);
    let short = Duration::from_millis(100);
    ToolRunner::new(&lab.database, alembic)
        .lock_timeout(LOCK_TIMEOUT)
        .backoff(short, short)
}

/// The blocking session is named, alembic is run again, and its history has the revision once.
#[tokio::test]
async fn upgrades_are_retried_after_lock_timeouts() {
    let (lab, project) = (lab().await, project(REVISION));
    let upgrade = upgrade(&lab, project.path()).attempts(100);
    lab.is_retried(upgrade, "alembic").await;
    let kept = "select concat_ws(' ', lock, name) from kept";
    assert_eq!(lab.value(kept).await, "600ms migrate:alembic");
    let history = "select string_agg(version_num, ' ') from alembic_version";
    assert_eq!(lab.value(history).await, "0001");
    lab.assert_gone().await;
}

#[tokio::test]
async fn revisions_that_continue_are_failures() {
    let (lab, project) = (lab().await, project(CARELESS));
    let _forgetful = lab.idle_in_transaction().await;
    let upgrade = upgrade(&lab, project.path()).lock_timeout(SEEN);
    let error = upgrade.run().await.expect_err("it was ended");
    assert_eq!(error.kind(), ErrorKind::Blocked, "{error}");
    assert!(error.to_string().contains("alembic continued"), "{error}");
    let history = "select string_agg(version_num, ' ') from alembic_version";
    assert_eq!(lab.value(history).await, "0001");
}

#[tokio::test]
async fn slow_revisions_are_timeouts() {
    let (lab, project) = (lab().await, project(SLOW));
    let upgrade = upgrade(&lab, project.path()).statement_timeout(LOCK_TIMEOUT);
    let error = upgrade.run().await.expect_err("it was ended");
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert_eq!(error.report().retries, 0, "{error}");
}
