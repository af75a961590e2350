//! What a module is, found out before it is compiled, in one pass that takes time and memory in proportion to its bytes.
//!
//! 1. It is a core module by its first bytes; all else is called by its name.
//! 2. One pass counts and measures, and stops at the first limit ([`shape`]). It holds one number per type and function,
//!    and a function's open blocks.
//! 3. It is validated against the features it may have ([`features`]). What is allowed is bounded by then, so that the
//!    validator is too.
//! 4. Its imports are compared with what workers offer, and what it exports to be called first with how it is called.

mod body;
mod features;
mod shape;

use std::collections::HashMap;

use sandgate_abi::INITIALIZE_EXPORT;
use sandgate_wire::module_limits::Shape;
use sandgate_wire::outcome::Rejection;
use sandgate_wire::{ModuleLimits, Profile};
use wasmparser::{ExternalKind, FuncType, Parser, Payload, TypeRef, TypeSectionReader, ValType};
use wasmtime::Engine;

use crate::{ending, imports};

/// A module that may be compiled.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) shape: Shape,
    /// The functions with operations on memory that can take long, by their positions in the code section.
    pub(crate) bulk_bodies: Vec<u32>,
}

/// Checks a module.
///
/// # Errors
/// The reason why no gateway with these limits and this profile runs it.
pub(crate) fn check(module: &[u8], limits: &ModuleLimits, profile: Profile) -> Result<Checked, Rejection> {
    check_kind(module)?;
    let mut checked = shape::measure(module, limits)?;
    checked.shape.features = features::check(module, profile)?;
    check_imports(module)?;
    check_initialize(module)?;
    Ok(checked)
}

fn invalid<T>(message: String) -> Result<T, Rejection> {
    Err(Rejection::InvalidModule { message })
}

fn unreadable(error: &wasmparser::BinaryReaderError) -> Rejection {
    Rejection::InvalidModule { message: error.to_string() }
}

/// Refuses everything that does not begin as a core module does.
fn check_kind(bytes: &[u8]) -> Result<(), Rejection> {
    if let Some(rest) = bytes.strip_prefix(b"\0asm") {
        return match rest {
            [1, 0, 0, 0, ..] => Ok(()),
            [_, _, 1, 0, ..] => Err(features::not_offered("component-model")),
            _ => invalid("unknown version of WebAssembly".to_owned()),
        };
    }
    let what = if bytes.is_empty() {
        "an empty file"
    } else if Engine::detect_precompiled(bytes).is_some() {
        "compiled native code, which is never taken from outside"
    } else if bytes.starts_with(b"\x7fELF") {
        "an ELF file"
    } else if bytes.trim_ascii_start().starts_with(b"(") {
        "WebAssembly text; translate it to binary first"
    } else {
        "no WebAssembly"
    };
    invalid(format!("this is {what}"))
}

/// Compares imports with what workers offer, by name and by type. The module is valid.
fn check_imports(module: &[u8]) -> Result<(), Rejection> {
    let mut types = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        match payload.map_err(|error| unreadable(&error))? {
            Payload::TypeSection(section) => types = function_types(section)?,
            Payload::ImportSection(section) => {
                let mut checked = HashMap::new();
                for import in section.into_imports() {
                    let import = import.map_err(|error| unreadable(&error))?;
                    if let Some(ty) = checked.insert((import.module, import.name), import.ty)
                        && ty == import.ty
                    {
                        continue;
                    }
                    check_import(import.module, import.name, import.ty, &types)?;
                }
            }
            Payload::CodeSectionStart { .. } => break,
            _ => {}
        }
    }
    Ok(())
}

fn function_types(section: TypeSectionReader<'_>) -> Result<Vec<FuncType>, Rejection> {
    section.into_iter_err_on_gc_types().collect::<Result<_, _>>().map_err(|error| unreadable(&error))
}

fn check_import(module: &str, name: &str, import: TypeRef, types: &[FuncType]) -> Result<(), Rejection> {
    let Some((parameters, results)) = imports::signature(module, name) else {
        return Err(imports::unknown(module, name));
    };
    let found = match import {
        TypeRef::Func(index) => usize::try_from(index).ok().and_then(|index| types.get(index)),
        _ => None,
    };
    let fits = found.is_some_and(|ty| letters(ty.params()) == parameters && letters(ty.results()) == results);
    if fits {
        return Ok(());
    }
    let import = ending::capped(&format!("{module}::{name}"), 256);
    invalid(format!("import `{import}` is of another type than what workers offer"))
}

/// A function that a worker calls before all others has to be one that can be called without a word: left out in silence, the
/// module would run unprepared. The module is valid.
fn check_initialize(module: &[u8]) -> Result<(), Rejection> {
    let (mut types, mut functions) = (Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(module) {
        match payload.map_err(|error| unreadable(&error))? {
            Payload::TypeSection(section) => types = function_types(section)?,
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    if let TypeRef::Func(ty) = import.map_err(|error| unreadable(&error))?.ty {
                        functions.push(ty);
                    }
                }
            }
            Payload::FunctionSection(section) => {
                for ty in section {
                    functions.push(ty.map_err(|error| unreadable(&error))?);
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.map_err(|error| unreadable(&error))?;
                    if export.name != INITIALIZE_EXPORT {
                        continue;
                    }
                    let at = |list: &[u32], index: u32| list.get(usize::try_from(index).ok()?).copied();
                    let ty = match export.kind {
                        ExternalKind::Func => at(&functions, export.index),
                        _ => None,
                    };
                    let ty: Option<&FuncType> = ty.and_then(|index| types.get(usize::try_from(index).ok()?));
                    return match ty {
                        Some(ty) if ty.params().is_empty() && ty.results().is_empty() => Ok(()),
                        Some(ty) => invalid(format!(
                            "export `{INITIALIZE_EXPORT}` has {} parameters and {} results, and may have none",
                            ty.params().len(),
                            ty.results().len()
                        )),
                        None => invalid(format!("export `{INITIALIZE_EXPORT}` is no function")),
                    };
                }
            }
            Payload::CodeSectionStart { .. } => break,
            _ => {}
        }
    }
    Ok(())
}

/// A list of types as the tables of imports write it.
fn letters(types: &[ValType]) -> String {
    types
        .iter()
        .map(|ty| match ty {
            ValType::I32 => 'i',
            ValType::I64 => 'I',
            _ => '?',
        })
        .collect()
}
