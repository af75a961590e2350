//! What a module may ask for while it runs, by the functions that it imports. It need not call them, and what it is not
//! given makes these calls fail, not the module.

use sandgate::schema::ModuleDescription;

const WASI: &str = "wasi_snapshot_preview1";
const SDK_PREFIX: &str = "sandgate_";

/// Something that a module may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) what: &'static str,
    /// What is given by default, and the setting that changes it.
    pub(crate) given: &'static str,
    /// The functions it imports for that.
    pub(crate) functions: Vec<String>,
}

/// What it is called, how it is given, and the functions of WASI: a name, or the beginning of some that ends in `_`.
const NEEDS: [(&str, &str, &[&str]); 9] = [
    ("arguments", "those of the call", &["args_"]),
    ("environment", "empty; `env:NAME=VALUE` gives more", &["environ_"]),
    ("standard input", "what the call brings; files that it opened are read in the same way", &["fd_read", "fd_pread"]),
    (
        "standard output",
        "up to `output=`; files that it opened are written in the same way",
        &["fd_write", "fd_pwrite"],
    ),
    (
        "directories",
        "none; `dir:GUEST=HOST` and `dir-rw:GUEST=HOST` give some",
        &["path_", "fd_readdir", "fd_prestat_"],
    ),
    ("clocks", "steps of 100 µs; `clock=` changes it", &["clock_"]),
    ("sleep", "always, within `timeout=`", &["poll_oneoff"]),
    ("randomness", "the system's; `random=` changes it", &["random_get"]),
    ("sockets", "none, and there is no setting for it", &["sock_"]),
];

/// What a module may ask for. Complete unless its list of imports is cut.
pub(crate) fn needs(description: &ModuleDescription) -> Vec<Need> {
    let imported = |is_meant: &dyn Fn(&str, &str) -> bool| -> Vec<String> {
        let meant = description.imports.iter().filter(|import| is_meant(&import.module, &import.name));
        meant.map(|import| import.name.clone()).collect()
    };
    let mut needs: Vec<Need> = NEEDS
        .into_iter()
        .map(|(what, given, names)| {
            let is_meant =
                |module: &str, name: &str| module == WASI && names.iter().any(|known| stands_for(known, name));
            Need { what, given, functions: imported(&is_meant) }
        })
        .collect();
    let functions = imported(&|module, _| module.starts_with(SDK_PREFIX));
    needs.push(Need {
        what: "channels",
        given: "always: those of its task, for what it sends and receives",
        functions,
    });
    needs.retain(|need| !need.functions.is_empty());
    needs
}

fn stands_for(known: &str, name: &str) -> bool {
    if known.ends_with('_') { name.starts_with(known) } else { name == known }
}
