//! Seeing what a pool does: progress, summary, report, trace and metrics, all made of the pool's events and results.
//!
//! ```text
//!  pool ──EventSink──► queue ──► Observer's thread ──► Tally ──► Progress   a terminal's bars, or lines
//!                                                         │ Run  ├► Metrics    for Prometheus: a file, and an endpoint over HTTP
//!  map ───result()──► Failures (names, errors, stderr) ─┐ ├─────►├► Trace      a file for trace viewers, as it happens
//!                                                       └─┴─────►└► Summary, Report   at the end
//! ```
//!
//! Nothing here decides what a pool does, and nothing here makes it wait: events that nobody has taken in time are dropped
//! and counted. What guests and inputs say is shown with its control characters escaped, and bounded.

#[cfg(test)]
mod cost;
mod endpoint;
mod failures;
mod files;
mod metrics;
mod names;
mod numbers;
mod observer;
mod options;
mod progress;
mod report;
mod summary;
#[cfg(test)]
mod synthetic;
mod tally;
mod telling;
mod text;
mod trace;

pub(crate) use self::{
    observer::{Observer, Prepared},
    options::{Facts, Options},
};
