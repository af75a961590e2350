//! From a function to the export of an init function:
//!
//! ```text
//! #[init] fn load(rules: Rules) -> Result { .. }
//!
//! fn load(rules: Rules) -> Result { .. }                            as written
//! extern "C" fn init()                                              exported as `sandgate_init:load`
//!     run_init("load", "(Rules,)", |(a0,): (Rules,)| load(a0))
//! extern "C" fn restart()                                           exported as `sandgate_start:load`
//!     run_main()                                                    what `_start` becomes in a snapshot
//! static ENTRY: [u8; N]                                             in the custom section `sandgate.tasks`
//! ```

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::spanned::Spanned;
use syn::{Error, Ident, ItemFn, Result};

use crate::task::{check_signature, description, is_channel, listed, parameter_types};

const SUBJECT: &str = "an init function";

pub(crate) fn expand(options: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let has_main = has_main(options)?;
    let function: ItemFn = syn::parse2(item)?;
    check_signature(&function.sig, SUBJECT)?;

    let ident = &function.sig.ident;
    let name = ident.to_string().trim_start_matches("r#").to_owned();
    let export = format!("sandgate_init:{name}");
    let types = parameter_types(&function.sig, SUBJECT)?;
    if let Some(channel) = types.iter().find(|ty| is_channel(ty)) {
        return Err(Error::new(channel.span(), "an init function has no channel: it runs before any task"));
    }
    let arguments: Vec<_> = (0..types.len()).map(|index| format_ident!("argument_{index}")).collect();
    let listed = listed(&types);
    let description = description(&function, &name, &types, false, true);
    let restart = has_main.then(|| {
        let export = format!("sandgate_start:{name}");
        quote! {
            #[cfg(target_arch = "wasm32")]
            #[unsafe(export_name = #export)]
            extern "C" fn restart() {
                ::sandgate_guest::__private::run_main();
            }
        }
    });

    Ok(quote! {
        #function

        const _: () = {
            #description

            // Without the export, which only the wasm target has, this still type-checks the arguments and the result.
            #[cfg_attr(target_arch = "wasm32", unsafe(export_name = #export))]
            #[allow(dead_code, reason = "only the initializer calls it")]
            extern "C" fn init() {
                ::sandgate_guest::__private::run_init(
                    #name,
                    ::core::stringify!(#listed),
                    |(#(#arguments,)*): (#(#types,)*)| #ident(#(#arguments),*),
                );
            }

            #restart
        };
    })
}

/// Whether the crate is a program, which it is unless the options say `library`.
fn has_main(options: TokenStream) -> Result<bool> {
    if options.is_empty() {
        return Ok(true);
    }
    let option: Ident = syn::parse2(options)?;
    if option == "library" {
        return Ok(false);
    }
    Err(Error::new(option.span(), "`init` takes no option but `library`, for a crate that has no `main`"))
}
