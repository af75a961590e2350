//! What a guest can import: the linker, the same as data for the compiler's preflight, and what to say about the rest.

use sandgate_abi::{IMPORT_MODULE, IMPORT_MODULE_PREFIX, import};
use sandgate_wire::outcome::Rejection;
use wasmtime::{Engine, InstancePre, Linker, Module, UnknownImportError};

use crate::guest::Guest;
use crate::{ending, hostcalls, wasi};

/// The import module of WASI preview 1.
pub(crate) const WASI: &str = "wasi_snapshot_preview1";

/// Longest name of an import in an outcome.
const MAX_IMPORT_BYTES: usize = 256;

/// The functions of the guest ABI: name, and parameters and results as `i` (i32) and `I` (i64).
pub(crate) const ABI_FUNCTIONS: [(&str, &str, &str); 9] = [
    (import::CHANNEL_SEND, "iiiiiI", "i"),
    (import::CHANNEL_RECEIVE, "iiiiiiI", "i"),
    (import::CHANNEL_WAIT, "iiI", "i"),
    (import::CHANNEL_CLOSE, "iiii", "i"),
    (import::CHANNEL_ERROR, "iiii", "i"),
    (import::CHANNEL_NEW, "", "i"),
    (import::CHANNEL_DROP, "i", "i"),
    (import::CALL_ARGS, "iiiii", "i"),
    (import::TASK_REPORT, "iii", "i"),
];

/// The functions of WASI preview 1.
pub(crate) const WASI_FUNCTIONS: [(&str, &str, &str); 46] = [
    ("args_get", "ii", "i"),
    ("args_sizes_get", "ii", "i"),
    ("clock_res_get", "ii", "i"),
    ("clock_time_get", "iIi", "i"),
    ("environ_get", "ii", "i"),
    ("environ_sizes_get", "ii", "i"),
    ("fd_advise", "iIIi", "i"),
    ("fd_allocate", "iII", "i"),
    ("fd_close", "i", "i"),
    ("fd_datasync", "i", "i"),
    ("fd_fdstat_get", "ii", "i"),
    ("fd_fdstat_set_flags", "ii", "i"),
    ("fd_fdstat_set_rights", "iII", "i"),
    ("fd_filestat_get", "ii", "i"),
    ("fd_filestat_set_size", "iI", "i"),
    ("fd_filestat_set_times", "iIIi", "i"),
    ("fd_pread", "iiiIi", "i"),
    ("fd_prestat_dir_name", "iii", "i"),
    ("fd_prestat_get", "ii", "i"),
    ("fd_pwrite", "iiiIi", "i"),
    ("fd_read", "iiii", "i"),
    ("fd_readdir", "iiiIi", "i"),
    ("fd_renumber", "ii", "i"),
    ("fd_seek", "iIii", "i"),
    ("fd_sync", "i", "i"),
    ("fd_tell", "ii", "i"),
    ("fd_write", "iiii", "i"),
    ("path_create_directory", "iii", "i"),
    ("path_filestat_get", "iiiii", "i"),
    ("path_filestat_set_times", "iiiiIIi", "i"),
    ("path_link", "iiiiiii", "i"),
    ("path_open", "iiiiiIIii", "i"),
    ("path_readlink", "iiiiii", "i"),
    ("path_remove_directory", "iii", "i"),
    ("path_rename", "iiiiii", "i"),
    ("path_symlink", "iiiii", "i"),
    ("path_unlink_file", "iii", "i"),
    ("poll_oneoff", "iiii", "i"),
    ("proc_exit", "i", ""),
    ("proc_raise", "i", "i"),
    ("random_get", "ii", "i"),
    ("sched_yield", "", "i"),
    ("sock_accept", "iii", "i"),
    ("sock_recv", "iiiiii", "i"),
    ("sock_send", "iiiii", "i"),
    ("sock_shutdown", "ii", "i"),
];

/// Everything a guest can import.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasi::define(&mut linker)?;
    hostcalls::define(&mut linker)?;
    Ok(linker)
}

/// Resolves a module's imports once and for all of its instances.
pub(crate) fn link(linker: &Linker<Guest>, module: &Module) -> Result<InstancePre<Guest>, Rejection> {
    linker.instantiate_pre(module).map_err(|error| match error.downcast_ref::<UnknownImportError>() {
        Some(import) => unknown(import.module(), import.name()),
        None => Rejection::Instantiation { message: ending::engine_text(&error) },
    })
}

/// The function's parameters and results as they stand in the tables, if there is one.
pub(crate) fn signature(module: &str, name: &str) -> Option<(&'static str, &'static str)> {
    let functions = match module {
        WASI => &WASI_FUNCTIONS[..],
        IMPORT_MODULE => &ABI_FUNCTIONS[..],
        _ => return None,
    };
    functions.iter().find(|(known, ..)| *known == name).map(|(_, parameters, results)| (*parameters, *results))
}

/// What to say about an import that there is not.
pub(crate) fn unknown(module: &str, name: &str) -> Rejection {
    if module.starts_with(IMPORT_MODULE_PREFIX) && module != IMPORT_MODULE {
        return Rejection::AbiVersion {
            found: ending::capped(module, MAX_IMPORT_BYTES),
            supported: IMPORT_MODULE.to_owned(),
        };
    }
    let hint = match module {
        IMPORT_MODULE => "this worker is older than the module: update `sandgate`",
        WASI => "WASI preview 1 has no such function",
        "wasi_unstable" => "preview 0 of WASI is not served: build for `wasm32-wasip1`",
        "env" => {
            "a function of a native library, which is not linked in: build the library for `wasm32-wasip1` or do without"
        }
        "__wbindgen_placeholder__" | "wbg" => {
            "a JavaScript function: build for `wasm32-wasip1` and without `wasm-bindgen`"
        }
        _ if module.starts_with("wasi:") => "WASI of components is not served: build for `wasm32-wasip1`",
        _ => "",
    };
    Rejection::UnknownImport {
        import: ending::capped(&format!("{module}::{name}"), MAX_IMPORT_BYTES),
        hint: hint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use sandgate_wire::message::Codegen;

    use super::*;
    use crate::engine;

    /// Text of a type such as `(param i32 i64) (result i32)`.
    fn written(parameters: &str, results: &str) -> String {
        let list = |letters: &str| {
            letters.chars().map(|letter| if letter == 'i' { " i32" } else { " i64" }).collect::<String>()
        };
        format!("(param{}) (result{})", list(parameters), list(results))
    }

    #[test]
    fn the_tables_are_what_the_linker_has() {
        let engine = engine::for_compiler(Codegen::default()).unwrap();
        let linker = linker(&engine).unwrap();
        for (module, functions) in [(WASI, &WASI_FUNCTIONS[..]), (IMPORT_MODULE, &ABI_FUNCTIONS)] {
            for (name, parameters, results) in functions {
                let text = format!(r#"(module (import "{module}" "{name}" (func {})))"#, written(parameters, results));
                let module = Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
                if let Err(reason) = link(&linker, &module) {
                    panic!("{name}: {reason}");
                }
            }
        }
    }
}
