//! The guest of `guest_abi`, as text: it reads a script from its arguments and calls what the script says.
//!
//! ```text
//!  script:    call call call …           call:  function u8, arguments
//!  i32 or i64 argument, 5 bytes:         kind u8, value u32
//! ```
//!
//! The kind makes likely numbers likely: small ones, places in memory and at its end, the last result.

use std::fmt::Write as _;

use sandgate_abi::IMPORT_MODULE;

use crate::imports::{ABI_FUNCTIONS, WASI, WASI_FUNCTIONS};

/// Where the script lies; what is below is the guest's to play with.
const SCRIPT: u32 = 0x2_0000;
/// Most bytes of a script.
pub(super) const MAX_SCRIPT_BYTES: u32 = 0x1_0000;
/// Bytes of the guest's memory.
const MEMORY_BYTES: u32 = 0x4_0000;

/// Where names of files lie, within what [`kind::SCRATCH`] reaches.
pub(super) const NAMES: u32 = 0xc00;
/// Names of files, inside what is granted and outside.
pub(super) const NAMES_TEXT: &str = "file../file/etc/passwdsub/insidenewlink";

/// Kinds of arguments.
pub(super) mod kind {
    pub(crate) const SMALL: u8 = 0;
    pub(crate) const IN_MEMORY: u8 = 1;
    pub(crate) const RAW: u8 = 2;
    pub(crate) const AT_THE_END: u8 = 3;
    pub(crate) const LAST_RESULT: u8 = 4;
    pub(crate) const SCRATCH: u8 = 5;
    pub(crate) const MINUS: u8 = 6;
    pub(crate) const ALIGNED: u8 = 7;
}

/// All that a script can call: what every guest can import, then a store, a growth, and a trap.
pub(super) fn functions() -> Vec<(&'static str, &'static str, &'static str, &'static str)> {
    let abi = ABI_FUNCTIONS.iter().map(|(name, parameters, results)| (IMPORT_MODULE, *name, *parameters, *results));
    let wasi = WASI_FUNCTIONS.iter().map(|(name, parameters, results)| (WASI, *name, *parameters, *results));
    let own = [("", "store", "ii", "i"), ("", "grow", "i", "i"), ("", "trap", "", "i")];
    abi.chain(wasi).chain(own).collect()
}

pub(super) fn text() -> String {
    let functions = functions();
    let mut text = "(module\n".to_owned();
    let signature = |parameters: &str, results: &str| {
        let list =
            |letters: &str| letters.chars().map(|it| if it == 'i' { " i32" } else { " i64" }).collect::<String>();
        format!("(param{}) (result{})", list(parameters), list(results))
    };
    for (module, name, parameters, results) in functions.iter().filter(|(module, ..)| !module.is_empty()) {
        let signature = signature(parameters, results);
        let _ = writeln!(text, r#"(import "{module}" "{name}" (func ${name} {signature}))"#);
    }
    let pages = MEMORY_BYTES / 0x1_0000;
    let _ = writeln!(text, r#"(memory (export "memory") {pages})"#);
    let _ = writeln!(text, r#"(data (i32.const {NAMES}) "{NAMES_TEXT}")"#);
    text.push_str(OWN);
    let _ = writeln!(
        text,
        r#"(func (export "_start")
             (drop (call $call_args (i32.const {SCRIPT}) (i32.const {MAX_SCRIPT_BYTES}) (i32.const 256) (i32.const 64) (i32.const 512)))
             (global.set $at (i32.const {SCRIPT}))
             (local.set $end (i32.add (i32.const {SCRIPT}) (i32.load (i32.const 512))))
             (loop $next
               (if (i32.ge_u (global.get $at) (local.get $end)) (then return))
               (local.set $function (i32.load8_u (global.get $at)))
               (global.set $at (i32.add (global.get $at) (i32.const 1)))"#
    );
    let text = text.replacen(
        r#"(func (export "_start")"#,
        r#"(func (export "_start") (local $end i32) (local $function i32)"#,
        1,
    );
    let mut text = text;
    text.push_str(&"(block ".repeat(functions.len()));
    let labels: Vec<String> = (0..functions.len()).map(|label| label.to_string()).collect();
    let _ = writeln!(
        text,
        "(br_table {} (i32.rem_u (local.get $function) (i32.const {})))",
        labels.join(" "),
        functions.len()
    );
    for (_, name, parameters, results) in &functions {
        let arguments: String =
            parameters.chars().map(|it| if it == 'i' { " (call $i32)" } else { " (call $i64)" }).collect();
        let call = format!("(call ${name}{arguments})");
        let call = if results.is_empty() { call } else { format!("(global.set $last {call})") };
        let _ = writeln!(text, ") {call} (br $next)");
    }
    text.push_str("))\n)");
    text
}

const OWN: &str = r"
(global $at (mut i32) (i32.const 0))
(global $last (mut i32) (i32.const 0))
(func $store (param i32 i32) (result i32)
  (i32.store (i32.and (local.get 0) (i32.const 0x1fff8)) (local.get 1)) (i32.const 0))
(func $grow (param i32) (result i32) (memory.grow (i32.and (local.get 0) (i32.const 0x3))))
(func $trap (result i32) unreachable)
(func $value (result i32)
  (global.set $at (i32.add (global.get $at) (i32.const 5)))
  (i32.load (i32.sub (global.get $at) (i32.const 4))))
(func $i32 (result i32) (local $kind i32) (local $value i32)
  (local.set $kind (i32.and (i32.load8_u (global.get $at)) (i32.const 7)))
  (local.set $value (call $value))
  (block (block (block (block (block (block (block (block
    (br_table 0 1 2 3 4 5 6 7 (local.get $kind)))
    (return (i32.and (local.get $value) (i32.const 0xff))))
    (return (i32.and (local.get $value) (i32.const 0x3ffff))))
    (return (local.get $value)))
    (return (i32.sub (i32.mul (memory.size) (i32.const 0x10000)) (i32.and (local.get $value) (i32.const 0xff)))))
    (return (global.get $last)))
    (return (i32.and (local.get $value) (i32.const 0xfff))))
    (return (i32.sub (i32.const 0) (i32.and (local.get $value) (i32.const 0xff)))))
  (i32.and (local.get $value) (i32.const 0x1fff8)))
(func $i64 (result i64) (local $kind i32) (local $value i32)
  (local.set $kind (i32.and (i32.load8_u (global.get $at)) (i32.const 7)))
  (local.set $value (call $value))
  (if (i32.eq (local.get $kind) (i32.const 2))
    (then (return (i64.shl (i64.extend_i32_s (local.get $value)) (i64.const 16)))))
  (if (i32.eq (local.get $kind) (i32.const 6)) (then (return (i64.const -1))))
  (i64.extend_i32_u (i32.and (local.get $value) (i32.const 0x3fff))))
";

/// A call of a script.
pub(super) fn call(function: &str, arguments: &[(u8, u32)]) -> Vec<u8> {
    let position = functions().iter().position(|(_, name, ..)| *name == function).expect("a function of the guest");
    let mut call = vec![u8::try_from(position).expect("there are less than 256")];
    for (kind, value) in arguments {
        call.push(*kind);
        call.extend_from_slice(&value.to_le_bytes());
    }
    call
}
