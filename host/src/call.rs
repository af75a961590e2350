//! [`Call`]: what to run in a module, with which arguments and limits.

use std::time::Duration;

use sandgate_wire::{ExecutionGrants, Limits, ModuleLimits};
use serde::Serialize;

use crate::error::CodecError;
use crate::output::Origin;
use crate::schema::{self, Expected, Schema, SchemaError, TaskSchema, TypeSchema};
use crate::value::{self, Encoded};

/// One execution to be: an entry point, arguments and limits.
///
/// ```
/// # use std::time::Duration;
/// use sandgate::{Call, Limits};
///
/// let limits = Limits { wall_time: Some(Duration::from_secs(2)), ..Limits::default() };
/// let call = Call::task("process_item").args(&(7_u32,))?.limits(limits);
/// # Ok::<(), sandgate::CodecError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Call {
    pub(crate) task: Option<String>,
    pub(crate) arguments: Option<Encoded>,
    pub(crate) argv: Vec<String>,
    pub(crate) limits: Option<Limits>,
    pub(crate) module_limits: Option<ModuleLimits>,
    pub(crate) grants: Option<ExecutionGrants>,
    pub(crate) compile_timeout: Option<Duration>,
    /// What the types of the task have to be.
    pub(crate) expected: Option<Expected>,
    pub(crate) stdin: bool,
    pub(crate) capture: bool,
    /// Nobody waits for it alone.
    pub(crate) patient: bool,
    /// What its output is told to be of.
    pub(crate) origin: Option<Origin>,
}

impl Call {
    /// Runs the program: its `main`.
    pub fn start() -> Call {
        Call::default()
    }

    /// Runs one named task.
    pub fn task(name: impl Into<String>) -> Call {
        Call { task: Some(name.into()), ..Call::default() }
    }

    /// The arguments: for a task the tuple of its parameters, for a program what `sandgate_guest::args` returns. They
    /// may hold channels.
    ///
    /// # Errors
    /// [`CodecError`] if they cannot be serialised.
    pub fn args<T: Serialize + ?Sized>(mut self, arguments: &T) -> Result<Call, CodecError> {
        self.arguments = Some(value::encode(arguments)?);
        self.stdin = false;
        Ok(self)
    }

    /// As [`args`](Self::args), and the task's parameters have to be of the types in `T`: a tuple, as for `args`. Otherwise
    /// the call is refused with [`ExecError::Mismatch`](crate::ExecError::Mismatch), and nothing runs.
    ///
    /// What is compared is the encoding and the names of fields and variants; see
    /// [`TypeSchema::compare`](crate::schema::TypeSchema::compare). It costs about as much as the types are long, without
    /// asking the worker. The types are those of the module's own description: a check against mistakes, not against a module
    /// that lies.
    ///
    /// ```
    /// use sandgate::Call;
    ///
    /// let call = Call::task("process_item").checked_args(&(7_u32,))?.checked_result::<u64>();
    /// # Ok::<(), sandgate::CodecError>(())
    /// ```
    ///
    /// # Errors
    /// [`CodecError`] if they cannot be serialised.
    pub fn checked_args<T: Serialize + Schema + ?Sized>(self, arguments: &T) -> Result<Call, CodecError> {
        let mut call = self.args(arguments)?;
        call.expected.get_or_insert_default().arguments = Some(TypeSchema::of::<T>());
        Ok(call)
    }

    /// The task's result, the item that it sends last, has to be of this type, as
    /// [`checked_args`](Self::checked_args) has it of the arguments; `()` if it sends none.
    #[must_use]
    pub fn checked_result<T: Schema + ?Sized>(mut self) -> Call {
        self.expected.get_or_insert_default().result = Some(TypeSchema::of::<T>());
        self
    }

    /// The arguments as JSON, for a task as its module describes it; see
    /// [`encode_arguments`](crate::schema::encode_arguments).
    ///
    /// # Errors
    /// [`SchemaError`] names the argument and the place in it that does not fit.
    pub fn json_args(mut self, task: &TaskSchema, arguments: &serde_json::Value) -> Result<Call, SchemaError> {
        let bytes = schema::encode_arguments(task, arguments)?.into();
        self.arguments = Some(Encoded { bytes, channels: Vec::new() });
        self.stdin = false;
        Ok(self)
    }

    /// What the program reads from its standard input, which otherwise is empty. It takes the place of
    /// [`args`](Self::args): a program has one or the other.
    ///
    /// ```
    /// # use sandgate::Call;
    /// let call = Call::start().stdin(*b"2 + 2").argv(["-q"]).capture_output();
    /// ```
    #[must_use]
    pub fn stdin(mut self, input: impl Into<Vec<u8>>) -> Call {
        self.arguments = Some(Encoded { bytes: input.into().into(), channels: Vec::new() });
        self.stdin = true;
        self
    }

    /// Keeps what the program prints for [`Channel::take_output`](crate::Channel::take_output) instead of giving it to the
    /// group's [`OutputSink`](crate::OutputSink). It is bounded by the limit `output=`.
    #[must_use]
    pub fn capture_output(mut self) -> Call {
        self.capture = true;
        self
    }

    /// The strings that the program finds in `std::env::args` after its own name.
    #[must_use]
    pub fn argv<S: Into<String>>(mut self, argv: impl IntoIterator<Item = S>) -> Call {
        self.argv = argv.into_iter().map(Into::into).collect();
        self
    }

    /// How long `remote_exec_with` waits for the module to be compiled, if nobody has compiled it yet. Default: 300 s, after
    /// which any compilation is given up.
    #[must_use]
    pub fn compile_timeout(mut self, timeout: Duration) -> Call {
        self.compile_timeout = Some(timeout);
        self
    }

    /// Clocks and randomness other than the gateway's.
    #[must_use]
    pub fn grants(mut self, grants: ExecutionGrants) -> Call {
        self.grants = Some(grants);
        self
    }

    /// Limits other than the gateway's.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Call {
        self.limits = Some(limits);
        self
    }

    /// Limits of the module other than the gateway's, its compilation included. A module that is compiled already is held
    /// against them as well.
    #[must_use]
    pub fn module_limits(mut self, limits: ModuleLimits) -> Call {
        self.module_limits = Some(limits);
        self
    }
}
