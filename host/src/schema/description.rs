//! What the compiler process said about a module, decoded within bounds.

use sandgate_schema::{Difference, Node, ReadError, TaskSchema, TypeSchema, read_section};
use sandgate_wire::description::{Description, Export, Import};
use sandgate_wire::module_limits::Shape;

use crate::error::ExecError;

/// What the export of a named task starts with; the task's name follows.
const TASK_EXPORT_PREFIX: &str = "sandgate_task:";
/// What the export of an init function starts with.
const INIT_EXPORT_PREFIX: &str = "sandgate_init:";

/// What a module is made of, by its own word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModuleDescription {
    /// What it takes from outside.
    pub imports: Vec<Import>,
    /// What it offers; a named task is a function `sandgate_task:NAME`.
    pub exports: Vec<Export>,
    /// Whether there are more imports or exports than are listed.
    pub is_cut: bool,
    /// The tasks that describe themselves, by name.
    pub tasks: Vec<TaskSchema>,
    /// The init functions that describe themselves and that it exports, by name. A snapshot has lost the one that it was
    /// taken after.
    pub inits: Vec<TaskSchema>,
    /// Why the module's description of its tasks is of no use; there are neither tasks nor init functions then.
    pub trouble: Option<ReadError>,
    /// What it measures, and the features it needs; to be held against the limits and the profile of a gateway.
    pub shape: Shape,
}

/// Why a module could not be described.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DescribeError {
    /// The module is not acceptable, or could not be compiled.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// The group has no living gateway, for whose engine the module would be compiled.
    #[error("there is no living gateway")]
    NoGateway,
    /// What was said about it is not a description.
    #[error("module `{module}` has no readable description")]
    Unreadable {
        /// The module's name.
        module: String,
    },
}

/// Why a call does not fit the task that it names. Nothing was run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// The module describes no such task.
    #[error("it describes no task `{task}`")]
    NoTask {
        /// The task.
        task: String,
    },
    /// What was said about the module is not a description.
    #[error("it has no readable description")]
    Unreadable,
    /// The module's description of its tasks is of no use.
    #[error("its description of its tasks cannot be read")]
    Trouble(#[source] ReadError),
    /// The program's `main` has no description.
    #[error("only named tasks have types")]
    NotATask,
    /// Arguments of another type.
    #[error("arguments of task `{task}` differ {difference}")]
    Arguments {
        /// The task.
        task: String,
        /// Where and how: the host's type here, the guest's there.
        difference: Difference,
    },
    /// A result of another type.
    #[error("result of task `{task}` differs {difference}")]
    Result {
        /// The task.
        task: String,
        /// Where and how: the host's type here, the guest's there.
        difference: Difference,
    },
}

/// What a call takes for the types of the task that it names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    pub(crate) arguments: Option<TypeSchema>,
    pub(crate) result: Option<TypeSchema>,
}

impl ModuleDescription {
    pub(crate) fn read(bytes: &[u8], shape: Shape) -> Option<ModuleDescription> {
        let Description { imports, exports, is_cut, tasks, task_bytes } = Description::decode(bytes)?;
        let tasks = match usize::try_from(task_bytes) {
            Ok(length) if length == tasks.len() => read_section(&tasks),
            Ok(length) => Err(ReadError::SectionTooLarge(length)),
            Err(_) => Err(ReadError::SectionTooLarge(usize::MAX)),
        };
        let (tasks, trouble) = match tasks {
            Ok(tasks) => (tasks, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let exports_init = |name: &str| exports.iter().any(|it| it.name.strip_prefix(INIT_EXPORT_PREFIX) == Some(name));
        let (inits, tasks): (Vec<_>, Vec<_>) = tasks.into_iter().partition(|it| it.is_init);
        let inits = inits.into_iter().filter(|init| is_cut || exports_init(&init.name)).collect();
        Some(ModuleDescription { imports, exports, is_cut, tasks, inits, trouble, shape })
    }

    /// The description of a task, if the module has one.
    pub fn task(&self, name: &str) -> Option<&TaskSchema> {
        self.tasks.iter().find(|task| task.name == name)
    }

    /// The description of an init function, if the module has one.
    pub fn init(&self, name: &str) -> Option<&TaskSchema> {
        self.inits.iter().find(|init| init.name == name)
    }

    /// The names of the init functions that the module exports, described or not, in its order.
    pub fn init_names(&self) -> impl Iterator<Item = &str> {
        self.exports.iter().filter_map(|export| export.name.strip_prefix(INIT_EXPORT_PREFIX))
    }

    /// The names of the tasks that the module exports, described or not, in its order.
    pub fn task_names(&self) -> impl Iterator<Item = &str> {
        self.exports.iter().filter_map(|export| export.name.strip_prefix(TASK_EXPORT_PREFIX))
    }

    pub(crate) fn check(&self, task: Option<&str>, expected: &Expected) -> Result<(), Mismatch> {
        let name = task.ok_or(Mismatch::NotATask)?;
        if let Some(trouble) = &self.trouble {
            return Err(Mismatch::Trouble(trouble.clone()));
        }
        let task = self.task(name).ok_or_else(|| Mismatch::NoTask { task: name.to_owned() })?;
        let name = || name.to_owned();
        if let Some(ours) = &expected.arguments {
            compare_arguments(ours, task).map_err(|difference| Mismatch::Arguments { task: name(), difference })?;
        }
        if let Some(ours) = &expected.result {
            ours.compare(&task.result).map_err(|difference| Mismatch::Result { task: name(), difference })?;
        }
        Ok(())
    }
}

/// Compares the type that a host encodes with the parameters of a task, one by one where it is a tuple.
fn compare_arguments(ours: &TypeSchema, task: &TaskSchema) -> Result<(), Difference> {
    let parameters = &task.parameters;
    let items: &[Node] = match ours.root() {
        Node::Tuple(items) => items,
        Node::Unit => &[],
        // Something else that is encoded like a tuple, such as an array, or a struct of one value.
        _ => return ours.compare(&task.arguments()),
    };
    if items.len() != parameters.len() {
        let counted = |count| if count == 1 { "1 argument".to_owned() } else { format!("{count} arguments") };
        let (ours, theirs) = (counted(items.len()), counted(parameters.len()));
        return Err(Difference { path: String::new(), ours, theirs });
    }
    for (at, (item, parameter)) in items.iter().zip(parameters).enumerate() {
        ours.part(item).compare(&parameter.schema).map_err(|mut difference| {
            difference.path.insert_str(0, &super::encode::place(task, at));
            difference
        })?;
    }
    Ok(())
}
