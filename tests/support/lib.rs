//! What the tests share: the things they run ([`guest`], [`worker`]), waits that end ([`within`], [`eventually`]), and a
//! count of what this process holds ([`Census`], [`assert_no_leaks`]).
//!
//! Everything here panics instead of returning an error: its callers are tests, and the panic is the report.

mod census;
mod command;
mod fixtures;
mod waiting;

pub use census::{Census, Child, assert_no_leaks, children_of};
pub use command::output;
pub use fixtures::{guest, guests_dir, repository, worker};
pub use waiting::{eventually, within};
