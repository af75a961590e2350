//! [`Gateway`]: one worker process, or one after the other, as its users see it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sandgate_wire::isolation::Report;
use sandgate_wire::outcome::LossCause;
use serde::Serialize;

use crate::call::Call;
use crate::channel::Channel;
use crate::connection::{Connection, Run};
use crate::deadline::Deadline;
use crate::endpoint::Endpoint;
use crate::error::{ExecError, StatusError};
use crate::module::Module;
use crate::recycle::Recycled;
use crate::schema::{DescribeError, ModuleDescription};
use crate::spec::Spec;
use crate::termination::{GatewayReport, terminate_all};
use crate::workers::Workers;

/// How long [`Gateway::status`] waits for the worker.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// A worker process and the way to it. Clones are the same gateway.
///
/// With [`Recycle`](crate::Recycle) it replaces its worker and stays the same gateway, with the same id and place in its
/// group. Its workers are then the one that takes executions and those that it replaced and that finish what they run.
///
/// A gateway lives until it is terminated, with its group at the latest; dropping a handle of it does nothing.
#[derive(Clone)]
pub struct Gateway {
    workers: Arc<Workers>,
}

/// What a gateway is doing; see [`Gateway::status`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatewayStatus {
    /// Executions that run.
    pub running: u32,
    /// Executions that wait for a place.
    pub queued: u32,
    /// Executions that have ended since the gateway was made.
    pub finished: u64,
    /// Channels that are open, those of executions included, as the worker says.
    pub channels: u32,
    /// Channels that the host has not settled yet.
    pub host_channels: usize,
    /// Resident memory of the gateway's worker processes in bytes, if the system tells.
    pub memory_bytes: Option<u64>,
    /// The worker's process id; `None` while it is lost and not replaced yet.
    pub pid: Option<u32>,
    /// Workers that were started, the first included.
    pub workers_started: u64,
    /// How often the worker was replaced, and why.
    pub recycled: Recycled,
}

impl Gateway {
    pub(crate) fn new(workers: Arc<Workers>) -> Gateway {
        Gateway { workers }
    }

    pub(crate) fn workers(&self) -> &Arc<Workers> {
        &self.workers
    }

    /// The worker that takes executions, or the last one that did.
    pub(crate) fn connection(&self) -> Arc<Connection> {
        self.workers.current()
    }

    /// The gateway's id, unique within its group.
    pub fn id(&self) -> &str {
        self.workers.id()
    }

    /// What it was made from, its id included.
    pub fn spec(&self) -> &Spec {
        self.workers.spec()
    }

    /// The process id of the worker that takes executions, or of the last one that did.
    pub fn pid(&self) -> Option<u32> {
        self.connection().pid()
    }

    /// Processors that workers of its machine can use, as the agent there says; `None` on this machine.
    pub fn processors(&self) -> Option<u32> {
        self.connection().processors()
    }

    /// What the operating system keeps from the worker, layer by layer, as the worker found it before it had seen any
    /// guest's code. Empty if the worker has not said hello.
    pub fn isolation(&self) -> Report {
        self.connection().isolation()
    }

    /// Whether the worker is there, or the next execution starts another one. A gateway whose worker has died stays in its
    /// group until that is terminated.
    pub fn is_alive(&self) -> bool {
        self.workers.is_alive()
    }

    /// How the process of the worker ended that takes executions, or was the last one that did, once it has.
    pub fn exit_cause(&self) -> Option<LossCause> {
        self.connection().exit_cause()
    }

    /// Runs the module's `main` and returns its channel. Blocks only while the module is compiled, which happens once and
    /// takes no longer than the spec's `compile-time=` (see [`Call::compile_timeout`]), and while the worker is replaced, for
    /// the spec's `hello=` at most.
    ///
    /// # Errors
    /// [`ExecError`]; nothing was run then. All that goes wrong later is the channel's outcome.
    pub fn remote_exec(&self, module: &Module) -> Result<Channel, ExecError> {
        self.remote_exec_with(module, &Call::start())
    }

    /// Runs one named task of the module; `arguments` is the tuple of its parameters. Blocks as
    /// [`remote_exec`](Self::remote_exec) does.
    ///
    /// # Errors
    /// [`ExecError`]. A task that the module does not have, or arguments it cannot decode, are the channel's outcome.
    pub fn remote_exec_fn<T: Serialize + ?Sized>(
        &self,
        module: &Module,
        task: &str,
        arguments: &T,
    ) -> Result<Channel, ExecError> {
        let call = Call::task(task).args(arguments);
        let call = call.map_err(|error| ExecError::Arguments(crate::error::SendError::Encode(error)))?;
        self.remote_exec_with(module, &call)
    }

    /// Runs what a [`Call`] says. Blocks as [`remote_exec`](Self::remote_exec) does.
    ///
    /// # Errors
    /// [`ExecError`].
    pub fn remote_exec_with(&self, module: &Module, call: &Call) -> Result<Channel, ExecError> {
        self.workers.execute(module, call)
    }

    /// Runs a call with other arguments than the last time.
    pub(crate) fn execute_again(
        &self,
        module: &Module,
        call: &Arc<Call>,
        run: Run,
    ) -> Result<Arc<Endpoint>, ExecError> {
        self.workers.execute_again(module, call, run)
    }

    /// Waits until what its guests have printed, as far as it has arrived, was handed to the group's
    /// [`OutputSink`](crate::OutputSink); `false` if that takes longer than `timeout`. What an execution printed has arrived
    /// when the execution has ended.
    pub fn wait_output(&self, timeout: Duration) -> bool {
        self.connection().output.wait_idle(Deadline::after(timeout))
    }

    /// What the module says of itself: its imports, exports and tasks with their types. Blocks while it is compiled, if
    /// nobody has compiled it yet; none of its code runs.
    ///
    /// # Errors
    /// [`DescribeError`]; a module that would not be executed is not described.
    pub fn describe(&self, module: &Module) -> Result<ModuleDescription, DescribeError> {
        self.connection().describe(module, None)
    }

    /// [`describe`](Self::describe) that waits at most `timeout` for the compilation.
    ///
    /// # Errors
    /// [`DescribeError`].
    pub fn describe_timeout(&self, module: &Module, timeout: Duration) -> Result<ModuleDescription, DescribeError> {
        self.connection().describe(module, Some(timeout))
    }

    /// Makes a channel that belongs to no execution; a task gets its other end inside a value. It belongs to the worker of
    /// this moment, and keeps a worker that is replaced until it is closed.
    ///
    /// # Errors
    /// [`ExecError::GatewayClosed`]; [`ExecError::NoWorker`].
    pub fn new_channel(&self) -> Result<Channel, ExecError> {
        self.workers.new_channel()
    }

    /// Asks the worker what it is doing. Blocks until it answers, 5 s at most.
    ///
    /// # Errors
    /// [`StatusError`].
    pub fn status(&self) -> Result<GatewayStatus, StatusError> {
        self.status_timeout(STATUS_TIMEOUT)
    }

    /// [`status`](Self::status) that waits at most `timeout`.
    ///
    /// # Errors
    /// [`StatusError`].
    pub fn status_timeout(&self, timeout: Duration) -> Result<GatewayStatus, StatusError> {
        self.workers.status(timeout)
    }

    /// Asks the workers to end once their tasks have, and takes the gateway out of its group; none is started any more. Does
    /// not block; nobody forces them to end before the group is terminated or dropped.
    pub fn exit(&self) {
        self.workers.exit();
    }

    /// Ends the workers, all under one deadline: their channels are closed, its tasks have most of `timeout` to finish, then they are interrupted,
    /// and at the deadline the processes are killed. When this returns they are gone and reaped, and every task has
    /// its outcome. A timeout of zero kills at once; [`Duration::MAX`] waits for the tasks for ever.
    pub fn terminate(&self, timeout: Duration) -> GatewayReport {
        let mut reports = terminate_all(std::slice::from_ref(self), Deadline::after(timeout));
        reports.remove(0)
    }

    /// Kills the workers' processes at once. Does not block; every task ends as killed. With
    /// [`after_loss`](crate::Recycle::after_loss) the next execution has a new worker.
    pub fn kill(&self) {
        self.workers.kill();
    }

    /// Waits until the workers that the gateway has at this moment are gone; false if they are not within `timeout`.
    pub fn join(&self, timeout: Duration) -> bool {
        self.workers.join(Deadline::after(timeout))
    }
}

impl PartialEq for Gateway {
    /// Whether both are handles of the same gateway.
    fn eq(&self, other: &Gateway) -> bool {
        Arc::ptr_eq(&self.workers, &other.workers)
    }
}

impl Eq for Gateway {}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.is_alive() { "alive" } else { "gone" };
        write!(f, "<Gateway id={} {state}, {} channels>", self.id(), self.connection().open_channels())
    }
}
