//! [`Packed`]: bytes of an input or of a value, on their way from one thread to another.

use bytes::Bytes;

/// So many bytes take no more room than what says where others are.
const MOST_HERE: usize = 23;

/// Bytes: a few are here themselves, so that no two threads count references to the same memory for them.
#[derive(Debug, Clone)]
pub(crate) enum Packed {
    Here { length: u8, bytes: [u8; MOST_HERE] },
    Elsewhere(Bytes),
}

impl Packed {
    /// A copy of these bytes, if they are few enough.
    pub(crate) fn here(from: &[u8]) -> Option<Packed> {
        let mut bytes = [0; MOST_HERE];
        bytes.get_mut(..from.len())?.copy_from_slice(from);
        Some(Packed::Here { length: u8::try_from(from.len()).ok()?, bytes })
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Packed::Here { .. } => Bytes::copy_from_slice(self.as_ref()),
            Packed::Elsewhere(bytes) => bytes,
        }
    }
}

impl Default for Packed {
    fn default() -> Packed {
        Packed::Here { length: 0, bytes: [0; MOST_HERE] }
    }
}

impl AsRef<[u8]> for Packed {
    fn as_ref(&self) -> &[u8] {
        match self {
            Packed::Here { length, bytes } => &bytes[..usize::from(*length)],
            Packed::Elsewhere(bytes) => bytes,
        }
    }
}

impl From<Bytes> for Packed {
    fn from(bytes: Bytes) -> Packed {
        Packed::here(&bytes).unwrap_or(Packed::Elsewhere(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_same_bytes_wherever_they_are() {
        for length in [0, 1, MOST_HERE, MOST_HERE + 1, 1000] {
            let bytes: Vec<u8> = (0..=255).cycle().take(length).collect();
            let packed = Packed::from(Bytes::from(bytes.clone()));
            assert_eq!(packed.as_ref(), bytes);
            assert_eq!(matches!(packed, Packed::Here { .. }), length <= MOST_HERE);
            assert_eq!(packed.into_bytes(), bytes);
        }
        assert!(Packed::default().as_ref().is_empty());
        assert_eq!(size_of::<Packed>(), size_of::<Bytes>());
    }
}
