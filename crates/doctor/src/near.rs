//! The database that was perhaps meant.

use antifreeze::config::Settings;
use antifreeze::internal::{self, nearest};
use tokio_postgres::SimpleQueryMessage;

use super::session::{GOODBYE, open};

/// Databases that are there, but for special reasons.
const ALWAYS: [&str; 2] = ["postgres", "template1"];

/// More names do not help.
const MOST: usize = 10;

/// What to say instead of the usual, if the names of the databases can be had.
pub(super) async fn database(config: &Settings) -> Option<String> {
    let wanted = config.server.get_dbname()?;
    let names = names(config).await?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Some(match nearest(wanted, names.iter().copied()) {
        Some(near) => format!("there is \"{near}\": is it that?"),
        None => {
            let more = names.len().saturating_sub(MOST);
            let mut shown = names[..names.len().min(MOST)].join(", ");
            if more > 0 {
                shown += &format!(" and {more} more");
            }
            format!("there are {shown}: name one of these, or create it")
        }
    })
}

async fn names(config: &Settings) -> Option<Vec<String>> {
    for name in ALWAYS {
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
        session.close(GOODBYE).await;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        return Some(rows.collect());
    }
    None
}
