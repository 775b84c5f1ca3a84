//! The connection limit of the server.

use antifreeze_doctor::{CLOSE_TIMEOUT, server_slots};
use serde::Serialize;

use crate::outcome::Failure;
use crate::target::Target;

/// The connection limit of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limit {
    pub max: u64,
    /// Slots that are not available to ordinary roles.
    pub reserved: u64,
    /// Slots in use now; `None` if the server was not queried.
    pub used: Option<u64>,
    /// The source of these numbers.
    pub source: String,
}

impl Limit {
    pub fn given(max: u64, reserved: u64) -> Self {
        Limit {
            max,
            reserved,
            used: None,
            source: "from --limit".to_owned(),
        }
    }

    /// Queries the server.
    pub async fn query(target: &Target) -> Result<Self, Failure> {
        let routes = target.routes("plan")?;
        let session = target.open(&routes).await?;
        let slots = server_slots(&session).await?;
        session.close(CLOSE_TIMEOUT).await;
        Ok(Limit {
            max: slots.max,
            reserved: slots.reserved,
            used: Some(slots.used),
            source: "from the server".to_owned(),
        })
    }
}
