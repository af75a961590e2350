//! Sends a value that refuses to be serialised, and fails with an error that names its type, `Secret`.

use serde::{Serialize, Serializer, ser};

struct Secret;

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(ser::Error::custom("a secret is not sent"))
    }
}

fn main() -> sandgate_guest::Result {
    sandgate_guest::channel().send(&Secret)?;
    Ok(())
}
