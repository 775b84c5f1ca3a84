//! Suggests a database name when the configured one does not exist.

use antifreeze::config::Settings;
use antifreeze::internal::{self, nearest};
use tokio_postgres::SimpleQueryMessage;

use super::session::{CLOSE_TIMEOUT, open};

/// Databases that almost every server has; one of them is used to list the others.
const MAINTENANCE_DATABASES: [&str; 2] = ["postgres", "template1"];

/// How many names the suggestion lists at most.
const MAX_NAMES: usize = 10;

/// Returns a remedy that names existing databases, if they can be listed.
pub(super) async fn suggestion(config: &Settings) -> Option<String> {
    let wanted = config.server.get_dbname()?;
    let names = names(config).await?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Some(match nearest(wanted, names.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => {
            let more = names.len().saturating_sub(MAX_NAMES);
            let mut shown = names[..names.len().min(MAX_NAMES)].join(", ");
            if more > 0 {
                shown += &format!(" and {more} more");
            }
            format!("existing databases: {shown}; use one of these, or create it")
        }
    })
}

async fn names(config: &Settings) -> Option<Vec<String>> {
    for name in MAINTENANCE_DATABASES {
        let mut config = config.clone();
        config.server.dbname(name);
        let Ok(database) = internal::database(config) else {
            continue;
        };
        let Ok(session) = open(&database).await else {
            continue;
        };
        let sql = "select datname from pg_database where datallowconn and not datistemplate \
                   order by datname";
        let messages = session.simple_query(sql).await.ok()?;
        session.close(CLOSE_TIMEOUT).await;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        return Some(rows.collect());
    }
    None
}
