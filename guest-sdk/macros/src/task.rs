//! From a function to the export of a named task:
//!
//! ```text
//! #[task] fn add(channel: Channel, a: u32, b: u32) -> u32 { .. }
//!
//! fn add(channel: Channel, a: u32, b: u32) -> u32 { .. }            as written
//! extern "C" fn task()                                              exported as `sandgate_task:add`
//!     run_task("add", "(u32, u32)", |channel, (a0, a1): (u32, u32)| {
//!         let value = add(channel, a0, a1);
//!         value's kind decides: nothing, an error to report, or a last item to send
//!     })
//! static ENTRY: [u8; N]                                             in the custom section `sandgate.tasks`
//! ```
//!
//! The entry describes the task: its parameters and its result with their types, as far as these have a schema, and its
//! documentation. It is a constant, and no part of the guest's memory.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::spanned::Spanned;
use syn::{Error, FnArg, ItemFn, Pat, Result, ReturnType, Signature, Type};

use crate::attributes;

/// Most bytes of a task's documentation that go into the module.
const MAX_HELP_BYTES: usize = 1024;

/// How the task takes its own channel.
enum ChannelParameter {
    None,
    Owned,
    Borrowed,
}

pub(crate) fn expand(options: TokenStream, item: TokenStream) -> Result<TokenStream> {
    if !options.is_empty() {
        return Err(Error::new(options.span(), "`task` takes no options: a task is named like its function"));
    }
    let function: ItemFn = syn::parse2(item)?;
    check_signature(&function.sig, "a task")?;

    let ident = &function.sig.ident;
    let name = ident.to_string().trim_start_matches("r#").to_owned();
    let export = format!("sandgate_task:{name}");

    let mut types = parameter_types(&function.sig, "a task")?;
    let channel = match types.first().copied() {
        Some(Type::Reference(reference)) if reference.mutability.is_none() && is_channel(&reference.elem) => {
            ChannelParameter::Borrowed
        }
        Some(ty) if is_channel(ty) => ChannelParameter::Owned,
        _ => ChannelParameter::None,
    };
    let channel_argument = match channel {
        ChannelParameter::None => quote!(),
        ChannelParameter::Owned => quote!(channel,),
        ChannelParameter::Borrowed => quote!(&channel,),
    };
    if !matches!(channel, ChannelParameter::None) {
        types.remove(0);
    }
    let arguments: Vec<_> = (0..types.len()).map(|index| format_ident!("argument_{index}")).collect();

    let listed = listed(&types);

    let takes_channel = !matches!(channel, ChannelParameter::None);
    let description = description(&function, &name, &types, takes_channel, false);

    Ok(quote! {
        #function

        const _: () = {
            #description

            // Without the export, which only the wasm target has, this still type-checks the arguments and the result.
            #[cfg_attr(target_arch = "wasm32", unsafe(export_name = #export))]
            #[allow(dead_code, reason = "only the worker calls it")]
            extern "C" fn task() {
                ::sandgate_guest::__private::run_task(
                    #name,
                    ::core::stringify!(#listed),
                    |channel: ::sandgate_guest::Channel, (#(#arguments,)*): (#(#types,)*)| {
                        use ::sandgate_guest::__private::{KindOfResult, KindOfValue};
                        let _ = &channel;
                        #[allow(clippy::let_unit_value, reason = "the function may return nothing")]
                        let value = #ident(#channel_argument #(#arguments),*);
                        let kind = (&&::sandgate_guest::__private::Returned::of(&value)).kind();
                        kind.finish(value)
                    },
                );
            }
        };
    })
}

/// The types of parameters as one tuple, for the eyes of a caller.
pub(crate) fn listed(types: &[&Type]) -> TokenStream {
    // A comma makes a tuple of a single type; after more it is only noise in a message.
    match types {
        [single] => quote!((#single,)),
        types => quote!((#(#types),*)),
    }
}

/// The entry in the module's custom section.
///
/// Each type is written out where it is asked for a schema, because only there the compiler can tell whether it has one.
pub(crate) fn description(
    function: &ItemFn,
    name: &str,
    types: &[&Type],
    takes_channel: bool,
    is_init: bool,
) -> TokenStream {
    let help = attributes::documentation(&function.attrs, MAX_HELP_BYTES);
    let inputs = function.sig.inputs.iter().skip(usize::from(takes_channel));
    let parameters = inputs.zip(types).enumerate().map(|(at, (input, ty))| {
        let name = parameter_name(input).unwrap_or_else(|| format!("argument_{}", at + 1));
        let text = text_of(ty);
        quote!(schema::ParameterType { name: #name, ty: schema::Described::<#ty>::TYPE, text: #text })
    });
    let (result, result_text) = match &function.sig.output {
        ReturnType::Type(_, ty) if !matches!(**ty, Type::Never(_)) => match &**ty {
            // A type that cannot be named elsewhere.
            ty if mentions(ty, "impl") => (quote!(::core::option::Option::None), text_of(ty)),
            ty => (
                quote! {
                    match (schema::DescribedResult::<#ty>::TYPE, schema::IsResult::<#ty>::YES) {
                        (::core::option::Option::None, false) => schema::Described::<#ty>::TYPE,
                        (of_result, _) => of_result,
                    }
                },
                text_of(ty),
            ),
        },
        _ => (quote!(schema::Described::<()>::TYPE), "()".to_owned()),
    };
    quote! {
        const DESCRIPTION: ::sandgate_guest::__private::schema::TaskEntry = {
            #[allow(unused_imports, reason = "which of them are needed depends on the types")]
            use ::sandgate_guest::__private::schema::{self, NoResult, NoSchema, NoSchemaResult};
            schema::TaskEntry {
                name: #name,
                takes_channel: #takes_channel,
                is_init: #is_init,
                help: #help,
                parameters: &[#(#parameters),*],
                result: #result,
                result_text: #result_text,
            }
        };
        // Nothing refers to it: it is read before the module runs.
        #[cfg(target_arch = "wasm32")]
        #[unsafe(link_section = "sandgate.tasks")]
        #[used]
        static ENTRY: [u8; ::sandgate_guest::__private::schema::entry_length(&DESCRIPTION)] =
            ::sandgate_guest::__private::schema::entry_bytes(&DESCRIPTION);
        // Elsewhere it is only checked.
        #[cfg(not(target_arch = "wasm32"))]
        const _: &::sandgate_guest::__private::schema::TaskEntry = &DESCRIPTION;
    }
}

/// A type as people write it, since tokens are printed with a space between any two.
fn text_of(ty: &Type) -> String {
    let mut text = quote!(#ty).to_string();
    for (spaced, close) in
        [(" :: ", "::"), (" <", "<"), ("< ", "<"), (" >", ">"), (" ,", ","), ("& ", "&"), (" ;", ";")]
    {
        text = text.replace(spaced, close);
    }
    text
}

fn parameter_name(input: &FnArg) -> Option<String> {
    let FnArg::Typed(parameter) = input else { return None };
    match &*parameter.pat {
        Pat::Ident(pattern) => {
            let name = pattern.ident.to_string();
            Some(name.trim_start_matches("r#").trim_start_matches('_').to_owned()).filter(|name| !name.is_empty())
        }
        _ => None,
    }
}

/// Whether a word stands in a type.
fn mentions(ty: &Type, word: &str) -> bool {
    fn within(tokens: TokenStream, word: &str) -> bool {
        tokens.into_iter().any(|token| match token {
            proc_macro2::TokenTree::Ident(ident) => ident == word,
            proc_macro2::TokenTree::Group(group) => within(group.stream(), word),
            _ => false,
        })
    }
    within(quote!(#ty), word)
}

/// Refuses what neither `a task` nor `an init function` can be.
pub(crate) fn check_signature(signature: &Signature, subject: &str) -> Result<()> {
    let refuse = |span, what: &str| Err(Error::new(span, format!("{subject} cannot be {what}")));
    if let Some(token) = &signature.asyncness {
        return refuse(token.span, "async: a guest waits by blocking");
    }
    if let Some(token) = &signature.unsafety {
        return refuse(token.span, "unsafe: its arguments come from outside");
    }
    if let Some(variadic) = &signature.variadic {
        return refuse(variadic.span(), "variadic");
    }
    if signature.generics.params.iter().next().is_some() {
        return refuse(signature.generics.params.span(), "generic: its arguments have one encoding");
    }
    Ok(())
}

pub(crate) fn parameter_types<'a>(signature: &'a Signature, subject: &str) -> Result<Vec<&'a Type>> {
    signature
        .inputs
        .iter()
        .map(|input| match input {
            FnArg::Typed(parameter) => Ok(&*parameter.ty),
            FnArg::Receiver(receiver) => Err(Error::new(receiver.span(), format!("{subject} is a free function"))),
        })
        .collect()
}

pub(crate) fn is_channel(ty: &Type) -> bool {
    match ty {
        Type::Path(path) => path.path.segments.last().is_some_and(|segment| segment.ident == "Channel"),
        Type::Paren(inner) => is_channel(&inner.elem),
        Type::Group(inner) => is_channel(&inner.elem),
        _ => false,
    }
}
