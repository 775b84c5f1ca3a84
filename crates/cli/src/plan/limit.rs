//! What the server takes.

use antifreeze_doctor::{GOODBYE, server_slots};
use serde::Serialize;

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
        let slots = server_slots(&session).await?;
        session.close(GOODBYE).await;
        Ok(Limit {
            max: slots.max,
            reserved: slots.reserved,
            used: Some(slots.used),
            source: "asked of the server".to_owned(),
        })
    }
}
