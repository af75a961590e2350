//! Which WebAssembly a gateway takes: what rustc emits for `wasm32-wasip1`, and what is asked for by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A proposal that can be asked for beyond the minimal profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Feature {
    /// Fixed-width SIMD.
    Simd,
    /// Relaxed SIMD, which implies [`Feature::Simd`]. Results may differ between processors unless the execution is
    /// deterministic.
    RelaxedSimd,
    /// Tail calls.
    TailCall,
    /// 128-bit arithmetic.
    WideArithmetic,
}

impl Feature {
    /// All of them.
    pub const ALL: [Feature; 4] = [Feature::Simd, Feature::RelaxedSimd, Feature::TailCall, Feature::WideArithmetic];

    /// The name it has in specs and messages.
    pub fn name(self) -> &'static str {
        match self {
            Feature::Simd => "simd",
            Feature::RelaxedSimd => "relaxed-simd",
            Feature::TailCall => "tail-call",
            Feature::WideArithmetic => "wide-arithmetic",
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of features: what a gateway takes, or what a module needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub struct Profile {
    bits: u32,
}

impl Profile {
    /// Exactly what rustc emits for `wasm32-wasip1` by default.
    pub const MINIMAL: Profile = Profile { bits: 0 };

    /// With one more feature, and what it implies.
    #[must_use]
    pub fn with(mut self, feature: Feature) -> Profile {
        self.bits |= 1 << feature as u32;
        if feature == Feature::RelaxedSimd {
            self.bits |= 1 << Feature::Simd as u32;
        }
        self
    }

    /// Whether it has a feature.
    pub fn has(self, feature: Feature) -> bool {
        self.bits & (1 << feature as u32) != 0
    }

    /// Its features.
    pub fn features(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.into_iter().filter(move |feature| self.has(*feature))
    }

    /// The first feature that `needed` has and this has not.
    pub fn lacks(self, needed: Profile) -> Option<Feature> {
        needed.features().find(|feature| !self.has(*feature))
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("minimal")?;
        self.features().try_for_each(|feature| write!(f, ",{feature}"))
    }
}

/// A name that is no feature and no profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no profile; there is `minimal`, and `simd`, `relaxed-simd`, `tail-call` and `wide-arithmetic` on top"
)]
pub struct UnknownFeature(pub String);

impl FromStr for Profile {
    type Err = UnknownFeature;

    /// Names with commas between them, as in `simd,tail-call`.
    fn from_str(names: &str) -> Result<Profile, UnknownFeature> {
        names.split(',').map(str::trim).try_fold(Profile::MINIMAL, |profile, name| {
            if name == "minimal" {
                return Ok(profile);
            }
            let feature = Feature::ALL.into_iter().find(|feature| feature.name() == name);
            feature.map(|feature| profile.with(feature)).ok_or_else(|| UnknownFeature(name.to_owned()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_as_it_is_written() {
        for text in ["minimal", "minimal,simd", "minimal,simd,relaxed-simd", "minimal,tail-call,wide-arithmetic"] {
            assert_eq!(text.parse::<Profile>().unwrap().to_string(), text);
        }
        assert_eq!("relaxed-simd".parse::<Profile>().unwrap().to_string(), "minimal,simd,relaxed-simd");
        assert_eq!("sidm".parse::<Profile>(), Err(UnknownFeature("sidm".to_owned())));
    }

    #[test]
    fn the_first_lacking_feature_is_named() {
        let simd = Profile::MINIMAL.with(Feature::Simd);
        assert_eq!(Profile::MINIMAL.lacks(simd), Some(Feature::Simd));
        assert_eq!(simd.lacks(Profile::MINIMAL), None);
        assert_eq!(simd.lacks(simd.with(Feature::TailCall)), Some(Feature::TailCall));
    }
}
