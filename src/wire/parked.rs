//! What a session comes back to that is diverted to another driver.

use std::sync::Arc;

use super::frontend::Frontend;

/// tokio-postgres, while another driver has the session.
pub(super) struct Parked {
    /// Tells the present diversion from earlier ones.
    pub(super) key: Arc<()>,
    pub(super) frontend: Frontend,
}
