//! A module of 26 MB that has been compiled: how long to its first result where it has not run yet.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use sandgate::{Call, OutputSink};
use serde::Serialize;

use crate::bare::Program;
use crate::fixtures::Fixtures;
use crate::rows::Question;

const ARGUMENTS: [&str; 4] = ["-I", "-S", "-c", "print(1)"];

/// Seconds from the call of CPython on a gateway that is there and has not seen it to its end, with what it prints.
#[derive(Debug, Serialize)]
pub(crate) struct Interpreter {
    pub(crate) count: u32,
}

/// The same by an engine in this process that is there.
#[derive(Debug, Serialize)]
pub(crate) struct BareInterpreter {
    pub(crate) count: u32,
}

impl Question for Interpreter {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let module = fixtures.cpython()?;
        let call = Call::start().argv(ARGUMENTS);
        let mut samples = Vec::new();
        // The first may have to compile it.
        for _ in 0..=self.count {
            let (lines, printed) = std::sync::mpsc::channel();
            let sink = OutputSink::callback(move |line| drop(lines.send(line.text)));
            let group = fixtures.builder().output(sink).build();
            let gateway = group.make_gateway("popen")?;
            let start = Instant::now();
            gateway.remote_exec_with(&module, &call)?.wait_close()?;
            samples.push(start.elapsed().as_secs_f64());
            ensure!(printed.recv()? == "1", "CPython printed something else");
        }
        Ok(samples.split_off(1))
    }
}

impl Question for BareInterpreter {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let compiled = fixtures.scratch().join("cpython");
        let program = Program::compile(&cpython()?, &compiled)?;
        let arguments: Vec<&str> = std::iter::once("python").chain(ARGUMENTS).collect();
        let mut samples = Vec::new();
        for _ in 0..=self.count {
            let start = Instant::now();
            let printed = program.run(&arguments)?;
            samples.push(start.elapsed().as_secs_f64());
            ensure!(printed == b"1\n", "CPython printed something else");
        }
        Ok(samples.split_off(1))
    }
}

/// The file of its module.
pub(crate) fn cpython() -> Result<PathBuf> {
    let path = std::env::var_os("SANDGATE_CPYTHON").map(PathBuf::from).filter(|path| path.is_file());
    path.context("SANDGATE_CPYTHON names no module; `cargo xtask bench` fetches it")
}
