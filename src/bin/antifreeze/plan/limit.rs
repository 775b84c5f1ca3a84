//! What the server takes.

use serde::Serialize;
use tokio_postgres::SimpleQueryMessage;

use crate::outcome::Failure;
use crate::reach::Reach;

/// Connections of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limit {
    pub max: u64,
    /// Held back from ordinary roles.
    pub reserved: u64,
    /// In use at this moment, where it is known.
    pub used: Option<u64>,
    /// Who says so.
    pub source: String,
}

const SQL: &str = "select current_setting('max_connections'), \
    current_setting('superuser_reserved_connections')::int \
    + coalesce(current_setting('reserved_connections', true), '0')::int, \
    (select count(*) - 1 from pg_stat_activity where usesysid is not null and datid is not null \
    and coalesce(backend_type, 'client backend') = 'client backend')";

impl Limit {
    pub fn given(max: u64, reserved: u64) -> Self {
        Limit {
            max,
            reserved,
            used: None,
            source: "as given".to_owned(),
        }
    }

    pub async fn ask(reach: &Reach) -> Result<Self, Failure> {
        let ways = reach.ways("plan")?;
        let session = reach.open(&ways).await?;
        let messages = session.simple_query(SQL).await?;
        session.close().await;
        let numbers = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let number = |at| row.get(at).and_then(|text| text.parse().ok());
                Some((number(0)?, number(1)?, number(2)?))
            }
            _ => None,
        });
        let (max, reserved, used) = numbers
            .ok_or_else(|| Failure::new("the server did not tell its limit; give --limit"))?;
        Ok(Limit {
            max,
            reserved,
            used: Some(used),
            source: "asked of the server".to_owned(),
        })
    }
}
