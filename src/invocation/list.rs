//! Lists leases.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::pool::Lease;

/// One as a rule, which is not worth an allocation.
pub(super) type List = SmallVec<[Arc<Lease>; 1]>;

/// Removes a lease. Returns whether it was there.
pub(super) fn remove(from: &mut List, lease: &Arc<Lease>) -> bool {
    let at = from.iter().position(|one| Arc::ptr_eq(one, lease));
    at.map(|at| from.swap_remove(at)).is_some()
}
