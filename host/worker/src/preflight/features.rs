//! Which features a module needs, found by validating it with and without them.
//!
//! The validator is the one authority on what belongs to which proposal. A module of the minimal profile, as nearly all
//! are, is validated once; another one once more for each feature, which still takes a small part of the time that its
//! compilation takes.

use sandgate_wire::Profile;
use sandgate_wire::outcome::Rejection;
use sandgate_wire::profile::Feature;
use wasmparser::{Validator, WasmFeatures};

/// What rustc emits for `wasm32-wasip1`.
const MINIMAL: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::EXTENDED_CONST);

/// What no profile has. What builds on something else comes before it, so that the outermost is named.
const NOT_OFFERED: [(WasmFeatures, &str); 14] = [
    (WasmFeatures::STACK_SWITCHING, "stack-switching"),
    (WasmFeatures::CUSTOM_DESCRIPTORS, "custom-descriptors"),
    (WasmFeatures::SHARED_EVERYTHING_THREADS, "shared-everything-threads"),
    (WasmFeatures::LEGACY_EXCEPTIONS, "legacy-exceptions"),
    (WasmFeatures::EXCEPTIONS, "exceptions"),
    (WasmFeatures::GC, "gc"),
    (WasmFeatures::GC_TYPES, "gc"),
    (WasmFeatures::FUNCTION_REFERENCES, "function-references"),
    (WasmFeatures::THREADS, "threads"),
    (WasmFeatures::MEMORY64, "memory64"),
    (WasmFeatures::MULTI_MEMORY, "multi-memory"),
    (WasmFeatures::CUSTOM_PAGE_SIZES, "custom-page-sizes"),
    (WasmFeatures::MEMORY_CONTROL, "memory-control"),
    (WasmFeatures::COMPACT_IMPORTS, "compact-imports"),
];

/// What a profile adds.
fn of(feature: Feature) -> WasmFeatures {
    match feature {
        Feature::Simd => WasmFeatures::SIMD,
        Feature::RelaxedSimd => WasmFeatures::RELAXED_SIMD,
        Feature::TailCall => WasmFeatures::TAIL_CALL,
        Feature::WideArithmetic => WasmFeatures::WIDE_ARITHMETIC,
        // A feature that is added to the list and not here is refused like any other.
        _ => WasmFeatures::empty(),
    }
}

/// The features that a module needs, all of which the profile has.
pub(super) fn check(module: &[u8], profile: Profile) -> Result<Profile, Rejection> {
    let validate = |features| Validator::new_with_features(features).validate_all(module).map(drop);
    if validate(MINIMAL).is_ok() {
        return Ok(Profile::MINIMAL);
    }
    let offered = Feature::ALL.into_iter().fold(MINIMAL, |all, feature| all | of(feature));
    if let Err(error) = validate(offered) {
        let all = NOT_OFFERED.into_iter().fold(offered, |all, (feature, _)| all | feature);
        if let Err(error) = validate(all) {
            return Err(super::unreadable(&error));
        }
        // One after the other and not one at a time: what one of them allows, what builds on it may allow as well.
        let mut left = all;
        let needed = NOT_OFFERED.into_iter().find(|(feature, _)| {
            left = left.difference(*feature);
            validate(left).is_err()
        });
        return Err(needed.map_or_else(|| super::unreadable(&error), |(_, name)| not_offered(name)));
    }
    let mut needed = Profile::MINIMAL;
    for feature in Feature::ALL {
        let without = match feature {
            // The one implies the other.
            Feature::Simd => offered.difference(WasmFeatures::SIMD | WasmFeatures::RELAXED_SIMD),
            feature => offered.difference(of(feature)),
        };
        if validate(without).is_err() {
            needed = needed.with(feature);
        }
    }
    match profile.lacks(needed) {
        None => Ok(needed),
        Some(feature) => Err(Rejection::Feature { feature: feature.name().to_owned(), profile, offered: true }),
    }
}

pub(super) fn not_offered(feature: &str) -> Rejection {
    Rejection::Feature { feature: feature.to_owned(), profile: Profile::MINIMAL, offered: false }
}
