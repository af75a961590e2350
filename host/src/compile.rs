//! Has a module compiled, by a process that does nothing else and is gone afterwards.

use sandgate_wire::frame::Frame;
use sandgate_wire::message::{Compile, Compiled};
use sandgate_wire::module_limits::{ModuleLimitName, Shape};
use sandgate_wire::outcome::{LossCause, Rejection, WorkerLoss};
use sandgate_wire::{ModuleLimits, ToHost, ToWorker};

use crate::artefact::{Artefact, Wanted, memory, sealed_memory};
use crate::deadline::Deadline;
use crate::errand::{COMPILER, Errand, Places};
use crate::error::{CompileError, ExecError};
use crate::vetting;

/// What a compiler that has hit a bug exits with; see `exit_code` of the worker.
const EXIT_BUG: i32 = 5;
/// What a compiler that was refused memory exits with.
const EXIT_OUT_OF_MEMORY: i32 = 6;
/// What the kernel ends a process with that has used up its processor time, and what a process ends itself with, one that
/// gets no more memory among them.
const SIGXCPU: i32 = 24;
const SIGABRT: i32 = 6;
/// What a process is ended with that has made a system call it may not make.
const SIGSYS: i32 = 31;
/// What the kernel ends processes with when the machine's memory runs out.
const SIGKILL: i32 = 9;

/// Compilers under way in this process.
static PLACES: Places = Places::new();

/// Compiles a module for an engine. Blocks until that is done, and before it while as many compilations as the machine has
/// processors are under way.
pub(crate) fn compile(wanted: &Wanted<'_>) -> Result<(Artefact, Shape), ExecError> {
    let &Wanted { engine, module, .. } = wanted;
    let failed = |source| wanted.failed(source);
    let rejected = |reason| ExecError::Rejected { module: module.name().to_owned(), reason };
    let _place = PLACES.take(wanted.deadline).ok_or_else(|| wanted.timed_out())?;
    let limit = Deadline::after(wanted.limits.compile_time);
    match ask(wanted, limit.sooner(wanted.deadline)) {
        Ok(Answer::Compiled(Compiled::Done { engine: theirs, shape, description, .. }, artefact))
            if theirs == engine =>
        {
            // The compiler has compared them; one that was taken over may have not, for its own module.
            check(&shape, wanted).map_err(rejected)?;
            Ok((artefact.with_description(description, shape.clone()), shape))
        }
        Ok(Answer::Compiled(Compiled::Done { engine: theirs, .. }, _)) => Err(failed(CompileError::Lost(WorkerLoss {
            gateway: "compiler".to_owned(),
            pid: None,
            cause: LossCause::ProtocolViolation { message: format!("it compiled for `{theirs}`, not for `{engine}`") },
            stderr_tail: String::new(),
        }))),
        Ok(Answer::Compiled(Compiled::Rejected(reason), _)) => Err(rejected(reason)),
        Ok(Answer::TooLate) if wanted.deadline.left().is_some_and(|left| left.is_zero()) => Err(wanted.timed_out()),
        Ok(Answer::TooLate) => Err(rejected(over(ModuleLimitName::CompileTime, wanted.limits))),
        Err(CompileError::Lost(loss)) => match blame(&loss, wanted.limits, false) {
            Some(reason) => {
                tracing::warn!("module `{}` ended its compiler: {loss}", module.name());
                Err(rejected(reason))
            }
            None => Err(failed(CompileError::Lost(loss))),
        },
        Err(error) => Err(failed(error)),
    }
}

/// Holds what a module turned out to be against what its caller takes.
pub(crate) fn check(shape: &Shape, wanted: &Wanted<'_>) -> Result<(), Rejection> {
    if let Some((limit, found, value)) = wanted.limits.exceeded_by(shape) {
        return Err(Rejection::ModuleLimit { limit, found, value, item: String::new() });
    }
    match wanted.profile.lacks(shape.features) {
        None => Ok(()),
        Some(feature) => {
            let (feature, profile) = (feature.name().to_owned(), wanted.profile);
            Err(Rejection::Feature { feature, profile, offered: true })
        }
    }
}

/// What the module has done to end its compiler, or its initializer after that had compiled it, if that is why it ended.
pub(crate) fn blame(loss: &WorkerLoss, limits: &ModuleLimits, is_compiled: bool) -> Option<Rejection> {
    match loss.cause {
        LossCause::Signaled { signal: SIGXCPU } => Some(over(ModuleLimitName::CompileTime, limits)),
        LossCause::Signaled { signal: SIGABRT } if was_refused_memory(&loss.stderr_tail) => {
            Some(over(ModuleLimitName::CompileMemory, limits))
        }
        // Whatever made it abort, it is not known to be the module.
        LossCause::Signaled { signal: SIGABRT | SIGSYS | SIGKILL } => None,
        LossCause::Signaled { .. } | LossCause::Exited { code: EXIT_BUG } if is_compiled => None,
        LossCause::Signaled { signal } => {
            Some(Rejection::Compilation { message: format!("the compiler crashed on it, with signal {signal}") })
        }
        LossCause::Exited { code: EXIT_OUT_OF_MEMORY } => Some(over(ModuleLimitName::CompileMemory, limits)),
        LossCause::Exited { code: EXIT_BUG } => {
            Some(Rejection::Compilation { message: "it hits a bug in the compiler".to_owned() })
        }
        _ => None,
    }
}

/// Whether a process that aborted said that it did so for want of memory. There is no other sign of it: Rust's runtime says
/// this much and aborts. A compiler that was taken over can say it too, of its own module.
fn was_refused_memory(last_words: &str) -> bool {
    last_words.lines().any(|line| {
        let bytes = line.strip_prefix("memory allocation of ").and_then(|line| line.strip_suffix(" bytes failed"));
        bytes.is_some_and(|bytes| bytes.parse::<u64>().is_ok())
    })
}

/// It took more than a compilation may take.
pub(crate) fn over(limit: ModuleLimitName, limits: &ModuleLimits) -> Rejection {
    let value = match limit {
        ModuleLimitName::CompileTime => u64::try_from(limits.compile_time.as_millis()).unwrap_or(u64::MAX),
        _ => limits.compile_memory_bytes,
    };
    Rejection::ModuleLimit { limit, found: 0, value, item: String::new() }
}

/// What came of a compiler.
enum Answer {
    Compiled(Compiled, Box<Artefact>),
    /// It was not done by the deadline and is killed.
    TooLate,
}

fn ask(wanted: &Wanted<'_>, deadline: Deadline) -> Result<Answer, CompileError> {
    let &Wanted { module, worker, .. } = wanted;
    let input = sealed_memory("sandgate-module", &[module.bytes()])?;
    let output = memory("sandgate-artefact").map_err(CompileError::Memory)?;
    let theirs = output.try_clone().map_err(CompileError::Memory)?;
    let request = ToWorker::Compile(Compile {
        module: module.id(),
        bytes: module.bytes().len() as u64,
        codegen: wanted.codegen,
        limits: wanted.limits.clone(),
        profile: wanted.profile,
        policy: wanted.policy.clone(),
    });
    let mut errand = Errand::send(COMPILER, worker, &request, vec![input, theirs])?;
    let answer = errand.answer(deadline, |frame| understand(frame, module.bytes().len() as u64))?;
    let Some(answer) = answer else {
        errand.kill();
        return Ok(Answer::TooLate);
    };
    // Only when it is gone can nobody write the artefact any more.
    let compiled = errand.end(answer)?;
    let artefact = Artefact::seal(output).map_err(CompileError::Memory)?;
    if let Compiled::Done { bytes, .. } = compiled
        && bytes != artefact.bytes()
    {
        return Err(errand.wrote(bytes, artefact.bytes()));
    }
    Ok(Answer::Compiled(compiled, Box::new(artefact)))
}

fn understand(frame: Frame<'_>, module_bytes: u64) -> Result<Compiled, Option<String>> {
    match ToHost::decode(frame) {
        Ok(ToHost::Compiled(compiled)) => vetting::compiled(compiled, module_bytes).map_err(Some),
        Ok(_) => Err(Some("it did not answer what it was asked".to_owned())),
        Err(error) => Err(Some(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errand::tests::heard;

    fn check(bytes: &[u8]) -> Option<Result<Compiled, Option<String>>> {
        heard(bytes, false, |frame| understand(frame, 8))
    }

    fn bytes_of(compiled: &Compiled) -> Vec<u8> {
        crate::errand::tests::bytes_of(&ToHost::Compiled(compiled.clone()))
    }

    fn done(engine: &str, shape: Shape, description: Vec<u8>) -> Compiled {
        Compiled::Done { engine: engine.to_owned(), bytes: 3, shape, description }
    }

    fn shape() -> Shape {
        Shape { module_bytes: 8, ..Shape::default() }
    }

    #[test]
    fn what_a_compiler_says_is_capped_and_checked() {
        let refused = |compiled: Compiled, words: &str| match check(&bytes_of(&compiled)) {
            Some(Err(Some(message))) => assert!(message.contains(words), "{message}"),
            other => panic!("{words}: {other:?}"),
        };
        refused(done("e", shape(), vec![0; 200_000]), "described the module with 200000 bytes");
        // All bits of a profile, of which a few are features.
        let everything: sandgate_wire::Profile =
            postcard::from_bytes(&postcard::to_stdvec(&u32::MAX).unwrap()).unwrap();
        refused(done("e", Shape { features: everything, ..shape() }, vec![]), "features that do not exist");

        let smaller = done(&"e".repeat(200_000), Shape { module_bytes: 7, ..shape() }, vec![]);
        let kept = done(&"e".repeat(256), shape(), vec![]);
        assert_eq!(check(&bytes_of(&smaller)), Some(Ok(kept)));

        let long = Rejection::Compilation { message: "\u{1b}[2J".repeat(50_000) };
        match check(&bytes_of(&Compiled::Rejected(long))) {
            Some(Ok(Compiled::Rejected(reason))) => {
                let shown = reason.to_string();
                assert!(shown.len() < 128 << 10 && !shown.contains('\u{1b}'), "{} bytes", shown.len());
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_who_says_so_was_refused_memory() {
        assert!(was_refused_memory("memory allocation of 4294967296 bytes failed"));
        assert!(was_refused_memory("noise\nmemory allocation of 1 bytes failed\nnote: run with\n"));
        for words in
            ["", "memory allocation of", "memory allocation of x bytes failed", "aborted\nfree(): invalid size"]
        {
            assert!(!was_refused_memory(words), "{words}");
        }
    }
}
