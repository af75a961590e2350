//! `sandgate submit`, `work` and `collect`: a queue on NATS JetStream that outlives every process.
//!
//! ```text
//!  submit: inputs ─► encode ─► stream of tasks ─► work: pool ─► stream of results ─► collect: render ─► output
//! ```
//!
//! Inputs, jobs, rendering and output are those of [`map`](crate::map); the queue is the library's.

pub(crate) mod collect;
pub(crate) mod options;
pub(crate) mod submit;
pub(crate) mod work;
