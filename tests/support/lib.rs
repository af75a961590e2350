//! What the tests share: the things they run ([`guest`], [`worker`]), groups made of them ([`group()`], [`Ops`]), waits that
//! end ([`within`], [`eventually`]), the command ([`sandgate()`]), processes from outside ([`Watched`]), machines that fail
//! ([`Machine`], [`SshServer`]), ways to them ([`Road`]), the seed's task processors ([`process_ten_tasks`]), a count of what this process holds ([`Census`],
//! [`assert_no_leaks`]), and real things from elsewhere ([`packages()`], [`foreign()`]).
//!
//! Everything here panics instead of returning an error: its callers are tests, and the panic is the report.

mod census;
mod command;
mod fixtures;
mod foreign;
mod host;
mod machine;
mod namespace;
mod packages;
mod processors;
mod remote;
mod road;
mod shipped;
mod ssh;
mod states;
mod waiting;
mod watched;

pub use census::{Census, Child, assert_no_leaks, children_of, resident_bytes, resident_bytes_of};
pub use command::{Running, feed, output, start};
pub use fixtures::{guest, guests_dir, repository, worker};
pub use foreign::{foreign, required};
pub use host::{Host, start_host};
pub use machine::{Failure, Machine};
pub use namespace::Namespace;
pub use packages::packages;
pub use processors::process_ten_tasks;
pub use remote::{LIMIT, Ops, builder, cache_dir, group, module, popen, run, run_with, spec};
pub use road::{Fate, Road, Way};
pub use shipped::{Came, lines, sandgate, start_sandgate};
pub use ssh::{SshServer, installed, skip};
pub use states::{LOOP_IN_START, State, assert_echoes, assert_one_end_each, sibling, wat};
pub use waiting::{comes_true, eventually, within};
pub use watched::Watched;
