//! From a struct or an enum to the constant that describes it:
//!
//! ```text
//! #[derive(Schema)] struct Job { name: String, next: Option<Box<Job>> }
//!
//! impl Schema for Job {
//!     const TYPE: &Type = {
//!         struct Inside0; impl Schema for Inside0 { const TYPE: &Type = Recursive("Job") }
//!         Definition { name: "Job", id: "module::Job",
//!                      shape: Struct(name: <String>::TYPE, next: <Option<Box<Inside0>>>::TYPE) }
//!     };
//! }
//! ```
//!
//! Inside its own fields a type is replaced by one that only names it, because a constant cannot contain itself.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::{Data, DataEnum, DeriveInput, Error, Field, Fields, GenericParam, Result, Type, parse_quote};

use crate::attributes::{Case, ContainerAttributes, FieldAttributes, VariantAttributes};

pub(crate) fn expand(item: TokenStream, home: &str) -> Result<TokenStream> {
    let input: DeriveInput = syn::parse2(item)?;
    let attributes = ContainerAttributes::of(&input.attrs)?;
    let home = match &attributes.home {
        Some(path) => path.to_token_stream(),
        None => home.parse::<TokenStream>()?,
    };
    let names = recursive_names(&input, &attributes);
    let scope = Scope { home: home.clone(), names };
    let ident = &input.ident;
    let description = describe(&input, &attributes, &scope)?;
    let markers = scope.markers();

    let mut generics = input.generics.clone();
    for parameter in &mut generics.params {
        if let GenericParam::Type(parameter) = parameter {
            parameter.bounds.push(parse_quote!(#home::__private::Schema));
        }
    }
    let (in_impl, in_type, bounds) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #in_impl #home::__private::Schema for #ident #in_type #bounds {
            const TYPE: &'static #home::__private::Type = {
                #markers
                #description
            };
        }
    })
}

/// The expression for a whole type.
fn describe(input: &DeriveInput, attributes: &ContainerAttributes, scope: &Scope) -> Result<TokenStream> {
    let home = &scope.home;
    match (&attributes.from, &attributes.into) {
        (None, None) => {}
        (Some(from), Some(into)) if from.to_token_stream().to_string() == into.to_token_stream().to_string() => {
            return Ok(scope.type_constant(from));
        }
        // A type that goes one way only.
        (Some(one), None) | (None, Some(one)) => {
            let say =
                "a schema needs `from` (or `try_from`) and `into` of the same type; or implement `Schema` by hand";
            return Err(Error::new_spanned(one, say));
        }
        (Some(from), Some(_)) => {
            return Err(Error::new_spanned(
                from,
                "a schema is the same in both directions; implement `Schema` by hand",
            ));
        }
    }
    let shape = match &input.data {
        Data::Struct(data) if attributes.transparent => {
            let mut kept = data.fields.iter().filter(|field| !is_skipped(field) && !is_phantom(&field.ty));
            let (Some(field), None) = (kept.next(), kept.next()) else {
                return Err(Error::new_spanned(&input.ident, "a transparent struct has one field"));
            };
            return field_type(field, scope);
        }
        Data::Struct(data) => fields_shape(&data.fields, attributes.rename_all, scope)?,
        Data::Enum(data) => enum_shape(data, attributes, scope)?,
        Data::Union(_) => return Err(Error::new_spanned(&input.ident, "a union has no encoding")),
    };
    let name = name_of(&input.ident, attributes);
    // A generic type is another one for each of its arguments, and nothing at hand tells them apart.
    let has_types = input.generics.params.iter().any(|parameter| !matches!(parameter, GenericParam::Lifetime(_)));
    let plain = plain_name(&input.ident);
    let id = if has_types { quote!("") } else { quote!(::core::concat!(::core::module_path!(), "::", #plain)) };
    Ok(quote! {
        &#home::__private::Type::Definition(&#home::__private::DefinitionType { name: #name, id: #id, shape: #shape })
    })
}

fn enum_shape(data: &DataEnum, attributes: &ContainerAttributes, scope: &Scope) -> Result<TokenStream> {
    let home = &scope.home;
    let mut variants = Vec::new();
    let mut skipped = None;
    for variant in &data.variants {
        let own = VariantAttributes::of(&variant.attrs)?;
        if own.skipped {
            skipped = Some(variant);
            continue;
        }
        if let Some(skipped) = skipped {
            return Err(Error::new_spanned(
                skipped,
                "serde counts variants behind a skipped one differently when it encodes and when it decodes: put it last",
            ));
        }
        let plain = plain_name(&variant.ident);
        let name = own.rename.unwrap_or_else(|| match attributes.rename_all {
            Some(case) => case.of_variant(&plain),
            None => plain,
        });
        let shape = fields_shape(&variant.fields, own.rename_all.or(attributes.rename_all_fields), scope)?;
        variants.push(quote!(#home::__private::VariantType { name: #name, shape: #shape }));
    }
    Ok(quote!(#home::__private::ShapeType::Enum(&[#(#variants),*])))
}

fn fields_shape(fields: &Fields, case: Option<Case>, scope: &Scope) -> Result<TokenStream> {
    let home = &scope.home;
    let kept: Vec<&Field> = fields.iter().filter(|field| !is_skipped(field)).collect();
    let types = kept.iter().map(|field| field_type(field, scope)).collect::<Result<Vec<_>>>()?;
    Ok(match fields {
        Fields::Unit => quote!(#home::__private::ShapeType::Unit),
        // What counts is how many there are, skipped or not.
        Fields::Unnamed(all) if all.unnamed.len() == 1 && types.len() == 1 => {
            quote!(#home::__private::ShapeType::Newtype(#(#types)*))
        }
        Fields::Unnamed(_) => quote!(#home::__private::ShapeType::Tuple(&[#(#types),*])),
        Fields::Named(_) => {
            let names = kept.iter().map(|field| field_name(field, case)).collect::<Result<Vec<_>>>()?;
            quote!(#home::__private::ShapeType::Struct(&[
                #(#home::__private::FieldType { name: #names, ty: #types }),*
            ]))
        }
    })
}

fn field_name(field: &Field, case: Option<Case>) -> Result<String> {
    let own = FieldAttributes::of(&field.attrs)?.rename;
    let plain = field.ident.as_ref().map(plain_name).unwrap_or_default();
    Ok(own.unwrap_or_else(|| case.map_or_else(|| plain.clone(), |case| case.of_field(&plain))))
}

/// The expression for the type of a field.
fn field_type(field: &Field, scope: &Scope) -> Result<TokenStream> {
    let attributes = FieldAttributes::of(&field.attrs)?;
    let home = &scope.home;
    if attributes.opaque {
        let text = field.ty.to_token_stream().to_string();
        return Ok(quote!(&#home::__private::Type::Opaque(#text)));
    }
    Ok(scope.type_constant(attributes.encoded_as.as_ref().unwrap_or(&field.ty)))
}

fn is_skipped(field: &Field) -> bool {
    FieldAttributes::of(&field.attrs).is_ok_and(|attributes| attributes.skipped)
}

fn is_phantom(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "PhantomData"))
}

fn name_of(ident: &Ident, attributes: &ContainerAttributes) -> String {
    attributes.rename.clone().unwrap_or_else(|| plain_name(ident))
}

fn plain_name(ident: &Ident) -> String {
    ident.to_string().trim_start_matches("r#").to_owned()
}

/// The identifiers that mean a type around this place, with the names of these types.
fn recursive_names(input: &DeriveInput, attributes: &ContainerAttributes) -> Vec<(String, String)> {
    let own = name_of(&input.ident, attributes);
    let mut names = vec![(input.ident.to_string(), own.clone()), ("Self".to_owned(), own)];
    names.extend(attributes.cycle.iter().map(|name| (name.clone(), name.clone())));
    names
}

struct Scope {
    home: TokenStream,
    names: Vec<(String, String)>,
}

impl Scope {
    fn type_constant(&self, ty: &Type) -> TokenStream {
        let home = &self.home;
        let ty = self.without_recursion(ty.to_token_stream());
        // In this form a reference to the constant is one that lives for ever, whatever lifetimes the type has.
        quote!(<#ty as #home::__private::Schema>::TYPE)
    }

    /// The types that stand for those around this place.
    fn markers(&self) -> TokenStream {
        let home = &self.home;
        let markers = self.names.iter().enumerate().map(|(at, (_, name))| {
            let marker = format_ident!("Inside{at}");
            quote! {
                #[allow(dead_code, reason = "only a type that contains itself needs it")]
                #[derive(Clone)]
                struct #marker;
                impl #home::__private::Schema for #marker {
                    const TYPE: &'static #home::__private::Type = &#home::__private::Type::Recursive(#name);
                }
            }
        });
        quote!(#(#markers)*)
    }

    /// Replaces the types around this place by their markers, with their generic arguments: `Tree<T>` by `Inside0`.
    fn without_recursion(&self, tokens: TokenStream) -> TokenStream {
        use proc_macro2::{Group, TokenTree};
        let mut replaced = TokenStream::new();
        let mut tokens = tokens.into_iter().peekable();
        let mut after_path = false;
        while let Some(token) = tokens.next() {
            let found = match &token {
                TokenTree::Ident(ident) if !after_path => {
                    self.names.iter().position(|(known, _)| ident == known.as_str())
                }
                _ => None,
            };
            after_path = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == ':');
            match (found, token) {
                // `Self::Item` and `module::Job` are something else.
                (Some(at), _) if !matches!(tokens.peek(), Some(TokenTree::Punct(punct)) if punct.as_char() == ':') => {
                    let marker = format_ident!("Inside{at}");
                    replaced.extend(quote!(#marker));
                    if matches!(tokens.peek(), Some(TokenTree::Punct(punct)) if punct.as_char() == '<') {
                        let mut depth = 0;
                        for token in tokens.by_ref() {
                            match token {
                                TokenTree::Punct(punct) if punct.as_char() == '<' => depth += 1,
                                TokenTree::Punct(punct) if punct.as_char() == '>' => depth -= 1,
                                _ => {}
                            }
                            if depth == 0 {
                                break;
                            }
                        }
                    }
                }
                (_, TokenTree::Group(group)) => {
                    let inner = self.without_recursion(group.stream());
                    let mut copy = Group::new(group.delimiter(), inner);
                    copy.set_span(group.span());
                    replaced.extend([TokenTree::Group(copy)]);
                }
                (_, token) => replaced.extend([token]),
            }
        }
        replaced
    }
}
