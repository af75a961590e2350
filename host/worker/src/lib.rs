//! Placeholder until the worker is merged.

/// Becomes a worker if this process was started as one.
pub fn run_if_worker() {}
