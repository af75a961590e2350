//! The interpreter: its engine, the `channel` that scripts see, and how their errors read.

use std::cell::OnceCell;

use guest_protocol::ScriptValue;
use rhai::{AST, Dynamic, Engine, EvalAltResult, Scope};
use sandgate_guest::{Channel, channel};

use crate::value::{to_host, to_script};

/// An engine, and the functions that scripts find defined.
struct Prepared {
    engine: Engine,
    prelude: AST,
}

thread_local! {
    /// Made once: by the init function, and then it is part of the snapshot, or by the first script.
    static PREPARED: OnceCell<Box<Prepared>> = const { OnceCell::new() };
}

/// The channel of the task, as scripts have it.
#[derive(Clone)]
struct Host {
    channel: Channel,
}

/// Makes the engine and compiles the prelude.
pub(crate) fn prepare(prelude: &str) -> Result<(), String> {
    let prepared = Box::new(Prepared::new(prelude)?);
    PREPARED.with(|cell| cell.set(prepared)).map_err(|_| "the engine was made before".to_owned())
}

/// Runs a script; the error has its line.
pub(crate) fn run(source: &str) -> Result<ScriptValue, String> {
    PREPARED.with(|cell| {
        if cell.get().is_none() {
            let _ = cell.set(Box::new(Prepared::new("")?));
        }
        cell.get().map_or_else(|| Err("there is no engine".to_owned()), |prepared| prepared.run(source))
    })
}

impl Prepared {
    fn new(prelude: &str) -> Result<Prepared, String> {
        let mut engine = Engine::new();
        engine
            .register_type_with_name::<Host>("Channel")
            .register_fn("send", |host: &mut Host, value: Dynamic| host.send(value))
            .register_fn("receive", |host: &mut Host| host.receive())
            .on_print(|text| println!("{text}"))
            .on_debug(|text, _, position| eprintln!("{position:?}: {text}"));
        let prelude = engine.compile(prelude).map_err(|error| format!("prelude: {error}"))?;
        Ok(Prepared { engine, prelude: prelude.clone_functions_only() })
    }

    fn run(&self, source: &str) -> Result<ScriptValue, String> {
        let script = self.engine.compile(source).map_err(|error| error.to_string())?;
        let mut scope = Scope::new();
        scope.push_constant("channel", Host { channel: channel() });
        let program = self.prelude.merge(&script);
        let value = self.engine.eval_ast_with_scope::<Dynamic>(&mut scope, &program);
        value.map_err(|error| error.to_string()).and_then(|value| {
            to_host(value).map_err(|what| format!("the script ends with a {what}, which cannot be sent"))
        })
    }
}

impl Host {
    fn send(&mut self, value: Dynamic) -> Result<(), Box<EvalAltResult>> {
        let value = to_host(value).map_err(|what| format!("a {what} cannot be sent"))?;
        self.channel.send(&value).map_err(|error| error.to_string().into())
    }

    fn receive(&mut self) -> Result<Dynamic, Box<EvalAltResult>> {
        let value = self.channel.receive::<ScriptValue>().map_err(|error| error.to_string())?;
        Ok(to_script(value))
    }
}
