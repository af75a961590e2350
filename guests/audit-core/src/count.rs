//! The walk over a parsed file.

use sandgate_schema::Schema;
use serde::{Deserialize, Serialize};
use syn::visit::{self, Visit};

/// What one source text consists of. Items inside functions, and those of inline modules, are counted too; what macros
/// would expand to is not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Report {
    /// Lines of text, as `str::lines` counts them.
    pub lines: u64,
    /// Length of the text.
    pub bytes: u64,
    /// Functions with a body: free ones, methods, and default bodies in traits. Closures are none.
    pub functions: u64,
    /// Those of them that are declared unsafe.
    pub unsafe_functions: u64,
    /// `unsafe { .. }`
    pub unsafe_blocks: u64,
    /// `unsafe impl`
    pub unsafe_impls: u64,
    /// `unsafe trait`
    pub unsafe_traits: u64,
    /// `extern "C" { .. }` and its like.
    pub foreign_blocks: u64,
    pub structs: u64,
    pub enums: u64,
    pub unions: u64,
    pub traits: u64,
    pub impls: u64,
    pub modules: u64,
    /// Uses of a macro by name, wherever they stand outside of other macros.
    pub macro_calls: u64,
    /// `|x| ..`
    pub closures: u64,
    /// Why the text is not Rust, with line and column. Lines and bytes are counted all the same, the rest is 0.
    pub parse_error: Option<String>,
}

/// Audits a text that may not be one.
pub fn audit_bytes(source: &[u8]) -> Report {
    match std::str::from_utf8(source) {
        Ok(source) => audit_source(source),
        Err(error) => Report {
            lines: lines(&String::from_utf8_lossy(source)),
            bytes: source.len() as u64,
            parse_error: Some(format!("not UTF-8 after byte `{}`", error.valid_up_to())),
            ..Report::default()
        },
    }
}

/// Audits one file.
pub fn audit_source(source: &str) -> Report {
    let mut report = Report { lines: lines(source), bytes: source.len() as u64, ..Report::default() };
    match syn::parse_file(source) {
        Ok(file) => report.visit_file(&file),
        Err(error) => {
            let at = error.span().start();
            report.parse_error = Some(format!("{}:{}: {error}", at.line, at.column + 1));
        }
    }
    // The parser keeps every text of the thread for the sake of its spans, of which none is left here.
    proc_macro2::extra::invalidate_current_thread_spans();
    report
}

fn lines(source: &str) -> u64 {
    source.lines().count() as u64
}

impl Report {
    fn function(&mut self, signature: &syn::Signature) {
        self.functions += 1;
        self.unsafe_functions += u64::from(signature.unsafety.is_some());
    }
}

impl<'ast> Visit<'ast> for Report {
    fn visit_item_fn(&mut self, node: &'ast syn::ItemFn) {
        self.function(&node.sig);
        visit::visit_item_fn(self, node);
    }

    fn visit_impl_item_fn(&mut self, node: &'ast syn::ImplItemFn) {
        self.function(&node.sig);
        visit::visit_impl_item_fn(self, node);
    }

    fn visit_trait_item_fn(&mut self, node: &'ast syn::TraitItemFn) {
        if node.default.is_some() {
            self.function(&node.sig);
        }
        visit::visit_trait_item_fn(self, node);
    }

    fn visit_expr_unsafe(&mut self, node: &'ast syn::ExprUnsafe) {
        self.unsafe_blocks += 1;
        visit::visit_expr_unsafe(self, node);
    }

    fn visit_expr_closure(&mut self, node: &'ast syn::ExprClosure) {
        self.closures += 1;
        visit::visit_expr_closure(self, node);
    }

    fn visit_item_impl(&mut self, node: &'ast syn::ItemImpl) {
        self.impls += 1;
        self.unsafe_impls += u64::from(node.unsafety.is_some());
        visit::visit_item_impl(self, node);
    }

    fn visit_item_trait(&mut self, node: &'ast syn::ItemTrait) {
        self.traits += 1;
        self.unsafe_traits += u64::from(node.unsafety.is_some());
        visit::visit_item_trait(self, node);
    }

    fn visit_item_foreign_mod(&mut self, node: &'ast syn::ItemForeignMod) {
        self.foreign_blocks += 1;
        visit::visit_item_foreign_mod(self, node);
    }

    fn visit_item_struct(&mut self, node: &'ast syn::ItemStruct) {
        self.structs += 1;
        visit::visit_item_struct(self, node);
    }

    fn visit_item_enum(&mut self, node: &'ast syn::ItemEnum) {
        self.enums += 1;
        visit::visit_item_enum(self, node);
    }

    fn visit_item_union(&mut self, node: &'ast syn::ItemUnion) {
        self.unions += 1;
        visit::visit_item_union(self, node);
    }

    fn visit_item_mod(&mut self, node: &'ast syn::ItemMod) {
        self.modules += 1;
        visit::visit_item_mod(self, node);
    }

    fn visit_macro(&mut self, node: &'ast syn::Macro) {
        self.macro_calls += 1;
        visit::visit_macro(self, node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expected: Report) {
        let report = audit_source(source);
        let counted = Report { lines: report.lines, bytes: report.bytes, ..expected };
        assert_eq!(report, counted, "in {source}");
    }

    #[test]
    fn functions_have_bodies() {
        check(
            "fn a() { fn b() {} } struct S; impl S { unsafe fn c() {} } trait T { fn d(); fn e() {} }",
            Report { functions: 4, unsafe_functions: 1, structs: 1, impls: 1, traits: 1, ..Report::default() },
        );
        check("extern \"C\" { fn f(); }", Report { foreign_blocks: 1, ..Report::default() });
        check("fn a() { let _ = |x: u8| x; }", Report { functions: 1, closures: 1, ..Report::default() });
    }

    #[test]
    fn unsafe_is_told_apart() {
        check(
            "unsafe trait T {} unsafe impl T for u8 {} fn a() { unsafe { unsafe { b() } } }",
            Report {
                functions: 1,
                unsafe_blocks: 2,
                unsafe_impls: 1,
                unsafe_traits: 1,
                traits: 1,
                impls: 1,
                ..Report::default()
            },
        );
    }

    #[test]
    fn the_rest_is_counted_once() {
        check(
            "mod m { enum E {} union U { a: u8 } } mod n; fn a() { println!(\"{}\", vec![1]); }",
            Report { modules: 2, enums: 1, unions: 1, functions: 1, macro_calls: 1, ..Report::default() },
        );
    }

    #[test]
    fn a_text_that_is_not_rust_is_a_report_too() {
        let report = audit_source("fn a() {\n    let = 1;\n}\n");
        assert_eq!(report.lines, 3);
        assert_eq!(report.functions, 0);
        let error = report.parse_error.unwrap();
        assert!(error.starts_with("2:9: expected"), "{error}");

        let report = audit_bytes(b"fn a() {}\n// \xff\n");
        assert_eq!((report.lines, report.bytes), (2, 15));
        assert_eq!(report.parse_error.unwrap(), "not UTF-8 after byte `13`");
    }

    #[test]
    fn a_text_is_counted_alike_each_time() {
        let source = include_str!("count.rs");
        let first = audit_source(source);
        assert!(first.functions > 10 && first.parse_error.is_none());
        assert_eq!(first, audit_source(source));
    }
}
