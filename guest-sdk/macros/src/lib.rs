//! The `task` and `init` attributes of `sandgate-guest` and the derive of `Schema`; their documentation stands there, at the re-exports.
//!
//! The attribute leaves the function as it is and adds an export `sandgate_task:NAME` that calls
//! `sandgate_guest::__private::run_task`. What a task does at run time lives in that function, not in the expansion. It also
//! adds the task's description to the module's custom section. `init` does the same for a function that runs before a snapshot.
//!
//! The derive exists once for each crate that offers it, since an expansion has to know under which name its user has it.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod attributes;
mod init;
mod schema;
mod task;

use proc_macro::TokenStream;

/// See `sandgate_guest::task`.
#[proc_macro_attribute]
pub fn task(options: TokenStream, item: TokenStream) -> TokenStream {
    task::expand(options.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// See `sandgate_guest::init`.
#[proc_macro_attribute]
pub fn init(options: TokenStream, item: TokenStream) -> TokenStream {
    init::expand(options.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// See `sandgate_guest::Schema`.
#[proc_macro_derive(GuestSchema, attributes(schema, serde))]
pub fn guest_schema(item: TokenStream) -> TokenStream {
    derive(item, "::sandgate_guest::schema")
}

/// See `sandgate::schema::Schema`.
#[proc_macro_derive(HostSchema, attributes(schema, serde))]
pub fn host_schema(item: TokenStream) -> TokenStream {
    derive(item, "::sandgate::schema")
}

/// See `sandgate_schema::Schema`.
#[proc_macro_derive(PlainSchema, attributes(schema, serde))]
pub fn plain_schema(item: TokenStream) -> TokenStream {
    derive(item, "::sandgate_schema")
}

fn derive(item: TokenStream, home: &str) -> TokenStream {
    schema::expand(item.into(), home).unwrap_or_else(syn::Error::into_compile_error).into()
}
