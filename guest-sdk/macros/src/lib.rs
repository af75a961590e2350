//! The `task` attribute of `sandgate-guest`; its documentation stands there, at the re-export.
//!
//! The attribute leaves the function as it is and adds an export `sandgate_task:NAME` that calls
//! `sandgate_guest::__private::run_task`. What a task does at run time lives in that function, not in the expansion.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod task;

use proc_macro::TokenStream;

/// See `sandgate_guest::task`.
#[proc_macro_attribute]
pub fn task(options: TokenStream, item: TokenStream) -> TokenStream {
    task::expand(options.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}
