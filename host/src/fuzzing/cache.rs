//! `artefact_cache`: files that others left where an artefact belongs.
//!
//! What it promises: whatever stands in the file, the cache neither panics nor holds more than the file, and it takes the
//! file for an artefact only if it is what the cache itself would have written: these facts and these bytes, under this key.

use std::path::Path;
use std::sync::OnceLock;

use arbitrary::{Result, Unstructured};
use sandgate_wire::description::Description;
use sandgate_wire::module_limits::Shape;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::cache::{FILE_MAGIC, MAX_FACTS_BYTES, read_in_place};

/// Reads a file that the input describes.
///
/// # Panics
/// When something does not hold.
pub fn artefact_cache(input: &[u8]) {
    let mut file = Vec::new();
    let mut rightful = None;
    let read = read_in_place(directory(), |key| {
        file = made(Unstructured::new(input), key).unwrap_or_default();
        rightful = content(&file, key).map(<[u8]>::to_vec);
        file.clone()
    });
    match (read, rightful) {
        (Ok(Some((bytes, _))), Some(rightful)) => assert!(bytes == rightful, "the artefact is not the one in the file"),
        (Ok(Some(_)), None) => panic!("a file is taken for an artefact, and is none"),
        (read, Some(_)) => panic!("an artefact is not taken for one: {read:?}"),
        (_, None) => {}
    }
}

/// What a module turned out to be, and what it says of itself.
type Facts = (Shape, Vec<u8>);

/// The native code of an artefact's file, as a second opinion has it: magic, key, digest, and under the digest the length
/// of the facts, the facts and the code.
fn content<'a>(file: &'a [u8], key: &[u8; 32]) -> Option<&'a [u8]> {
    let rest = file.strip_prefix(&FILE_MAGIC)?.strip_prefix(key)?;
    let (digest, rest) = rest.split_first_chunk::<32>()?;
    let (length, content) = rest.split_first_chunk::<4>()?;
    let (facts, content) = content.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let is_whole = *digest == <[u8; 32]>::from(Sha256::digest(rest));
    (is_whole && facts.len() <= MAX_FACTS_BYTES && postcard::from_bytes::<Facts>(facts).is_ok()).then_some(content)
}

/// Any bytes, or an artefact's file with any facts, some of whose bytes are changed.
fn made(mut input: Unstructured<'_>, key: &[u8; 32]) -> Result<Vec<u8>> {
    if input.arbitrary()? {
        return Ok(input.take_rest().to_vec());
    }
    let mut changes = Vec::new();
    for _ in 0..input.int_in_range(0..=3)? {
        changes.push((input.arbitrary::<u16>()?, input.arbitrary::<u8>()?));
    }
    let cut = if input.arbitrary()? { Some(input.arbitrary::<u16>()?) } else { None };
    let facts = match input.int_in_range(0..=2)? {
        0 => facts(&[]),
        1 => some(&mut input)?,
        _ => facts(&some(&mut input)?),
    };
    // The length under the digest may lie.
    let length = if input.ratio(1, 8)? { input.arbitrary()? } else { u32::try_from(facts.len()).unwrap_or(0) };
    let repeats = input.int_in_range(0..=64)?;
    let rest = [&length.to_le_bytes()[..], &facts, &input.take_rest().repeat(repeats)].concat();
    let mut file = [&FILE_MAGIC[..], key, &Sha256::digest(&rest), &rest].concat();
    for (at, change) in changes {
        let at = usize::from(at) % file.len();
        file[at] ^= change;
    }
    file.truncate(cut.map_or(file.len(), usize::from));
    Ok(file)
}

fn some(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let length = usize::from(input.arbitrary::<u16>()? % 1024);
    Ok(input.bytes(length.min(input.len()))?.to_vec())
}

fn facts(description: &[u8]) -> Vec<u8> {
    postcard::to_stdvec(&(Shape::default(), description)).unwrap_or_default()
}

/// A directory of this process.
fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<TempDir> = OnceLock::new();
    DIRECTORY.get_or_init(|| tempfile::tempdir().expect("a directory can be made")).path()
}

/// Inputs to begin with, with their names.
pub fn artefact_cache_seeds() -> Vec<(String, Vec<u8>)> {
    const CODE: &[u8] = b"native code";
    let raw = |name: &str, input: &[&[u8]]| (name.to_owned(), [&[1], &input.concat()[..]].concat());
    // Changes and the cut; then default facts with a rightful length, once.
    let formed = |name: &str, changes: &[u8]| (name.to_owned(), [&[0], changes, &[0, 1, 1], CODE].concat());
    let change = |at: u8| vec![1, at, 0, 1, 0];
    let own_facts = |kind: u8, facts: &[u8]| {
        [&[0, 0, 0, kind, u8::try_from(facts.len()).unwrap_or(0), 0], facts, &[1, 1], CODE].concat()
    };
    let described = Description { is_cut: true, ..Description::default() }.encode();
    vec![
        raw("empty", &[]),
        raw("magic", &[&FILE_MAGIC]),
        raw("foreign", &[&FILE_MAGIC, &[0; 68], CODE]),
        formed("whole", &[0, 0]),
        formed("changed-magic", &change(0)),
        formed("changed-key", &change(8)),
        formed("changed-digest", &change(40)),
        formed("changed-length", &change(72)),
        formed("changed-shape", &change(76)),
        formed("changed-code", &change(90)),
        formed("changed-back", &[2, 90, 0, 1, 90, 0, 1, 0]),
        formed("cut-in-header", &[0, 1, 50, 0]),
        formed("cut-in-code", &[0, 1, 90, 0]),
        ("large".to_owned(), [&[0, 0, 0, 0, 1, 64], &[7; 4096][..]].concat()),
        ("long-length".to_owned(), [&[0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1], CODE].concat()),
        ("other-facts".to_owned(), own_facts(1, &[1, 2, 3, 4, 5, 6, 7, 0, 0])),
        ("short-facts".to_owned(), own_facts(1, &[1, 2])),
        ("long-facts".to_owned(), own_facts(1, &[0xff; 40])),
        ("no-description".to_owned(), own_facts(2, &[0xff; 40])),
        ("description".to_owned(), own_facts(2, &described)),
    ]
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_body_of_artefact_cache_holds_for_its_seeds() {
        for (_, input) in super::artefact_cache_seeds() {
            super::artefact_cache(&input);
        }
    }
}
