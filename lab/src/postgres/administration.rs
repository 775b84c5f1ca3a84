//! The ways into a cluster: a URL for everybody, and the lab's own, as superuser
//! over the unix socket, past TLS, passwords and relays.

use std::path::PathBuf;

use tokio_postgres::{Config, NoTls, SimpleQueryMessage};

use super::SUPERUSER;
use crate::{Result, error::OrSay};

/// The rows of a result as text, as `psql` would show them; NULL is `None`.
pub type Rows = Vec<Vec<Option<String>>>;

#[derive(Clone)]
pub(super) struct Access {
    /// The directory of the unix socket.
    pub(super) socket: PathBuf,
    pub(super) port: u16,
    /// What TCP clients must know.
    pub(super) password: Option<&'static str>,
}

impl Access {
    pub(super) fn url_for(&self, user: &str, database: &str) -> String {
        let password = self
            .password
            .map(|password| format!(":{password}"))
            .unwrap_or_default();
        let (user, database) = (percent_encode(user), percent_encode(database));
        format!(
            "postgres://{user}{password}@127.0.0.1:{}/{database}",
            self.port
        )
    }

    /// Runs `sql`, one or more statements, and returns the rows of all.
    pub(super) async fn run(&self, database: &str, sql: &str) -> Result<Rows> {
        let mut config = Config::new();
        config
            .host_path(&self.socket)
            .port(self.port)
            .user(SUPERUSER)
            .dbname(database)
            .application_name("lab");
        let (client, connection) = config
            .connect(NoTls)
            .await
            .or_say(|| format!("could not reach the lab's PostgreSQL, database {database}"))?;
        let connection = tokio::spawn(connection);
        let result = client.simple_query(sql).await;
        drop(client);
        let _ = connection.await;
        let messages = result.or_say(|| format!("PostgreSQL refused: {sql}"))?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|column| row.get(column).map(str::to_owned))
                    .collect(),
            ),
            _ => None,
        });
        Ok(rows.collect())
    }
}

/// For a part of a URL: everything but letters, digits, `-`, `.`, `_` and `~` (RFC 3986, 2.3).
fn percent_encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
