//! What the `audit` guest and its host say to each other.
//!
//! ```text
//! guest   ──── Response::Ready ─────────────────► host        once
//! host    ──── Request::File { index, source } ─► guest       any number, before or after the answers to others
//! guest   ──── Response::Done { index, report } ► host        one a file, in order
//! host    ──── Request::Stop, or the end ───────► guest
//! ```

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::count::Report;

/// What the host sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Audit one file.
    File {
        /// Comes back in the answer.
        index: u64,
        /// The file as it is, which need not be UTF-8.
        #[serde(serialize_with = "as_bytes", deserialize_with = "from_bytes")]
        source: Vec<u8>,
    },
    /// Return.
    Stop,
}

/// What the guest sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Waits for a file.
    Ready,
    /// One file is done.
    Done {
        /// The index of its request.
        index: u64,
        /// What was counted.
        report: Report,
    },
}

// Serde takes a `Vec<u8>` for a sequence and handles every byte apart, which dominates for files of megabytes.
fn as_bytes<S: Serializer>(source: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(source)
}

fn from_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    struct Bytes;

    impl serde::de::Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }
    }

    deserializer.deserialize_byte_buf(Bytes)
}
