//! What the attributes `#[serde(..)]` and `#[schema(..)]` say about names and encodings.
//!
//! Whatever changes the encoding in a way that a schema cannot say, or that postcard cannot decode, is an error here, so
//! that no description is ever wrong in silence. What does not concern the encoding is passed over.

use proc_macro2::TokenStream;
use syn::meta::ParseNestedMeta;
use syn::{Attribute, Error, LitStr, Result, Token, Type};

/// Of a struct or an enum.
#[derive(Default)]
pub(crate) struct ContainerAttributes {
    pub(crate) rename: Option<String>,
    /// Of a struct's fields or an enum's variants.
    pub(crate) rename_all: Option<Case>,
    /// Of the fields of an enum's variants.
    pub(crate) rename_all_fields: Option<Case>,
    pub(crate) transparent: bool,
    /// The type that this one is converted from and into.
    pub(crate) from: Option<Type>,
    pub(crate) into: Option<Type>,
    /// Where the crate is found.
    pub(crate) home: Option<syn::Path>,
    /// Other types that contain this one.
    pub(crate) cycle: Vec<String>,
}

/// Of a variant.
#[derive(Default)]
pub(crate) struct VariantAttributes {
    pub(crate) rename: Option<String>,
    pub(crate) rename_all: Option<Case>,
    pub(crate) skipped: bool,
}

/// Of a field.
#[derive(Default)]
pub(crate) struct FieldAttributes {
    pub(crate) rename: Option<String>,
    pub(crate) skipped: bool,
    pub(crate) encoded_as: Option<Type>,
    pub(crate) opaque: bool,
}

impl ContainerAttributes {
    pub(crate) fn of(attributes: &[Attribute]) -> Result<Self> {
        let mut found = ContainerAttributes::default();
        each(attributes, "serde", |meta| {
            match name(&meta).as_str() {
                "rename" => found.rename = renamed(&meta)?,
                "rename_all" => found.rename_all = case(&meta)?,
                "rename_all_fields" => found.rename_all_fields = case(&meta)?,
                "transparent" => found.transparent = true,
                "from" | "try_from" => found.from = Some(text(&meta)?.parse()?),
                "into" => found.into = Some(text(&meta)?.parse()?),
                "tag" | "content" | "untagged" | "remote" | "variant_identifier" | "field_identifier" => {
                    return Err(meta.error("postcard cannot decode this, so it has no schema"));
                }
                _ => skip(&meta)?,
            }
            Ok(())
        })?;
        each(attributes, "schema", |meta| {
            match name(&meta).as_str() {
                "crate" => found.home = Some(text(&meta)?.parse()?),
                "cycle" => {
                    let names = text(&meta)?.value();
                    found.cycle.extend(names.split(',').map(|name| name.trim().to_owned()));
                }
                _ => return Err(meta.error("a type can have `cycle` and `crate`")),
            }
            Ok(())
        })?;
        Ok(found)
    }
}

impl VariantAttributes {
    pub(crate) fn of(attributes: &[Attribute]) -> Result<Self> {
        let mut found = VariantAttributes::default();
        each(attributes, "serde", |meta| {
            match name(&meta).as_str() {
                "rename" => found.rename = renamed(&meta)?,
                "rename_all" => found.rename_all = case(&meta)?,
                "skip" => found.skipped = true,
                "skip_serializing" | "skip_deserializing" => {
                    return Err(meta.error("guest and host would count variants differently; use `skip`"));
                }
                "with" | "serialize_with" | "deserialize_with" | "untagged" | "other" => {
                    return Err(meta.error("its encoding cannot be known: implement `Schema` for the enum by hand"));
                }
                _ => skip(&meta)?,
            }
            Ok(())
        })?;
        each(attributes, "schema", |meta| Err(meta.error("a variant has no attributes of this kind")))?;
        Ok(found)
    }
}

impl FieldAttributes {
    pub(crate) fn of(attributes: &[Attribute]) -> Result<Self> {
        let mut found = FieldAttributes::default();
        each(attributes, "schema", |meta| {
            match name(&meta).as_str() {
                "as" => found.encoded_as = Some(text(&meta)?.parse()?),
                "opaque" => found.opaque = true,
                _ => return Err(meta.error("a field can have `as` and `opaque`")),
            }
            Ok(())
        })?;
        let is_known = found.encoded_as.is_some() || found.opaque;
        each(attributes, "serde", |meta| {
            match name(&meta).as_str() {
                "rename" => found.rename = renamed(&meta)?,
                "skip" => found.skipped = true,
                "skip_serializing" | "skip_deserializing" | "skip_serializing_if" => {
                    return Err(meta.error("guest and host would not agree on which fields there are; use `skip`"));
                }
                "flatten" => return Err(meta.error("postcard cannot encode this, so it has no schema")),
                "with" | "serialize_with" | "deserialize_with" => {
                    if !is_known {
                        let say = "say how it is encoded: `#[schema(as = \"Type\")]`, or `#[schema(opaque)]`";
                        return Err(meta.error(say));
                    }
                    skip(&meta)?;
                }
                _ => skip(&meta)?,
            }
            Ok(())
        })?;
        Ok(found)
    }
}

/// The text of the documentation, at most `maximum` bytes of it.
pub(crate) fn documentation(attributes: &[Attribute], maximum: usize) -> String {
    let mut lines = Vec::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("doc")) {
        if let syn::Meta::NameValue(pair) = &attribute.meta
            && let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = &pair.value
        {
            // An empty line is a line too.
            lines.extend(
                text.value().split('\n').map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end().to_owned()),
            );
        }
    }
    let text: String =
        lines.join("\n").trim().chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    let end = (0..=maximum.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_owned()
}

fn each(
    attributes: &[Attribute],
    family: &str,
    mut found: impl FnMut(ParseNestedMeta<'_>) -> Result<()>,
) -> Result<()> {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident(family)) {
        attribute.parse_nested_meta(&mut found)?;
    }
    Ok(())
}

fn name(meta: &ParseNestedMeta<'_>) -> String {
    meta.path.get_ident().map(ToString::to_string).unwrap_or_default()
}

fn text(meta: &ParseNestedMeta<'_>) -> Result<LitStr> {
    meta.value()?.parse()
}

/// `rename = "a"`, or `rename(serialize = "a", deserialize = "a")` if both are the same.
fn renamed(meta: &ParseNestedMeta<'_>) -> Result<Option<String>> {
    if meta.input.peek(Token![=]) {
        return Ok(Some(text(meta)?.value()));
    }
    let (mut out, mut back) = (None, None);
    meta.parse_nested_meta(|inner| {
        match name(&inner).as_str() {
            "serialize" => out = Some(text(&inner)?.value()),
            _ => back = Some(text(&inner)?.value()),
        }
        Ok(())
    })?;
    if out == back { Ok(out) } else { Err(meta.error("a schema has one name for both directions")) }
}

fn case(meta: &ParseNestedMeta<'_>) -> Result<Option<Case>> {
    let at = meta.path.clone();
    renamed(meta)?
        .map(|rule| Case::named(&rule).ok_or_else(|| Error::new_spanned(at, "serde has no such rule for names")))
        .transpose()
}

/// Takes what follows a name that does not matter: nothing, `= value` or `(..)`.
fn skip(meta: &ParseNestedMeta<'_>) -> Result<()> {
    if meta.input.peek(Token![=]) {
        meta.value()?.parse::<syn::Expr>()?;
    } else if meta.input.peek(syn::token::Paren) {
        let inside;
        syn::parenthesized!(inside in meta.input);
        inside.parse::<TokenStream>()?;
    }
    Ok(())
}

/// A rule by which serde renames fields and variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Lower,
    Upper,
    Pascal,
    Camel,
    Snake,
    ScreamingSnake,
    Kebab,
    ScreamingKebab,
}

impl Case {
    fn named(rule: &str) -> Option<Case> {
        Some(match rule {
            "lowercase" => Case::Lower,
            "UPPERCASE" => Case::Upper,
            "PascalCase" => Case::Pascal,
            "camelCase" => Case::Camel,
            "snake_case" => Case::Snake,
            "SCREAMING_SNAKE_CASE" => Case::ScreamingSnake,
            "kebab-case" => Case::Kebab,
            "SCREAMING-KEBAB-CASE" => Case::ScreamingKebab,
            _ => return None,
        })
    }

    /// The name of a field, which is written in snake case.
    pub(crate) fn of_field(self, field: &str) -> String {
        let pascal = || {
            let words = field.split('_').map(|word| {
                let mut letters = word.chars();
                letters
                    .next()
                    .map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
            });
            words.collect::<String>()
        };
        match self {
            Case::Lower | Case::Snake => field.to_owned(),
            Case::Upper | Case::ScreamingSnake => field.to_ascii_uppercase(),
            Case::Pascal => pascal(),
            Case::Camel => uncapitalised(&pascal()),
            Case::Kebab => field.replace('_', "-"),
            Case::ScreamingKebab => field.to_ascii_uppercase().replace('_', "-"),
        }
    }

    /// The name of a variant, which is written in Pascal case.
    pub(crate) fn of_variant(self, variant: &str) -> String {
        let snake = || {
            let mut name = String::new();
            for (at, letter) in variant.char_indices() {
                if at > 0 && letter.is_uppercase() {
                    name.push('_');
                }
                name.push(letter.to_ascii_lowercase());
            }
            name
        };
        match self {
            Case::Pascal => variant.to_owned(),
            Case::Lower => variant.to_ascii_lowercase(),
            Case::Upper => variant.to_ascii_uppercase(),
            Case::Camel => uncapitalised(variant),
            Case::Snake => snake(),
            Case::ScreamingSnake => snake().to_ascii_uppercase(),
            Case::Kebab => snake().replace('_', "-"),
            Case::ScreamingKebab => snake().to_ascii_uppercase().replace('_', "-"),
        }
    }
}

fn uncapitalised(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_lowercase().to_string() + letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_serde() {
        let check = |rule, field, variant| {
            let case = Case::named(rule).unwrap();
            assert_eq!(case.of_field("vary_taste"), field, "{rule}");
            assert_eq!(case.of_variant("VeryTasty"), variant, "{rule}");
        };
        check("lowercase", "vary_taste", "verytasty");
        check("UPPERCASE", "VARY_TASTE", "VERYTASTY");
        check("PascalCase", "VaryTaste", "VeryTasty");
        check("camelCase", "varyTaste", "veryTasty");
        check("snake_case", "vary_taste", "very_tasty");
        check("SCREAMING_SNAKE_CASE", "VARY_TASTE", "VERY_TASTY");
        check("kebab-case", "vary-taste", "very-tasty");
        check("SCREAMING-KEBAB-CASE", "VARY-TASTE", "VERY-TASTY");
        assert_eq!(Case::named("Title Case"), None);
    }
}
