//! What a module says about itself, copied out for the host: names of imports and exports, and the bytes of the custom
//! section that describes its tasks. Nothing here understands those bytes; the host reads them, within its own bounds.
//!
//! The module is valid. What is taken of it is bounded all the same: names are text of the module's choice.

use sandgate_abi::schema::{MAX_SECTION_BYTES, SECTION};
use sandgate_wire::description::{Description, Export, Import, ItemKind, MAX_DESCRIPTION_BYTES};
use wasmparser::{BinaryReaderError, ExternalKind, Parser, Payload, TypeRef};

/// Bytes that an import or export takes besides its names: two lengths and a kind.
const ITEM_BYTES: usize = 2 * 3 + 1;
/// Bytes that a description takes besides what it lists.
const FRAME_BYTES: usize = 64;

/// The encoded description of a module.
pub(crate) fn describe(module: &[u8]) -> Result<Vec<u8>, BinaryReaderError> {
    let mut description = Description::default();
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::CustomSection(section) = payload?
            && section.name() == SECTION
        {
            description.task_bytes += section.data().len() as u64;
            if description.tasks.len() + section.data().len() <= MAX_SECTION_BYTES {
                description.tasks.extend_from_slice(section.data());
            }
        }
    }
    if description.task_bytes != description.tasks.len() as u64 {
        description.tasks.clear();
    }
    let mut room = MAX_DESCRIPTION_BYTES - FRAME_BYTES - description.tasks.len();
    let mut has_room = |bytes: usize| match room.checked_sub(bytes + ITEM_BYTES) {
        Some(rest) => {
            room = rest;
            true
        }
        None => false,
    };
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import?;
                    if !has_room(import.module.len() + import.name.len()) {
                        description.is_cut = true;
                        break;
                    }
                    let (module, name) = (import.module.to_owned(), import.name.to_owned());
                    description.imports.push(Import { module, name, kind: kind_of(import.ty) });
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export?;
                    if !has_room(export.name.len()) {
                        description.is_cut = true;
                        break;
                    }
                    let kind = match export.kind {
                        ExternalKind::Func | ExternalKind::FuncExact => ItemKind::Function,
                        ExternalKind::Table => ItemKind::Table,
                        ExternalKind::Memory => ItemKind::Memory,
                        ExternalKind::Global => ItemKind::Global,
                        ExternalKind::Tag => ItemKind::Tag,
                    };
                    description.exports.push(Export { name: export.name.to_owned(), kind });
                }
            }
            Payload::CodeSectionStart { .. } => break,
            _ => {}
        }
    }
    Ok(description.encode())
}

fn kind_of(ty: TypeRef) -> ItemKind {
    match ty {
        TypeRef::Func(_) | TypeRef::FuncExact(_) => ItemKind::Function,
        TypeRef::Table(_) => ItemKind::Table,
        TypeRef::Memory(_) => ItemKind::Memory,
        TypeRef::Global(_) => ItemKind::Global,
        TypeRef::Tag(_) => ItemKind::Tag,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(text: &str) -> Description {
        let encoded = describe(&wat::parse_str(text).unwrap()).unwrap();
        Description::decode(&encoded).unwrap()
    }

    #[test]
    fn names_and_sections_are_copied() {
        let found = described(
            r#"(module
                (import "a" "f" (func))
                (import "b" "m" (memory 1))
                (func (export "sandgate_task:t"))
                (global (export "g") i32 (i32.const 0))
                (@custom "sandgate.tasks" "one")
                (@custom "other" "x")
                (@custom "sandgate.tasks" "two"))"#,
        );
        let import = |module: &str, name: &str, kind| Import { module: module.into(), name: name.into(), kind };
        let export = |name: &str, kind| Export { name: name.into(), kind };
        assert_eq!(found.imports, [import("a", "f", ItemKind::Function), import("b", "m", ItemKind::Memory)]);
        assert_eq!(found.exports, [export("sandgate_task:t", ItemKind::Function), export("g", ItemKind::Global)]);
        assert_eq!((&found.tasks[..], found.task_bytes, found.is_cut), (&b"onetwo"[..], 6, false));
    }

    #[test]
    fn too_much_is_left_out() {
        let large = "x".repeat(MAX_SECTION_BYTES + 1);
        let found =
            described(&format!(r#"(module (@custom "sandgate.tasks" "a") (@custom "sandgate.tasks" "{large}"))"#));
        assert_eq!((found.tasks.len(), found.task_bytes), (0, MAX_SECTION_BYTES as u64 + 2));
        let full = "x".repeat(MAX_SECTION_BYTES);
        let exports: String = (0..10_000).map(|n| format!(r#"(func (export "name{n}"))"#)).collect();
        let found = described(&format!(r#"(module {exports} (@custom "sandgate.tasks" "{full}"))"#));
        assert!(found.is_cut && found.exports.len() > 500, "{}", found.exports.len());
        assert_eq!(found.tasks.len(), MAX_SECTION_BYTES);
    }
}
