//! antifreeze
